import shutil

import pytest

from p2ch13 import download
from p2ch13.acquisition import verify
from p2ch13.acquisition.luna16 import MALIGNANCY
from tests.support.checks import assert_one_line
from tests.support.commands import exit_status, run_python
from tests.support.luna16_files import make_contents, make_table


@pytest.fixture
def luna(tmp_path):
    """A data folder without problems, and the table of its expected files."""
    contents = make_contents(tmp_path / "luna")
    (tmp_path / "luna" / "annotations.csv").write_bytes(contents["annotations.csv"])
    (tmp_path / "luna" / "candidates_V2.csv").write_text(
        "seriesuid,coordX,coordY,coordZ,class\n1.2.0,1,2,3,0\n1.2.2,1,2,3,0\n"
    )
    return tmp_path / "luna", make_table(contents)


def run(luna, *options):
    data_dir, table = luna
    return exit_status(lambda: download.main(["--verify", "--data-dir", str(data_dir), *options], table))


def problems(luna, capsys, *options):
    """Run and return the lines that report a problem."""
    capsys.readouterr()
    assert run(luna, *options) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"{len([line for line in lines if is_problem(line)])} problems." in lines[-1]
    return [line for line in lines if is_problem(line)]


def is_problem(line):
    return not any(text in line for text in (" readable scans ", " nodules."))


def test_no_problems(luna, capsys):
    assert run(luna) == 0
    output, bar = capsys.readouterr()
    assert "Verifying: 100%" in bar
    assert "subset0: 2 of 2 scans, 2 nodules." in output
    assert "subset1: 1 of 1 scans, 1 nodules." in output
    assert "3 readable scans with 3 of 3 annotated nodules; 0 problems." in output
    assert not list(luna[0].rglob(".*"))


def test_broken_scans_are_listed(luna, capsys):
    folder = luna[0] / "subset0"
    (folder / "1.2.0.raw").write_bytes(b"short")
    (folder / "1.2.1.raw").unlink()
    (luna[0] / "subset1" / "1.2.2.mhd").write_text("hello\n")
    lines = problems(luna, capsys)
    assert "1.2.0.raw: 5 bytes, but 1.2.0.mhd claims 92,160" in lines[0]
    assert "1.2.1.mhd: " in lines[1]
    assert "1.2.2.mhd" in lines[2]


def test_missing_scans_are_counted(luna, capsys):
    (luna[0] / "subset0" / "1.2.0.mhd").unlink()
    lines = problems(luna, capsys)
    assert "1.2.0.raw: its header 1.2.0.mhd is missing" in lines[0]
    assert "subset0: 1 of 2 scans are missing" in lines[1]
    assert "2 nodules are annotated in series 1.2.0" in lines[2]
    (luna[0] / "subset0" / "1.2.0.raw").unlink()
    assert "subset0: 1 of 2 scans are missing" in problems(luna, capsys)[0]


def test_one_subset_is_enough(luna, capsys):
    shutil.rmtree(luna[0] / "subset0")
    assert run(luna) == 0
    assert "1 readable scans with 1 of 3 annotated nodules; 0 problems. Not verified: subset0." in (
        capsys.readouterr().out
    )
    assert run(luna, "--subset", "1") == 0
    assert "subset0: 2 of 2 scans are missing" in problems(luna, capsys, "--subset", "0")[0]


def test_one_series_twice(luna, capsys):
    for suffix in ("mhd", "raw"):
        shutil.copy(luna[0] / "subset0" / f"1.2.0.{suffix}", luna[0] / "subset1")
    assert "subset1/1.2.0.mhd: " in problems(luna, capsys)[0]


def test_csv_files(luna, capsys):
    path = luna[0] / "annotations.csv"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"1.2.2,", b"1.2.0,"))
    assert "annotations.csv: 3 rows of 1 series" in problems(luna, capsys)[0]
    path.write_bytes(whole[:-2] + b",x\r\n")
    assert "annotations.csv, line 4: " in problems(luna, capsys)[0]
    path.unlink()
    assert "annotations.csv: " in problems(luna, capsys)[0]
    path.write_bytes(whole)
    (luna[0] / MALIGNANCY.name).write_text("seriesuid,coordX\n")
    assert f"{MALIGNANCY.name}: " in problems(luna, capsys)[0]


def test_the_first_list_of_candidates_is_enough(luna, capsys, monkeypatch):
    (luna[0] / "candidates_V2.csv").rename(luna[0] / "candidates.csv")
    assert "candidates.csv: 2 rows of 2 series" in problems(luna, capsys)[0]
    monkeypatch.setattr(verify, "CANDIDATES", verify.CsvFacts("candidates.csv", verify.CANDIDATES.columns, 2))
    assert run(luna) == 0


def test_no_folder_and_nothing_in_it(luna, tmp_path, capsys):
    assert run((tmp_path / "nowhere", luna[1])) == 2
    assert_one_line(capsys, "nowhere: ", "--data-dir")
    (tmp_path / "empty").mkdir()
    assert run((tmp_path / "empty", luna[1])) == 2
    assert_one_line(capsys, "empty: ", "--data-dir")


def test_real_ct(luna_sample):
    """Three readable scans of two subsets whose other scans are missing."""
    done = run_python("-m", "p2ch13.download", "--verify", "--data-dir", luna_sample, status=None)
    assert done.returncode == 1
    assert "subset0: 87 of 89 scans are missing" in done.stdout
    assert "3 readable scans with 8 of 1193 annotated nodules" in done.stdout
