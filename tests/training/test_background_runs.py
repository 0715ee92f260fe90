"""Runs with backgrounds: stopped, resumed, with other backgrounds, and those of earlier versions."""

import os
import signal

import pytest
import torch

from p2ch13.network.checkpoint import load_checkpoint, save_checkpoint
from p2ch13.training import background_samples
from p2ch13.training import learner as learner_module
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.backgrounds import read_backgrounds
from p2ch13.util.errors import Stopped
from tests.support.background_files import LUNG_IRC, write_backgrounds, write_lesions
from tests.support.checks import refused
from tests.training.test_resume import assert_same_state, stop_in

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="bit for bit on a CPU")


@pytest.fixture
def lungs(tmp_path):
    folder = write_backgrounds(tmp_path / "lungs")
    write_lesions(folder, [("a", LUNG_IRC, 12.0)])
    return folder


@pytest.fixture
def run_options(data_options, lungs):
    return [
        *(*data_options, "--preset", "strong", "--depth", "1", "--epochs", "2", "--samples-per-epoch", "20"),
        *("--precision", "fp32", "--threads", "1", "--lr-schedule", "constant", "--backgrounds", str(lungs)),
    ]


@pytest.fixture
def early_scoring(monkeypatch):
    """Hard places from the first step on."""
    monkeypatch.setattr(background_samples, "FIRST_SCORED", 0)
    monkeypatch.setattr(background_samples, "SLICE_SAMPLES", 2)
    monkeypatch.setattr(background_samples, "LEAST_LOGIT", -100.0)


def folders_of(path):
    return ["--models-dir", str(path / "models"), "--runs-dir", str(path / "runs")]


def test_a_stopped_and_resumed_run_is_bit_for_bit_the_same(run_options, tmp_path, monkeypatch, early_scoring):
    """Stopped in the second of three steps of the second epoch."""
    run_options = [*run_options, "--lr-schedule", "cosine"]
    whole = SegmentationTrainingApp([*run_options, *folders_of(tmp_path / "whole")])
    whole.main()
    stopped = SegmentationTrainingApp([*run_options, *folders_of(tmp_path)])
    stop_in(monkeypatch, learner_module, "train_step", 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        stopped.main()
    assert (stopped.run.epoch, stopped.run.step) == (1, 2)
    resumed = SegmentationTrainingApp(["--resume", str(stopped.run.files.last), *folders_of(tmp_path)])
    resumed.main()
    state, expected = (load_checkpoint(app.run.files.last) for app in (resumed, whole))
    assert_same_state(state, expected)
    places, expected_places = (each["mining"]["backgrounds"]["hard_places"] for each in (state, expected))
    assert len(expected_places) > 0
    assert torch.equal(places, expected_places)


def test_a_state_names_what_it_was_trained_on(run_options, tmp_path):
    app = SegmentationTrainingApp([*run_options, *folders_of(tmp_path), "--epochs", "1"])
    app.main()
    state = load_checkpoint(app.run.files.last)
    assert state["series"] == {"trn": ["1.2.1", "1.2.3"], "val": ["1.2.0", "1.2.2"], "backgrounds": ["a", "b"]}
    assert state["shape_donors"] == []  # synthetic ones
    assert len(state["background_checksums"]) == 4  # of slices of 3 mm, and of 6 mm
    refined = SegmentationTrainingApp(
        [*run_options[:6], "--preset", "strong", "--init-from", str(app.run.files.last), *folders_of(tmp_path)]
    )
    assert refined.run.init_series == ["1.2.1", "1.2.3", "a", "b"]


@pytest.mark.parametrize(
    "change", ["voxels", *(pytest.param(change, marks=pytest.mark.slow) for change in ("scan", "lesions"))]
)
def test_other_backgrounds_are_refused_on_resume(run_options, tmp_path, lungs, change):
    app = SegmentationTrainingApp([*run_options, *folders_of(tmp_path), "--epochs", "1"])
    app.main()
    if change == "voxels":
        (lungs / "b.nii.gz").write_bytes((lungs / "a.nii.gz").read_bytes())
    elif change == "scan":
        write_backgrounds(lungs, ["c"])
    else:
        write_lesions(lungs, [("a", LUNG_IRC, 13.0)])
    resumed = SegmentationTrainingApp(["--resume", str(app.run.files.last), *folders_of(tmp_path), "--epochs", "2"])
    with refused():
        resumed.main()


def test_backgrounds_that_moved_are_the_same(run_options, tmp_path, lungs):
    app = SegmentationTrainingApp([*run_options, *folders_of(tmp_path), "--epochs", "1"])
    app.main()
    moved = lungs.rename(tmp_path / "moved")
    arguments = ["--resume", str(app.run.files.last), *folders_of(tmp_path), "--epochs", "2"]
    resumed = SegmentationTrainingApp([*arguments, "--backgrounds", str(moved)])
    resumed.main()
    assert resumed.run.epoch == 2


def test_a_state_with_scores_of_crops_alone_still_resumes(run_options, tmp_path):
    """As states were before there were backgrounds: `mining` is what is now its part "crops"."""
    options = [*run_options[:-2], *folders_of(tmp_path), "--epochs", "1"]
    app = SegmentationTrainingApp(options)
    app.main()
    state = load_checkpoint(app.run.files.last)
    new_keys = ("background_checksums", "shape_donors")
    old = {name: value for name, value in state.items() if name not in new_keys}
    save_checkpoint(app.run.files.last, {**old, "mining": state["mining"]["crops"]})
    resumed = SegmentationTrainingApp(["--resume", str(app.run.files.last), *folders_of(tmp_path), "--epochs", "2"])
    resumed.main()
    assert load_checkpoint(resumed.run.files.last)["mining"]["crops"]["hardness"].shape == (
        state["mining"]["crops"]["hardness"].shape
    )
    save_checkpoint(app.run.files.last, {**old, "mining": {"hardness": torch.zeros(1), "scored_count": 0}})
    resumed = SegmentationTrainingApp(["--resume", str(app.run.files.last), *folders_of(tmp_path), "--epochs", "3"])
    with refused(path=app.run.files.last):
        resumed.main()


@pytest.mark.parametrize(
    "choice", [["--background-share", "0"], ["--background-share", "1"], ["--batch-size", "1"], ["--batch-size", "7"]]
)
def test_shares_and_batches_of_all_sizes(run_options, tmp_path, choice):
    app = SegmentationTrainingApp([*run_options, *folders_of(tmp_path), "--epochs", "1", *choice])
    app.main()
    state = load_checkpoint(app.run.files.last)
    assert all(value.isfinite().all() for value in state["model_state"].values())
    assert list((tmp_path / "cache").glob("tmp*")) == []  # no voxels are left behind


def test_a_run_without_preset_takes_backgrounds(data_options, tmp_path, lungs):
    """Without mining of crops and context slices side by side."""
    options = [*data_options, *folders_of(tmp_path), "--samples-per-epoch", "16", "--backgrounds", str(lungs)]
    app = SegmentationTrainingApp(options)
    app.main()
    assert set(load_checkpoint(app.run.files.last)["mining"]) == {"backgrounds"}


def test_backgrounds_are_read_as_far_apart_as_the_network(lungs, tmp_path):
    assert [each.slice_step for each in read_backgrounds(lungs, tmp_path / "maps", 6.0)] == [2, 2]
