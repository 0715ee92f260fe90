import io
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from p2ch13.data.datasets import Luna2dSegmentationDataset
from p2ch13.detection.colors import ANNOTATED, TRUE_POSITIVE
from p2ch13.detection.pictures import LINE_PIXELS
from p2ch13.evaluation.metrics import Scores
from p2ch13.training.tensorboard import TensorBoardReport, choose_slices
from tests.support.networks import is_dense
from tests.support.scan_files import TINY_SCANS

REPOSITORY = Path(__file__).parents[2]


def test_half_of_the_slices_hold_nodule():
    assert choose_slices(100, [40, 41, 42, 43, 44]) == [0, 40, 42, 44, 59, 99]
    assert choose_slices(100, []) == [0, 20, 40, 59, 79, 99]
    assert choose_slices(4, [1, 2]) == [0, 1, 2, 3]


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


def test_captions_and_colors_of_pictures(tmp_path, report, folders):
    dataset = Luna2dSegmentationDataset(2, True, folders=folders)
    report.log_images({"val": dataset}, is_dense, 1600, with_labels=True)
    events = read_events(tmp_path, "val")
    ball = TINY_SCANS[dataset.series_list[0]][0]
    chosen = choose_slices(*dataset.ct_cache.get_ct_sample_size(dataset.series_list[0]))
    ndx = next(ndx for ndx, slice_ndx in enumerate(chosen) if abs(slice_ndx - ball.center_irc[0]) < ball.radius)
    for kind, color in (("prediction", TRUE_POSITIVE), ("label", ANNOTATED)):
        (event,) = events.Images(f"val/0_{kind}_{ndx}")
        picture = np.asarray(PillowImage.open(io.BytesIO(event.encoded_image_string)))
        assert picture.shape == (event.height, event.width, 3)
        # The slice of 100 rows lies below its caption. 0 HU is gray 230, half of which is the color's.
        caption, overlay = picture[:-100], picture[-100:]
        assert caption.max() == 255 and (caption[..., :1] == caption).all()  # gray letters on black
        assert len(caption) > 2 * LINE_PIXELS  # wrapped
        assert overlay[ball.center_irc[1:]].tolist() == [round((230 + value) / 2) for value in color.rgb]


def test_a_full_disk_is_one_line(tmp_path):
    code = (
        "import resource; from pathlib import Path\n"
        "from p2ch13.training.tensorboard import TensorBoardReport, os_errors_of_threads_ignored\n"
        "from p2ch13.util.errors import run_command\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "def main():\n"
        f"    folder = Path({str(tmp_path)!r})\n"
        "    with os_errors_of_threads_ignored(), TensorBoardReport(folder, 'now', 'none') as report:\n"
        "        for step in range(999): report.writers['trn'].add_scalar('loss', 1.0, step)\n"
        "run_command(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'now_trn_seg_none'}: File too large\n")
