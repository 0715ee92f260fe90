import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from p2ch13.data.datasets import Luna2dSegmentationDataset
from p2ch13.detection.pictures import draw_findings, draw_nodules, draw_overlay, enlarge, write_png
from p2ch13.evaluation.metrics import Scores
from p2ch13.training.tensorboard import TensorBoardReport, choose_slices

REPOSITORY = Path(__file__).parents[2]


def is_dense(ct_slices: torch.Tensor) -> torch.Tensor:
    """A predictor that finds every ball of the tiny scans."""
    return ct_slices[:, 3:4] > -700


def test_colors_by_hand():
    hu = np.array([[-1350.0, -600.0, 150.0, -3024.0], [-600.0, -600.0, -600.0, 3000.0]])
    predicted = np.array([[0, 0, 0, 0], [1, 0, 1, 0]], dtype=bool)
    label = np.array([[0, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
    picture = draw_overlay(hu, predicted, label)
    assert picture[0].tolist() == [[0, 0, 0], [128, 128, 128], [255, 255, 255], [0, 0, 0]]
    # Half way from gray 128 to green, orange and red.
    assert picture[1, :3].tolist() == [[64, 192, 64], [192, 128, 64], [192, 64, 64]]
    assert picture[1, 3].tolist() == [255, 255, 255]


def test_half_of_the_slices_hold_nodule():
    assert choose_slices(100, [40, 41, 42, 43, 44]) == [0, 40, 42, 44, 59, 99]
    assert choose_slices(100, []) == [0, 20, 40, 59, 79, 99]
    assert choose_slices(4, [1, 2]) == [0, 1, 2, 3]


def test_enlarge_puts_the_place_in_the_middle():
    picture = np.zeros((10, 12, 3), dtype=np.uint8)
    picture[1, 11] = 255
    enlarged = enlarge(picture, 1, 11, size=8, factor=2)
    assert enlarged.shape == (16, 16, 3)
    assert np.argwhere(enlarged[..., 0]).tolist() == [[8, 8], [8, 9], [9, 8], [9, 9]]


def test_findings_show_a_nodule_in_each_row(folders):
    picture = draw_findings(Luna2dSegmentationDataset(2, True, folders=folders), is_dense)
    # Two validation series; three pictures side by side, the enlarged ones of 512 x 512.
    assert picture.shape == (2 * 512, 3 * 512, 3)
    assert picture[256, 512 + 256].tolist() == [230, 230, 230]  # 0 HU is 90% of the way to white
    assert picture[256, 1024 + 256].tolist() == [115, 242, 115]  # found: half green
    assert picture[50, 52].tolist() == [115, 242, 115]


def test_nodules_show_the_slice_that_has_most_of_each():
    hu = np.full((5, 40, 44), -1350, dtype=np.int16)
    labels = np.zeros(hu.shape, dtype=np.int32)
    labels[1:3, 10:13, 20:23] = 1
    labels[2, 13, 21] = 1
    labels[4, 30:33, 5:8] = 2
    picture = draw_nodules(hu, labels, [2, 1])
    assert picture.shape == (2 * 512, 3 * 512, 3)
    green, black = [0, 128, 0], [0, 0, 0]
    assert picture[31, 6].tolist() == green
    assert picture[11, 21].tolist() == black  # of another slice
    assert picture[256, 512 + 256].tolist() == black  # enlarged, as the scanner saw it
    assert picture[256, 1024 + 256].tolist() == green
    assert picture[512 + 13, 21].tolist() == green  # slice 2
    assert picture[512 + 256, 1024 + 256].tolist() == green


def test_without_nodules_the_middle_slice_is_shown():
    hu = np.full((5, 4, 6), -1350, dtype=np.int16)
    hu[2] = 150
    assert (draw_nodules(hu, np.zeros(hu.shape, dtype=np.int32), []) == 255).all()


def test_write_png(tmp_path):
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    write_png(tmp_path / "pictures" / "a.png", picture)
    np.testing.assert_array_equal(np.asarray(PillowImage.open(tmp_path / "pictures" / "a.png")), picture)


@pytest.fixture
def report(tmp_path):
    with TensorBoardReport(tmp_path / "runs", "now", "test") as report:
        yield report


def read_events(tmp_path, mode):
    events = EventAccumulator(str(tmp_path / "runs" / f"now_{mode}_seg_test"), size_guidance={"images": 0})
    return events.Reload()


def read_scalars(tmp_path, report, mode):
    """Tag -> its steps and values."""
    report.writers[mode].flush()
    events = read_events(tmp_path, mode)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_scalars_under_the_books_names(tmp_path, report):
    report.log_scores("val", Scores.from_counts(0.5, 0.5, 6, 2, 18), 1600)
    report.log_scores("val", Scores.from_counts(0.4, 0.5, 0, 0, 18), 3200)  # nothing to find: a loss alone
    values = read_scalars(tmp_path, report, "val")
    assert values["loss/all"] == [(1600, 0.5), (3200, pytest.approx(0.4))]
    assert values["pr/recall"] == [(1600, 0.75)]
    assert {tag: points[0][1] for tag, points in values.items()} == {
        "loss/all": 0.5, "percent_all/tp": 75.0, "percent_all/fn": 25.0, "percent_all/fp": 225.0,
        "pr/precision": 0.25, "pr/recall": 0.75, "pr/f1_score": 0.375, "pr/dice": 0.5,
    }  # fmt: skip


def test_scalars_of_all_validation_slices(tmp_path, report):
    of_all = Scores.from_counts(0.5, 0.25, 6, 2, 42, slice_f1=0.125)
    report.log_scores("val", replace(Scores.from_counts(0.5, 0.5, 6, 2, 18), of_all=of_all), 1600)
    values = read_scalars(tmp_path, report, "val")
    assert {tag: value for tag, ((_, value),) in values.items() if tag.startswith("pr")} == {
        "pr/precision": 0.25, "pr/recall": 0.75, "pr/f1_score": 0.375, "pr/dice": 0.5,
        "pr_all/precision": 0.125, "pr_all/recall": 0.75, "pr_all/f1_score": pytest.approx(12 / 56),
        "pr_all/dice": 0.25, "pr_all/slice_f1": 0.125,
    }  # fmt: skip


def test_the_learning_rate(tmp_path, report):
    report.log_scores("trn", Scores.from_counts(0.5, 0.5, 6, 2, 18), 1600, learning_rate=0.0625)
    assert read_scalars(tmp_path, report, "trn")["learning_rate"] == [(1600, 0.0625)]


def test_what_an_interrupted_run_has_left_is_not_shown(tmp_path, report):
    for steps in (64, 128):
        report.log_scores("val", Scores.from_counts(0.5, 0.5, 6, 2, 18), steps)
    time.sleep(1.1)  # files of one process and second are read in the order of the digits in their names: 10 before 9
    with TensorBoardReport(tmp_path / "runs", "now", "test", first_step=65) as resumed:
        resumed.log_scores("val", Scores.from_counts(0.3, 0.5, 6, 2, 18), 128)
    assert read_scalars(tmp_path, report, "val")["loss/all"] == [(64, 0.5), (128, pytest.approx(0.3))]


def test_pictures_of_every_series(tmp_path, report, folders):
    dataset = Luna2dSegmentationDataset(2, True, folders=folders)
    report.log_images({"val": dataset}, is_dense, 1600, with_labels=True)
    report.log_images({"val": dataset}, is_dense, 3200, with_labels=False)
    events = read_events(tmp_path, "val")
    kinds = ("0_prediction", "0_label", "1_prediction", "1_label")
    assert set(events.Tags()["images"]) == {f"val/{kind}_{ndx}" for kind in kinds for ndx in range(6)}
    assert [event.step for event in events.Images("val/0_prediction_0")] == [1600, 3200]
    assert [event.step for event in events.Images("val/0_label_0")] == [1600]
    assert (events.Images("val/0_label_0")[0].height, events.Images("val/0_label_0")[0].width) == (100, 104)


def test_a_full_disk_is_one_line(tmp_path):
    code = (
        "import resource; from pathlib import Path; from p2ch13.training.tensorboard import TensorBoardReport\n"
        "from p2ch13.util.errors import run_command\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "def main():\n"
        f"    with TensorBoardReport(Path({str(tmp_path)!r}), 'now', 'none') as report:\n"
        "        for step in range(999): report.writers['trn'].add_scalar('loss', 1.0, step)\n"
        "run_command(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'now_trn_seg_none'}: File too large\n")
