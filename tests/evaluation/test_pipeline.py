import csv
import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from p2ch13.detection import detector
from p2ch13.evaluate import main
from p2ch13.evaluation.report import format_table
from p2ch13.network.checkpoint import load_checkpoint, save_checkpoint
from p2ch13.network.model import BOOK_MODEL, UNetWrapper
from p2ch13.util.logits import to_logit
from tests.support.checks import assert_one_line
from tests.support.commands import exit_status
from tests.support.hold import start_held
from tests.support.networks import make_finding_scorer, write_two_stages
from tests.support.scan_files import SHAPE_IRC, TINY_SCANS, ball_mask, to_xyz, write_csv, write_luna, write_scan
from tests.support.web_pages import assert_stands_alone

SUBMISSION = ["seriesuid", "coordX", "coordY", "coordZ", "probability"]
VALIDATION = ("1.2.0", "1.2.2")  # with a stride of 2; three nodules


@pytest.fixture
def evaluation(folders, tmp_path):
    """Run the command line in this process on the tiny scans; return its exit status."""

    def run(*options):
        arguments = ["--data-dir", folders.data_dir, "--output", tmp_path / "out", *options]
        return exit_status(lambda: main([*map(str, arguments)]))

    return run


@pytest.fixture
def mask_dir(tmp_path):
    """Write masks of both validation series: both nodules of 1.2.0; in 1.2.2 a false positive of 27 voxels."""
    nodules = sum(ball_mask(ball) for ball in TINY_SCANS["1.2.0"])
    false_positive = np.zeros(SHAPE_IRC, dtype=bool)
    false_positive[1:4, 10:13, 90:93] = True
    for series_uid, mask in zip(VALIDATION, (nodules, false_positive), strict=True):
        write_scan(tmp_path / "masks" / f"{series_uid}_mask.nii.gz", mask.astype(np.uint8))
    return tmp_path / "masks"


@pytest.fixture
def checkpoint(tmp_path):
    """Save an untrained model of a run with a stride of 2."""
    torch.manual_seed(0)
    state = {"model_state": UNetWrapper(**BOOK_MODEL).state_dict(), "config": {"val_stride": 2}}
    save_checkpoint(tmp_path / "model.best.state", state)
    return tmp_path / "model.best.state"


def read_metrics(tmp_path):
    return json.loads((tmp_path / "out" / "metrics.json").read_text())


def read_table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_masks_from_the_shell(folders, tmp_path, mask_dir):
    command = [sys.executable, "-m", "p2ch13.evaluate", "--mask", str(mask_dir), "--val-stride", "2"]
    command += ["--data-dir", str(folders.data_dir)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "data/evaluation/masks" in done.stdout
    written = {path.name for path in (tmp_path / "data" / "evaluation" / "masks").iterdir()}
    assert written == {
        "metrics.json", "per_nodule.csv", "per_scan.csv", "froc.png", "worst_nodules.png", "worst_false_alarms.png",
        "report.html",
    }  # fmt: skip

    # The numbers by hand. Label masks are the balls; one of three is missed; one false positive has 27 voxels.
    found = sum(int(ball_mask(ball).sum()) for ball in TINY_SCANS["1.2.0"])
    missed = int(ball_mask(TINY_SCANS["1.2.2"][0]).sum())
    precision, recall, dice = found / (found + 27), found / (found + missed), 2 * found / (2 * found + missed + 27)
    assert f"| all scans as one               |     {precision:.3f} |  {recall:.3f} | {dice:.3f} |" in done.stdout
    # All findings have a probability of 1: a single point at 0.5 false positives per scan, sensitivity 2/3.
    froc = "| sensitivity              | 0.167 | 0.333 | 0.667 | 0.667 | 0.667 | 0.667 | 0.667 | 0.548 |"
    assert froc in done.stdout


def test_what_is_written(evaluation, tmp_path, mask_dir):
    assert evaluation("--mask", mask_dir, "--val-stride", "2") == 0
    metrics = read_metrics(tmp_path)
    assert metrics["format_version"] == 2
    assert metrics["settings"]["mask"] == str(mask_dir)
    assert metrics["settings"]["series"] == list(VALIDATION)
    assert metrics["settings"]["threshold"] is None
    assert metrics["skipped"] == {}
    assert metrics["nodules"] == {
        "count": 3, "found": 2, "recall": pytest.approx(2 / 3), "touched": 2, "mean_dice": pytest.approx(2 / 3),
        "mean_dice_low": 0, "mean_dice_high": 1,  # one scan, or the other
        "outlined": 0, "mean_inter_reader_dice": None, "mean_dice_with_readers": None
    }  # fmt: skip
    assert metrics["voxels"]["false_positives_per_slice"] == 27 / 32
    assert metrics["findings"]["false_positives_per_scan"] == 0.5
    assert metrics["froc"]["threshold_unit"] == "probability"

    nodules = read_table(tmp_path / "out" / "per_nodule.csv")
    assert [(row["seriesuid"], row["found"], row["probability"], row["dice"]) for row in nodules] == [
        ("1.2.0", "True", "1.0", "1.0"),
        ("1.2.0", "True", "1.0", "1.0"),
        ("1.2.2", "False", "", "0.0"),
    ]
    scans = read_table(tmp_path / "out" / "per_scan.csv")
    assert [(row["nodules"], row["found"], row["false_positives"], row["voxels_fp"]) for row in scans] == [
        ("2", "2", "0", "0"),
        ("1", "0", "1", "27"),
    ]


def test_a_mask_of_another_geometry_is_skipped(evaluation, tmp_path, mask_dir, capsys):
    path = mask_dir / "1.2.2_mask.nii.gz"
    image = sitk.ReadImage(str(path))
    image.SetSpacing((0.7, 0.7, 2.0))
    sitk.WriteImage(image, str(path))
    assert evaluation("--mask", mask_dir, "--val-stride", "2") == 1
    assert f"Skipped: {path}: " in capsys.readouterr().out
    assert list(read_metrics(tmp_path)["skipped"]) == ["1.2.2"]
    assert evaluation("--mask", mask_dir, "--series-uid", "1.2.2") == 2
    assert_one_line(capsys, "1.2.2_mask.nii.gz: ")


def test_findings_replace_those_of_the_mask(evaluation, tmp_path, mask_dir):
    center_xyz = to_xyz(TINY_SCANS["1.2.2"][0].center_irc)
    findings = write_csv(tmp_path / "f.csv", SUBMISSION, [("1.2.2", *center_xyz, 0.75), ("9.9", 0, 0, 0, 0.5)])
    assert evaluation("--mask", mask_dir, "--findings", findings, "--val-stride", "2") == 0
    rows = read_table(tmp_path / "out" / "per_nodule.csv")
    assert [(row["found"], row["probability"], row["dice"]) for row in rows] == [
        ("False", "", "1.0"), ("False", "", "1.0"), ("True", "0.75", "0.0")
    ]  # fmt: skip


def test_findings_are_scored_in_all_scans(evaluation, tmp_path, capsys):
    rows = [(series_uid, *to_xyz(balls[0].center_irc), 0.5) for series_uid, balls in TINY_SCANS.items()]
    findings = write_csv(tmp_path / "f.csv", SUBMISSION, [*rows, ("9.9", 0, 0, 0, 0.5), ("9.9", 1, 0, 0, 0.5)])
    assert evaluation("--findings", findings) == 0
    metrics = read_metrics(tmp_path)
    assert (metrics["scans"], metrics["slices"], metrics["nodules"]["found"]) == (4, 64, 4)
    assert "2 of 6 findings are in 1 series that are not scored" in capsys.readouterr().out


def test_findings_alone(evaluation, tmp_path, folders, capsys):
    ball = TINY_SCANS["1.2.0"][0]
    rows = [("1.2.0", *to_xyz(ball.center_irc), 0.75), ("1.2.2", 900, 900, 900, 0.5), ("1.2.2", *to_xyz((1, 5, 5)), 1)]
    findings = write_csv(tmp_path / "mine.csv", SUBMISSION, rows)
    assert evaluation("--findings", findings, "--val-stride", "2") == 0
    metrics = read_metrics(tmp_path)
    assert metrics["voxels"] is None
    assert metrics["froc"]["curve"] == {
        "false_positives_per_scan": [0.5, 0.5, 1.0], "sensitivity": [0, 1 / 3, 1 / 3], "threshold": [1, 0.75, 0.5]
    }  # fmt: skip
    assert "voxels" not in capsys.readouterr().out

    # A finding far outside its scan is a false positive, unless it lies in an excluded finding.
    write_csv(folders.data_dir / "annotations_excluded.csv", SUBMISSION[:4], [("1.2.2", 900, 903, 900)])
    assert evaluation("--findings", findings, "--val-stride", "2") == 0
    metrics = read_metrics(tmp_path)
    assert metrics["findings"] == {
        "count": 3, "irrelevant": 1, "false_positives": 1, "false_positives_per_scan": 0.5
    }  # fmt: skip
    assert metrics["settings"]["excluded"].endswith("annotations_excluded.csv")


def test_a_checkpoint(evaluation, tmp_path, checkpoint, capsys):
    assert evaluation("--checkpoint", checkpoint, "--no-lung-mask", "--threshold", "0.25", "--min-diameter", "5") == 0
    printed = capsys.readouterr().out  # where the curve ends
    assert "0.25 (--threshold)" in printed and "5 mm (--min-diameter)" in printed
    settings = read_metrics(tmp_path)["settings"]
    assert settings["series"] == list(VALIDATION)  # of the run's own split
    assert settings["checkpoint"] == [str(checkpoint)]
    assert [settings[key] for key in ("threshold", "min_diameter", "lung_mask", "tta")] == [0.25, 5, False, False]


def test_options_reach_the_search(evaluation, tmp_path, checkpoint, monkeypatch):
    calls = []

    def segment(ct, model, **options):
        calls.append((ct.series_uid, {name: options[name] for name in ("lung_mask", "tta", "precision", "threads")}))
        return np.where(ct.hu > -700, to_logit(0.75), to_logit(0.25)).astype(np.float32)

    monkeypatch.setattr(detector, "segment", segment)
    assert evaluation("--checkpoint", checkpoint, "--all", "--tta") == 0
    (threads,) = {options.pop("threads") for _, options in calls}  # one tuner for all scans
    assert threads.counts == (1,)
    assert calls == [(series_uid, {"lung_mask": True, "tta": True, "precision": "auto"}) for series_uid in TINY_SCANS]
    metrics = read_metrics(tmp_path)
    assert (metrics["voxels"]["dice"], metrics["nodules"]["recall"], metrics["froc"]["cpm"]) == (1, 1, 1)
    assert not (tmp_path / "out" / "worst_false_alarms.png").exists()
    assert evaluation("--checkpoint", checkpoint, "--all", "--threshold", "0.2") == 0  # all of every scan
    assert read_metrics(tmp_path)["nodules"]["touched"] == 6
    assert (tmp_path / "out" / "worst_false_alarms.png").exists()


@pytest.mark.parametrize(
    ("name", "options", "series", "trained", "selected"),
    [
        ("best", ["--all"], list(TINY_SCANS), "2 of these 4", "1 of these 4"),
        ("best", [], ["1.2.0"], None, "1 of these 1"),  # the run's validation series on disk
        ("last", [], ["1.2.0"], None, None),
        ("best", ["--series-uid", "1.2.1"], ["1.2.1"], "1 of these 1", None),
        ("best", ["--series-uid", "1.2.3"], ["1.2.3"], None, None),
    ],
)
def test_a_warning_of_scans_that_made_the_model(
    evaluation, tmp_path, checkpoint, capsys, name, options, series, trained, selected
):
    """Those that it was trained on, or selected on as its run's best."""
    state = load_checkpoint(checkpoint)
    state["series"] = {"trn": ["1.2.1", "1.2.2"], "val": ["1.2.0", "1.2.9"]}
    path = checkpoint.with_name(f"model.{name}.state")
    save_checkpoint(path, state)
    assert evaluation("--checkpoint", path, "--no-lung-mask", *options) == 0
    said = dict(re.findall(r"was (trained|selected) on (\d of these \d) scans", capsys.readouterr().out))
    assert (said.get("trained"), said.get("selected")) == (trained, selected)
    assert read_metrics(tmp_path)["settings"]["series"] == series


def test_the_default_labels_are_the_checkpoints(evaluation, tmp_path, checkpoint):
    state = load_checkpoint(checkpoint)
    state["config"] |= {"labels": "refined", "threshold_hu": -650}
    save_checkpoint(checkpoint, state)
    for options, kind, threshold_hu in (
        ([], "refined", -650),
        (["--threshold-hu", "-500"], "refined", -500),
        (["--labels", "box"], "box", None),
    ):
        assert evaluation("--checkpoint", checkpoint, "--no-lung-mask", *options) == 0
        labels = read_metrics(tmp_path)["settings"]["labels"]
        assert (labels["kind"], labels["threshold_hu"]) == (kind, threshold_hu)


def test_an_unreadable_scan_is_skipped(evaluation, folders, tmp_path, checkpoint, capsys):
    (folders.data_dir / "subset0" / "1.2.2.raw").write_bytes(b"short")
    assert evaluation("--checkpoint", checkpoint, "--no-lung-mask") == 1
    assert "Skipped: " in capsys.readouterr().out
    assert "1.2.2.raw: " in read_metrics(tmp_path)["skipped"]["1.2.2"]


def test_annotations_and_series_of_other_files(evaluation, folders, tmp_path, mask_dir):
    """They replace the data folder's, which may have none."""
    for name in ("annotations.csv", "annotations_with_malignancy.csv"):
        (folders.data_dir / name).unlink()
    ball = TINY_SCANS["1.2.0"][0]
    row = ("1.2.0", *to_xyz(ball.center_irc), ball.diameter_mm)
    annotations = write_csv(tmp_path / "a.csv", [*SUBMISSION[:4], "diameter_mm"], [row])
    (tmp_path / "s.csv").write_text("1.2.2\n1.2.0\n")
    assert evaluation("--mask", mask_dir, "--annotations", annotations, "--series", tmp_path / "s.csv") == 0
    metrics = read_metrics(tmp_path)
    assert metrics["settings"]["annotations"] == str(annotations)
    assert metrics["settings"]["series"] == ["1.2.0", "1.2.2"]
    assert (metrics["nodules"]["count"], metrics["nodules"]["found"]) == (1, 1)
    assert metrics["findings"]["false_positives"] == 2  # the ball without annotation, and the false positive


def test_one_scan_has_no_interval(evaluation, tmp_path, mask_dir, capsys):
    assert evaluation("--mask", mask_dir, "--series-uid", "1.2.0") == 0
    froc = read_metrics(tmp_path)["froc"]
    assert (froc["cpm"], froc["cpm_low"], froc["cpm_high"]) == (1, None, None)
    assert froc["sensitivity_low"] == froc["sensitivity_high"] == [None] * 7
    printed = capsys.readouterr().out
    assert "| sensitivity " not in printed and "CPM (" not in printed and "CI" not in printed
    assert not (tmp_path / "out" / "froc.png").exists()
    assert evaluation("--mask", mask_dir, "--val-stride", "2") == 0
    assert read_metrics(tmp_path)["froc"]["cpm_low"] is not None
    assert "| 95% CI, lower " in capsys.readouterr().out


def test_the_page_holds_the_scores_and_only_this_evaluations(evaluation, tmp_path, mask_dir):
    assert evaluation("--mask", mask_dir, "--val-stride", "2") == 0
    assert (tmp_path / "out" / "worst_false_alarms.png").exists()
    page = assert_stands_alone((tmp_path / "out" / "report.html").read_text())
    metrics = read_metrics(tmp_path)
    assert page.texts["strong"][1] == "2 of 3 nodules (67%) are found in 2 scans, with 0.50 false positives a scan."
    assert "{cpm:.3f}, 95% confidence interval {cpm_low:.3f} to {cpm_high:.3f}.".format(**metrics["froc"]) in page.text
    cells = {row[0]: row[1:] for rows in page.tables for row in rows}
    for name, key in (("sensitivity", ""), ("95% CI, lower", "_low"), ("95% CI, upper", "_high")):
        values = [*metrics["froc"][f"sensitivity{key}"], metrics["froc"][f"cpm{key}"]]
        assert cells[name] == [f"{value:.3f}" for value in values]
    assert (cells["1.2.0"][1:4], cells["1.2.2"][1:4]) == (["2", "0", "0"], ["1", "1", "1"])

    # Pictures of an earlier evaluation are removed, and nothing else.
    (tmp_path / "out" / "mine.txt").write_text("")
    assert evaluation("--mask", mask_dir, "--series-uid", "1.2.0") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "worst_false_alarms.png" not in names and {"worst_nodules.png", "report.html", "mine.txt"} <= names


def test_no_nodule_at_all(evaluation, tmp_path, mask_dir):
    data_dir = write_luna(tmp_path / "empty", {"1.2.0": []})
    assert evaluation("--data-dir", data_dir, "--mask", mask_dir) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["froc"]["cpm"] is None
    assert metrics["findings"]["false_positives"] == 2
    assert not (tmp_path / "out" / "froc.png").exists()


def test_mistakes_end_in_one_line(evaluation, tmp_path, mask_dir, capsys):
    findings = write_csv(tmp_path / "f.csv", SUBMISSION, [("9.9", 0, 0, 0, 0.5)])
    series, file = tmp_path / "series.csv", tmp_path / "file"
    series.write_text("1.2.0\n7.7\n7.8\n")
    file.write_text("")
    for options, *parts in (
        (["--checkpoint", tmp_path / "none.state"], "none.state: "),
        (["--mask", tmp_path / "nowhere"], "nowhere: ", "--mask"),
        (["--mask", mask_dir, "--series-uid", "7.7"], "7.7"),
        (["--findings", findings], "f.csv: "),
        (["--mask", mask_dir, "--excluded", tmp_path / "none.csv"], "none.csv: "),
        (["--mask", mask_dir, "--annotations", tmp_path / "none.csv"], "none.csv: "),
        (["--mask", mask_dir, "--series", series], "series.csv: ", "7.7"),
        (["--mask", mask_dir, "--data-dir", tmp_path / "no-data"], "no-data: "),
        (["--mask", mask_dir, "--output", file / "out"], "out: ", "--output"),
    ):
        assert evaluation(*options) == 2
        assert_one_line(capsys, *parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "a.state", "--mask", "b"], "no --mask and no --findings with it"),
        (["--mask", "b", "--threshold", "1.5"], "argument --threshold: "),
        (["--mask", "b", "--min-diameter", "-1"], "argument --min-diameter: "),
        (["--mask", "b", "--all", "--val-stride", "3"], "not allowed with argument"),
        (["--mask", "b", "--series", "s.csv", "--val-stride", "3"], "not allowed with argument"),
    ],
)
def test_mistyped_options(options, message, capsys):
    assert exit_status(lambda: main(options)) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_leaves_nothing_half_done(folders, tmp_path, checkpoint):
    program = "from p2ch13.evaluate import main; from p2ch13.util.errors import run_command; run_command(main)"
    options = ["--checkpoint", checkpoint, "--all", "--no-lung-mask", "--data-dir", folders.data_dir]
    options += ["--output", tmp_path / "out"]
    process = start_held(program, "p2ch13.network.model:UNetWrapper.logits", tmp_path / "reached", 20, options)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".scans"]  # of scans that are done
    assert not list((tmp_path / "out").glob(".scans/*.begun"))


def test_tables_are_markdown():
    assert format_table([["a", "long"], ["bcd", "1"]]) == "| a   | long |\n| --- | ---: |\n| bcd |    1 |"


def test_both_stages(evaluation, tmp_path, capsys):
    """The calibrated logit is the first stage's: of the balls, at 0 HU, 2; of lung -6.5."""
    scorer = make_finding_scorer(default=0.7)
    path = write_two_stages(tmp_path / "two.state", -850, scorer, weight=0.01, bias=-6.5)
    options = ["--checkpoint", path, "--no-lung-mask", "--all", "--precision", "fp32"]
    assert evaluation(*options) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["operating_point"] == {
        "threshold": 0.7, "found": 6, "sensitivity": 1.0, "false_positives": 0, "false_positives_per_scan": 0.0
    }  # fmt: skip
    assert metrics["settings"]["threshold"] == 0.7
    assert (metrics["calibration"]["after"]["findings"], metrics["calibration"]["after"]["nodules"]) == (6, 6)
    assert metrics["calibration"]["after"]["ece"] == pytest.approx(1 - 1 / (1 + math.exp(-2)), abs=1e-4)
    assert "| after, of findings shown |" in capsys.readouterr().out
    # Above the findings' probability of 0.88 none is shown, and the curve stays.
    assert evaluation(*options, "--threshold", "0.9") == 0
    higher = read_metrics(tmp_path)
    assert (higher["operating_point"]["found"], higher["voxels"]["true_positives"]) == (0, 0)
    assert higher["froc"] == metrics["froc"]
    assert higher["calibration"]["after_shown"]["ece"] is None
    assert evaluation(*options, "--threshold", "sensitive") == 0
    assert read_metrics(tmp_path)["settings"]["threshold"] == 0.175
    assert evaluation(*options, "--no-second-stage") == 0
    first = read_metrics(tmp_path)
    assert (first["operating_point"], first["calibration"], first["settings"]["threshold"]) == (None, None, 0.5)
    assert first["voxels"] == metrics["voxels"]


def test_a_list_of_findings_beside_masks_is_pointed_at(evaluation, mask_dir, tmp_path, capsys):
    (mask_dir / "nodules.csv").write_text("seriesuid,coordX,coordY,coordZ,probability\n")
    assert evaluation("--mask", mask_dir, "--val-stride", "2") == 0
    assert f"--findings {mask_dir / 'nodules.csv'}" in capsys.readouterr().out
