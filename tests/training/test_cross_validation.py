"""Three folds of two tiny scans each, whose networks learn little in a few steps."""

import csv
import json
import signal

import numpy as np
import pytest
from filelock import FileLock

from p2ch13.cross_validate import main
from p2ch13.data.ct import Ct
from p2ch13.detection.detector import detect, load_detector
from p2ch13.evaluate import main as evaluate
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.predict import main as predict
from p2ch13.training import cross_validation
from tests.support.checks import refused
from tests.support.hold import start_held
from tests.support.scan_files import Ball, as_nodule, write_subsets

SCANS = {f"1.2.{ndx}": [Ball((3 + ndx % 3, 30 + ndx, 36), 5)] for ndx in range(6)}
FOLDS = {0: ["1.2.0", "1.2.3"], 1: ["1.2.1", "1.2.4"], 2: ["1.2.2", "1.2.5"]}
PROGRAM = "from p2ch13.cross_validate import main; from p2ch13.util.errors import run_command; run_command(main)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    write_subsets(folder / "luna", SCANS, 3, (8, 72, 76))
    return folder


@pytest.fixture(scope="module")
def recipe(folder):
    return [
        *("--data-dir", str(folder / "luna"), "--cache-dir", str(folder / "cache"), "--val-stride", "4"),
        *("--samples-per-epoch", "64", "--epochs", "1", "--depth", "1", "--filters", "4", "--threads", "1"),
        *("--precision", "fp32"),
    ]


@pytest.fixture(scope="module")
def output(folder, recipe):
    """The folder of a whole cross-validation."""
    assert main([*recipe, "--output", str(folder / "cv")]) == 0
    return folder / "cv"


def read_metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
def test_no_scan_is_scored_by_a_network_that_has_seen_it(output):
    for fold, tested in FOLDS.items():
        state = load_checkpoint(output / f"fold{fold}.state")
        assert state["splits"]["test"] == tested
        assert not {*state["series"]["trn"], *state["series"]["val"]}.intersection(tested)
        assert len(state["series"]["val"]) == 1
    with (output / "per_network.csv").open() as file:
        assert [(row["network"], row["scans"]) for row in csv.DictReader(file)] == [
            ("fold0", "2"), ("fold1", "2"), ("fold2", "2")
        ]  # fmt: skip
    assert read_metrics(output)["settings"]["series"] == sorted(SCANS)


@pytest.mark.slow
def test_merged_scores_are_those_of_each_folds_findings(folder, output):
    """A nodule is found if the center of a finding is less than its radius away."""
    found_count = finding_count = 0
    for fold, tested in FOLDS.items():
        detector = load_detector(output / f"fold{fold}.state")
        for series_uid in tested:
            ct = Ct(folder / "luna" / f"subset{fold}" / f"{series_uid}.mhd")
            findings = detect(ct, detector, precision="fp32").findings
            nodule = as_nodule(series_uid, SCANS[series_uid][0])
            distances = [np.linalg.norm(np.subtract(each.center_xyz, nodule.center_xyz)) for each in findings]
            found_count += any(distance < nodule.diameter_mm / 2 for distance in distances)
            finding_count += len(findings)
    metrics = read_metrics(output)
    assert metrics["nodules"]["found"] == found_count
    assert metrics["findings"]["count"] == finding_count > 0
    assert metrics["froc"]["end"]["sensitivity"] == found_count / len(SCANS)
    assert sum(each["found"] for each in metrics["networks"]) == found_count


@pytest.mark.slow
def test_evaluation_of_the_folder_gives_the_same_scores(folder, output, tmp_path):
    options = ["--data-dir", folder / "luna", "--split", "test", "--precision", "fp32", "--output", tmp_path / "out"]
    assert evaluate([*map(str, ["--checkpoint", output, *options])]) == 0
    again, metrics = read_metrics(tmp_path / "out"), read_metrics(output)
    assert {**again, "settings": None} == {**metrics, "settings": None}
    assert not (tmp_path / "out" / ".scans").exists()


@pytest.mark.slow
def test_what_is_done_is_not_repeated(recipe, output, monkeypatch):
    files = [*output.glob("*.state"), *output.glob(".scans/*.done")]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert len(before) == 9
    monkeypatch.setattr(cross_validation, "SegmentationTrainingApp", None)
    metrics = read_metrics(output)
    (output / "metrics.json").unlink()
    assert main([*recipe, "--output", str(output)]) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert read_metrics(output) == metrics


@pytest.mark.slow
def test_the_folder_is_an_ensemble(folder, output, tmp_path):
    scan = folder / "luna" / "subset0" / "1.2.0.mhd"
    assert predict([*map(str, ["--checkpoint", output, "--output", tmp_path / "out", scan])]) == 0
    report = json.loads((tmp_path / "out" / "1.2.0_report.json").read_text())
    assert len(report["networks"]) == 3


@pytest.mark.slow
def test_a_fold_that_was_killed_goes_on(recipe, tmp_path):
    """In its second epoch; and each fold in a call of its own, of which the last one merges."""
    arguments = [*recipe, "--epochs", "2", "--output", tmp_path / "cv", "--fold", "0"]
    where = "p2ch13.training.app:SegmentationTrainingApp.do_training"
    process = start_held(PROGRAM, where, tmp_path / "reached", 2, arguments)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    folder = tmp_path / "cv" / "training" / "fold0"
    (last,) = folder.glob("*.last.state")
    assert load_checkpoint(last)["epoch"] == 1
    for fold in FOLDS:
        assert not (tmp_path / "cv" / "metrics.json").exists()
        assert main([*map(str, arguments[:-1]), str(fold)]) == 0
    assert list(folder.glob("*.last.state")) == [last]
    assert load_checkpoint(last)["epoch"] == 2
    assert read_metrics(tmp_path / "cv")["scans"] == len(SCANS)


def test_a_fold_that_another_process_is_at(folder, recipe, tmp_path):
    with FileLock(tmp_path / ".locks" / "fold1"), refused(option="--fold"):
        main([*recipe, "--output", str(tmp_path), "--fold", "1"])


def test_other_options_need_another_folder(recipe, tmp_path):
    with FileLock(tmp_path / ".locks" / "fold1"), refused(option="--fold"):
        main([*recipe, "--output", str(tmp_path), "--fold", "1"])
    with refused(path=tmp_path, option="--depth"):
        main([*recipe, "--output", str(tmp_path), "--depth", "2"])
    with refused(option="--fold"):
        main([*recipe, "--output", str(tmp_path), "--fold", "7"])
