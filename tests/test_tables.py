"""CSV files as other programs save them, through the commands that read them."""

import csv
import json
import re

import pytest

from p2ch13.config import COMMANDS
from p2ch13.evaluate import main as evaluate
from p2ch13.precache import main as precache
from tests.support.checks import assert_one_line
from tests.support.commands import exit_status, run_python
from tests.support.scan_files import POSITION, TINY_SCANS, Ball, to_xyz, write_csv, write_luna

NODULES = [(uid, *to_xyz(ball.center_irc), ball.diameter_mm) for uid, balls in TINY_SCANS.items() for ball in balls]


@pytest.fixture
def data_dir(luna_dir):
    """Without the file of malignancy; six nodules in four scans, and a row of another one."""
    (luna_dir / "annotations_with_malignancy.csv").unlink()
    return luna_dir


def fill(data_dir, *options):
    """Run precache; return its exit status."""
    folders = ["--data-dir", str(data_dir), "--cache-dir", str(data_dir.parent / "cache")]
    return exit_status(lambda: precache([*folders, "--num-workers", "1", *options]))


def change(path, edit):
    path.write_bytes(edit(path.read_text()).encode())


def respell(path, name):
    text = SPELLINGS[name](path.read_text().replace("\r\n", "\n"))
    path.write_bytes(text.encode("utf-16" if name == "UTF-16" else "utf-8"))


SPELLINGS = {
    "blank behind the first UID": lambda text: text.replace(",", " ,", 5),
    "blanks behind all commas": lambda text: text.replace(",", ", "),
    "folder and suffix": lambda text: re.sub(r"(?m)^(1\.2\.\d)", r"subset0/\1.mhd", text),
    "apostrophes": lambda text: text.replace("\n1.2.", "\n'1.2."),
    "semicolons": lambda text: text.replace(",", ";"),
    "tabs": lambda text: text.replace(",", "\t"),
    "capitals": str.upper,
    "UTF-16": str,
    "blank lines": lambda text: text + "   \n,,,,\n",
    "commas at the end": lambda text: text.replace("\n", ",\n"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_precache_finds_all_nodules(data_dir, capsys, name):
    respell(data_dir / "annotations.csv", name)
    assert fill(data_dir) == 0
    assert ": 4 scans, 6 nodules, " in capsys.readouterr().out


@pytest.mark.parametrize("name", SPELLINGS)
def test_precache_finds_all_candidates(data_dir, capsys, name):
    respell(data_dir / "candidates.csv", name)
    assert fill(data_dir, "--preset", "strong") == 0
    assert "6 nodules, 8 other candidates." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["annotations.csv", "candidates.csv"])
def test_precache_of_another_data_sets_table(data_dir, capsys, name):
    change(data_dir / name, lambda text: text.replace("1.2.", "1.3."))
    assert fill(data_dir, "--preset", "strong") == 2
    assert_one_line(capsys, f"{name}: none of its", "4 scans", "'1.3.0'", "1.2.0")


def test_precache_of_a_row_that_is_there_twice(data_dir, capsys):
    change(data_dir / "annotations.csv", lambda text: text + text.splitlines()[1] + "\n")
    assert fill(data_dir) == 0
    printed = capsys.readouterr().out
    assert ": 4 scans, 6 nodules, " in printed
    assert "line 9 line 2" in printed


def test_numbers_that_lost_their_zeros(tmp_path, capsys):
    data_dir = write_luna(tmp_path / "luna", {f"{number:04}": [Ball((8, 50, 52), 5)] for number in (1, 2, 10)})
    for path in data_dir.glob("*.csv"):
        change(path, lambda text: text.replace("\n000", "\n").replace("\n00", "\n"))
    assert fill(data_dir, "--preset", "strong") == 0
    assert "3 nodules, 6 other candidates." in capsys.readouterr().out


@pytest.mark.parametrize("text", ["TRUE", "1", "0.0", "", "WAHR"])
def test_malignancy_that_a_spreadsheet_saved(luna_dir, capsys, text):
    change(luna_dir / "annotations_with_malignancy.csv", lambda each: each.replace("True", text).replace("False", text))
    assert fill(luna_dir) == 0
    assert ": 4 scans, 6 nodules, " in capsys.readouterr().out


def test_precache_without_candidates(data_dir, capsys):
    (data_dir / "candidates.csv").unlink()
    assert fill(data_dir) == 0
    assert fill(data_dir, "--preset", "strong") == 2
    assert_one_line(capsys, "candidates.csv")


def score(tmp_path, *options):
    """Evaluate a list of findings, in the first three nodules; return the exit status and the scores."""
    findings = write_csv(tmp_path / "f.csv", [*POSITION, "probability"], [(*row[:4], 0.9) for row in NODULES[:3]])
    given = [*map(str, options)]
    if "--findings" not in given:
        given += ["--findings", str(findings)]
    status = exit_status(lambda: evaluate([*given, "--output", str(tmp_path / "out")]))
    return status, None if status else json.loads((tmp_path / "out" / "metrics.json").read_text())


def counts(metrics):
    return metrics["nodules"]["count"], metrics["nodules"]["found"], metrics["findings"]["false_positives"]


@pytest.mark.parametrize("has_scans", [True, False])
@pytest.mark.parametrize("name", SPELLINGS)
def test_scores_do_not_depend_on_spelling(data_dir, tmp_path, name, has_scans):
    found = [(*row[:4], 0.9) for row in NODULES[:3]]
    annotations = write_csv(tmp_path / "a.csv", [*POSITION, "diameter_mm"], NODULES)
    findings = write_csv(tmp_path / "g.csv", [*POSITION, "probability"], [*found, ("1.2.0", 0, 0, 0, 0.5)])
    excluded = write_csv(tmp_path / "e.csv", POSITION, [("1.2.0", 0, 0, 0)])
    for path in (annotations, findings, excluded):
        respell(path, name)
    tables = ["--annotations", annotations, "--findings", findings, "--excluded", excluded]
    if has_scans:
        for options in (["--findings", findings, "--excluded", excluded, "--data-dir", data_dir], tables):
            status, metrics = score(tmp_path, *options)
            assert (status, counts(metrics)) == (0, (6, 3, 0))
    else:
        series = tmp_path / "s.csv"
        series.write_text("SeriesUID\n" + "\n".join(TINY_SCANS) + "\n1.2.9\n")
        status, metrics = score(tmp_path, *tables, "--series", series)
        assert (status, counts(metrics), metrics["scans"]) == (0, (6, 3, 0), 5)


def test_findings_that_are_there_twice_count_once(data_dir, tmp_path):
    rows = [(*row[:4], 0.9) for row in NODULES[:3]] + [("1.2.0", 0, 0, 0, 0.5)]
    findings = write_csv(tmp_path / "g.csv", [*POSITION, "probability"], [*rows, *rows])
    status, metrics = score(tmp_path, "--data-dir", data_dir, "--findings", findings)
    assert (status, counts(metrics), metrics["findings"]["count"]) == (0, (6, 3, 1), 4)


def test_tables_of_other_scans_are_refused(data_dir, tmp_path, capsys):
    other = write_csv(tmp_path / "a.csv", [*POSITION, "diameter_mm", "probability"], [("9.9", 1, 2, 3, 4, 0.5)])
    for option in ("--findings", "--excluded"):
        assert score(tmp_path, "--data-dir", data_dir, option, other)[0] == 2
        assert_one_line(capsys, "a.csv: none of its", "9.9", "1.2.0")


def test_healthy_scans_of_a_known_list_are_scored(data_dir, tmp_path, capsys):
    """Candidates of the same scans show that the table is the right one."""
    with (data_dir / "annotations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*POSITION, "diameter_mm"], ["1.9.9", 1, 2, 3, 4]])
    status, metrics = score(tmp_path, "--data-dir", data_dir)
    assert (status, counts(metrics)) == (0, (0, 0, 3))
    assert "No nodule: " in capsys.readouterr().out
    (data_dir / "candidates.csv").unlink()
    assert score(tmp_path, "--data-dir", data_dir)[0] == 2
    assert_one_line(capsys, "annotations.csv: none of its")


@pytest.mark.parametrize("name", [*COMMANDS, "phantom"])
def test_each_command_names_the_option_that_was_meant(name):
    done = run_python("-m", f"p2ch13.{name}", "--outputt", "--num_worker", "3", "--sed=1", status=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --")
    assert "there is no such option" in line
