"""Findings against tables of annotations, without scans."""

import csv
import json
import math

import numpy as np
import pytest

from p2ch13.detection.findings import Finding
from p2ch13.detection.outputs import write_nodules
from p2ch13.evaluate import main as evaluate
from p2ch13.evaluation.external import read_series_file
from p2ch13.labels.candidates import read_annotations
from p2ch13.predict import main as predict
from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.logits import to_logit
from tests.conftest import SHARED
from tests.support.checks import assert_one_line, refused
from tests.support.commands import exit_status
from tests.support.networks import write_pixel_network
from tests.support.scan_files import LUNG_HU, Ball, ball_mask, write_csv, write_luna, write_scan

POSITION = ("seriesuid", "coordX", "coordY", "coordZ")
LUNA16 = SHARED / "luna16"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run evaluate in an empty folder; return its exit status and metrics.json, None if it failed."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def run(*options):
        status = exit_status(lambda: evaluate([*map(str, options), "--output", str(tmp_path / "out")]))
        return status, None if status else json.loads((tmp_path / "out" / "metrics.json").read_text())

    return run


@pytest.fixture
def tables(tmp_path):
    """Write annotations, findings, excluded and series, with UIDs that look like numbers.

    Series 10 has a nodule of 6 mm, found with 0.9. Series 1e1 has a false positive of 0.5, and one of 0.95 in an
    excluded finding.
    """
    write_csv(tmp_path / "annotations.csv", [*POSITION, "diameter_mm"], [("10", 1, 2, 3, 6)])
    rows = [("10", 1, 2, 5.9, 0.9), ("1e1", 50, 0, 0, 0.5), ("1e1", 90, 0, 4.9, 0.95)]
    write_csv(tmp_path / "findings.csv", [*POSITION, "probability"], rows)
    write_csv(tmp_path / "excluded.csv", [*POSITION, "diameter_mm"], [("1e1", 90, 0, 0, -1), ("10", 90, 0, 0, -1)])
    (tmp_path / "series.csv").write_bytes(b"10\r\n 1e1 \r\n")
    names = ("findings", "annotations", "excluded", "series")
    return {f"--{name}": tmp_path / f"{name}.csv" for name in names}


def options_of(tables):
    return [part for option in tables.items() for part in option]


def test_a_submission_by_hand(run, tables, tmp_path, capsys):
    status, metrics = run(*options_of(tables))
    assert status == 0
    assert metrics["froc"]["sensitivity"] == [1] * 7
    assert metrics["findings"] == {
        "count": 3, "irrelevant": 1, "false_positives": 1, "false_positives_per_scan": 0.5
    }  # fmt: skip
    assert (metrics["scans"], metrics["slices"], metrics["voxels"], metrics["nodules"]["count"]) == (2, None, None, 1)
    assert metrics["froc"]["end"]["false_positives_per_scan"] == 0.5
    settings = metrics["settings"]
    assert settings["series"] == ["10", "1e1"]
    assert settings["labels"] is None
    for name in ("annotations", "excluded"):
        assert settings[name] == str(tables[f"--{name}"])
    assert "not scored" not in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "metrics.json", "per_nodule.csv", "per_scan.csv", "froc.png", "report.html"
    }  # fmt: skip
    with (tmp_path / "out" / "per_scan.csv").open(newline="") as file:
        assert [(row["seriesuid"], row["slices"]) for row in csv.DictReader(file)] == [("10", ""), ("1e1", "")]


def test_scans_without_nodule_and_finding_count(run, tables):
    tables["--series"].write_text("seriesuid\n10\n1e1\n1.2.3\n1.2.4\n")
    status, metrics = run(*options_of(tables))
    assert (status, metrics["scans"], metrics["findings"]["false_positives_per_scan"]) == (0, 4, 0.25)


def test_rows_outside_the_list(run, tables, capsys):
    tables["--series"].write_text("1e1\n")
    status, metrics = run(*options_of(tables))
    printed = capsys.readouterr().out
    assert (status, metrics["nodules"]["count"], metrics["findings"]["count"]) == (0, 0, 2)
    assert "1 of 3 findings are in 1 series that are not scored" in printed
    assert "1 of 1 annotations are in 1 series that are not scored" in printed


def test_without_a_list_the_tables_series_are_scored(run, tables, capsys):
    del tables["--series"]
    status, metrics = run(*options_of(tables))
    assert (status, metrics["settings"]["series"]) == (0, ["10", "1e1"])
    status, metrics = run(*options_of(tables), "--series-uid", "10")
    assert (status, metrics["settings"]["series"]) == (0, ["10"])
    assert run(*options_of(tables), "--series-uid", "11")[0] == 2
    assert_one_line(capsys, "--series-uid", "11")
    assert run(*options_of(tables), "--val-stride", "2")[0] == 2
    assert_one_line(capsys, "--val-stride", "--series")


def test_a_folder_of_tables_alone(run, tables, tmp_path):
    """Without other options, the data folder's tables are used, even without scans."""
    tables["--excluded"].rename(tmp_path / "annotations_excluded.csv")
    options = ["--findings", tables["--findings"], "--data-dir", tmp_path]
    status, metrics = run(*options)
    assert (status, metrics["scans"], metrics["nodules"]["found"], metrics["findings"]["irrelevant"]) == (0, 2, 1, 1)
    assert metrics["settings"]["excluded"] == str(tmp_path / "annotations_excluded.csv")


def test_mistakes_end_in_one_line(run, tables, tmp_path, capsys):
    tables["--series"].write_text("7.7\n")
    assert run(*options_of(tables))[0] == 2
    assert_one_line(capsys, "findings.csv: ")
    tables["--series"].write_text("10\n1e1\n")
    for option, path in tables.items():
        assert run(*options_of({**tables, option: tmp_path / "none.csv"}))[0] == 2
        assert_one_line(capsys, "none.csv: ")
        content = path.read_bytes()
        path.write_bytes(b"\xff\xfe\x00")
        assert run(*options_of(tables))[0] == 2
        assert_one_line(capsys, f"{path.name}: ")
        path.write_bytes(content)


def test_series_files(tmp_path):
    path = tmp_path / "s.csv"
    path.write_bytes(b"\xef\xbb\xbfseriesuid\r\n007\r\n\r\n 1.20\t\r\n1.2\r\n1E5\r\n")
    assert read_series_file(path) == ["007", "1.20", "1.2", "1E5"]
    for content, line in (("1.2\n1.3\n1.2\n", 3), ("1.2,5\n", 1), ("1.2 1.3\n", 1), ("seriesuid\n\n", None)):
        path.write_text(content)
        with refused(path=path, line=line):
            read_series_file(path)


def test_annotations_of_a_file(tmp_path):
    path = write_csv(tmp_path / "a.csv", [*POSITION, "diameter_mm"], [("1.2", 1, 2, 3, 4), (" 1.3 ", 1, 2, 3, 5)])
    assert [(nodule.series_uid, nodule.diameter_mm) for nodule in read_annotations(path)] == [("1.2", 4), ("1.3", 5)]
    write_csv(path, [*POSITION, "diameter_mm"], [("1.2", 1, 2, 3, 0)])
    with refused(path=path, line=2):
        read_annotations(path)


def test_certain_findings_keep_their_rank_in_the_file(run, tmp_path):
    # p = 0.999999, 0.99999, 0.9999999 and 0.9 in one of four scans; the third hits the only nodule: it is above all.
    findings = [
        Finding("1.2", 1, XyzTuple(x, 0, 0), round(to_logit(p), 6), p, 5, 65, 0, 1)
        for x, p in ((50, 0.999999), (80, 0.99999), (0, 0.9999999), (110, 0.9))
    ]
    write_nodules(tmp_path / "nodules.csv", findings)
    annotations = write_csv(tmp_path / "annotations.csv", [*POSITION, "diameter_mm"], [("1.2", 0, 0, 0, 6)])
    (tmp_path / "series.csv").write_text("1.2\n1.3\n1.4\n1.5\n")
    options = ["--annotations", annotations, "--series", tmp_path / "series.csv"]
    _, metrics = run("--findings", tmp_path / "nodules.csv", *options)
    assert metrics["froc"]["sensitivity"] == [1] * 7
    assert metrics["froc"]["threshold_unit"] == "logit"
    assert metrics["froc"]["curve"]["threshold"] == sorted((finding.logit for finding in findings), reverse=True)
    with (tmp_path / "out" / "per_nodule.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (float(row["probability"]), float(row["logit"])) == (0.9999999, findings[2].logit)


def write_dense_balls(data_dir):
    """Four scans: two nodules with logits of 30 and 12, and a false positive of 9, see `score_both_ways`."""
    ball = Ball((8, 50, 52), 5)
    densities = {"1.2.0": 350, "1.2.1": 170, "1.2.2": 140, "1.2.3": 30}
    write_luna(data_dir, {series_uid: [ball] if ndx < 2 else [] for ndx, series_uid in enumerate(densities)})
    for series_uid, density in densities.items():
        hu = np.where(ball_mask(ball), LUNG_HU + density, LUNG_HU).astype(np.int16)
        write_scan(data_dir / "subset0" / f"{series_uid}.mhd", hu)
    return data_dir


def score_both_ways(run, tmp_path, data_dir, *search):
    """Return metrics.json of a model, and of its list of findings, with and without the scans."""
    checkpoint = write_pixel_network(tmp_path / "model.state", LUNG_HU, weight=0.1, bias=-5)
    search = ("--no-lung-mask", "--precision", "fp32", *search)
    assert predict([str(data_dir), "--checkpoint", str(checkpoint), "--output", str(tmp_path / "found"), *search]) == 0
    findings = ["--findings", tmp_path / "found" / "nodules.csv"]
    (tmp_path / "series.csv").write_text("1.2.0\n1.2.1\n1.2.2\n1.2.3\n")
    tables = ["--annotations", data_dir / "annotations.csv", "--series", tmp_path / "series.csv"]
    results = (
        run("--checkpoint", checkpoint, "--data-dir", data_dir, "--all", *search),
        run(*findings, "--data-dir", data_dir),
        run(*findings, *tables),
    )
    assert [status for status, _ in results] == [0, 0, 0]
    return [metrics for _, metrics in results]


def test_a_models_list_scores_as_the_model(run, tmp_path):
    # Logits of 9, 12 and 30 have equal probabilities in float16. Both nodules score above the false positive.
    data_dir = write_dense_balls(tmp_path / "luna")
    of_model, *of_lists = score_both_ways(run, tmp_path, data_dir)
    assert of_model["froc"]["curve"]["threshold"] == pytest.approx([30, 12, 9], rel=1e-4)
    assert np.ptp(np.float16([1 / (1 + math.exp(-logit)) for logit in (9, 12, 30)])) == 0
    assert (of_model["froc"]["sensitivity"], of_model["froc"]["cpm"]) == ([1] * 7, 1)
    for metrics in of_lists:
        assert metrics["froc"] == of_model["froc"]


def test_a_long_list_scores_as_the_model(run, tmp_path):
    # The model marks much of the noise; nodules stand out by 1.5 standard deviations, a false positive by 2.
    shape_irc = (12, 48, 52)
    scans = {f"1.2.{ndx}": [Ball((3, 12, 14), 5), Ball((8, 34, 36), 7)][: ndx % 3] for ndx in range(4)}
    data_dir = write_luna(tmp_path / "luna", scans, shape_irc)
    rng = np.random.default_rng(0)
    for series_uid, balls in scans.items():
        hu = rng.normal(LUNG_HU, 20, shape_irc)
        for ball in balls:
            hu[ball_mask(ball, shape_irc)] += 30
        if series_uid == "1.2.0":
            hu[ball_mask(Ball((6, 24, 26), 5), shape_irc)] += 40
        write_scan(data_dir / "subset0" / f"{series_uid}.mhd", hu.astype(np.int16))
    of_model, *of_lists = score_both_ways(run, tmp_path, data_dir, "--threshold", "0.2", "--min-diameter", "1.5")
    assert of_model["findings"]["count"] > 20
    assert 0 < of_model["froc"]["cpm"] < 1
    for metrics in of_lists:
        assert metrics["froc"] == of_model["froc"]
        assert metrics["findings"] == of_model["findings"]
        assert metrics["nodules"]["found"] == of_model["nodules"]["found"]


def test_a_published_submission(run, capsys):
    """DeepLung's authors print these sensitivities; see the README beside the files."""
    if not LUNA16.is_dir():
        pytest.skip(f"no files of LUNA16 in {LUNA16}")
    names = ("deeplung_dpn26.csv.gz", "annotations.csv", "annotations_excluded.csv.gz", "seriesuids.csv")
    options = zip(("--findings", "--annotations", "--excluded", "--series"), names, strict=True)
    status, metrics = run(*[part for option, name in options for part in (option, LUNA16 / name)])
    assert (status, metrics["scans"], metrics["findings"]["count"]) == (0, 888, 55677)
    assert (metrics["nodules"]["count"], metrics["nodules"]["found"]) == (1186, 1136)
    expected = [0.692, 0.769, 0.824, 0.865, 0.893, 0.917, 0.933]
    assert [round(value, 3) for value in metrics["froc"]["sensitivity"]] == expected
    assert round(metrics["froc"]["cpm"], 3) == 0.842
    for low, value, high in zip(*(metrics["froc"][f"sensitivity{end}"] for end in ("_low", "", "_high")), strict=True):
        assert low < value < high
    assert "not scored" not in capsys.readouterr().out
