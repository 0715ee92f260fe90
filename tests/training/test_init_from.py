"""A run that begins with another's weights."""

import json

import pytest
import torch

from p2ch13.config import NetworkOptions, TrainingConfig
from p2ch13.evaluation.metrics import Scores
from p2ch13.network.checkpoint import load_checkpoint, save_checkpoint
from p2ch13.network.model import BOOK_MODEL, UNetWrapper
from p2ch13.training.__main__ import main
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.messages import log_init
from p2ch13.training.resume import read_settings
from p2ch13.training.run import model_args_of
from tests.support.checks import assert_one_line, refused
from tests.support.commands import exit_status
from tests.support.scan_files import Ball, write_luna
from tests.support.tiny_network import TinyNetwork

OWN_NETWORK = "tests.support.tiny_network:TinyNetwork"
OTHER_SCANS = {
    "1.3.0": [Ball((8, 45, 55), 5)],
    "1.3.1": [Ball((7, 55, 45), 6), Ball((4, 25, 35), 3)],
    "1.2.3": [Ball((6, 40, 40), 5)],  # a series of the first run's training
}
SMALL = ("--depth", "2", "--filters", "4", "--space-to-depth", "2", "--activation", "leaky_relu")
SAME_BITS = ("--threads", "1", "--precision", "fp32")


@pytest.fixture
def first(options, tmp_path):
    """The last state of a run with an EMA on the tiny scans, trained on 1.2.1 and 1.2.3."""
    app = SegmentationTrainingApp([*options, *SMALL, *SAME_BITS, "--ema", "--slice-spacing-mm", "2", "first"])
    app.main()
    return app.run.files.last


@pytest.fixture
def other_options(tmp_path):
    """A training's options for the other scans: 1.2.3 and 1.3.1 for validation."""
    data = ["--data-dir", str(write_luna(tmp_path / "other" / "luna", OTHER_SCANS)), "--val-stride", "2"]
    folders = ["--models-dir", str(tmp_path / "models"), "--runs-dir", str(tmp_path / "runs")]
    return [*data, "--cache-dir", str(tmp_path / "other" / "cache"), *folders, "--samples-per-epoch", "32", *SAME_BITS]


def assert_same(weights, others):
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_from_another_runs_weights(other_options, first, tmp_path, caplog):
    """All that is evaluated begins as the other run's EMA; network and slice spacing are its, the rest is not."""
    state = load_checkpoint(first)
    assert not torch.equal(state["model_state"]["unet.last.weight"], state["trained_state"]["unet.last.weight"])
    app = SegmentationTrainingApp([*other_options, "--init-from", str(first), "--preset", "strong", "fine"])
    assert_same(app.segmentation_model.state_dict(), state["model_state"])
    assert_same(app.learner.evaluated_model.state_dict(), state["model_state"])
    assert app.config.part(NetworkOptions) == NetworkOptions("unet", 2, 4, 2, "leaky_relu", False)
    assert (app.config.slice_spacing_mm, app.segmentation_model.slice_spacing_mm) == (2.0, 2.0)
    assert (app.config.optimizer, app.config.batch_size, app.config.epochs) == ("muon", 8, 1)
    assert (app.run.epoch, app.optimizer.state_dict()["state"]) == (0, {})
    with caplog.at_level("INFO"):
        app.main()
    assert str(first) in caplog.text
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("1 of 2 validation series" in warning for warning in warnings)

    path = app.run.files.last
    state = load_checkpoint(path)
    assert state["series"] == {"trn": ["1.3.0"], "val": ["1.2.3", "1.3.1"], "init": ["1.2.1", "1.2.3"]}
    assert (state["config"]["init_from"], state["config"]["filters"]) == (str(first), 4)
    assert TrainingConfig.from_dict(state["config"]) == app.config
    (config_json,) = (tmp_path / "runs" / "p2ch13").glob("*_trn_seg_fine/config.json")
    assert json.loads(config_json.read_text())["init_from"] == str(first)
    again = SegmentationTrainingApp(["--config", str(config_json)])
    assert again.config == app.config

    first.unlink()  # a resumed run has weights and series of its own
    resumed = SegmentationTrainingApp(["--resume", str(path)])
    assert resumed.settings.init_weights is None
    resumed.main()
    resumed.save_model(None, is_best=False)
    assert load_checkpoint(path)["series"] == state["series"]
    third = read_settings([*other_options, "--init-from", str(path)])
    assert third.init_series == ["1.2.1", "1.2.3", "1.3.0"]


def test_from_the_books_file(other_options, tmp_path, caplog):
    """It names neither options nor series; `strong` brings another network, which does not count as given."""
    path = tmp_path / "book.state"
    model = UNetWrapper(**BOOK_MODEL)
    save_checkpoint(path, {"model_state": model.state_dict(), "epoch": 10})
    app = SegmentationTrainingApp([*other_options, "--init-from", str(path), "--preset", "strong"])
    assert_same(app.segmentation_model.state_dict(), model.state_dict())
    assert model_args_of(app.config) == {**BOOK_MODEL, **model_args_of(TrainingConfig())}
    assert app.run.all_series == {"init": []}
    log_init(path, app.run.init_series, ["1.3.1"])
    assert caplog.records[-1].levelname == "WARNING"


def test_a_given_slice_spacing(other_options, first):
    app = SegmentationTrainingApp([*other_options, "--init-from", str(first), "--slice-spacing-mm", "0"])
    assert (app.config.slice_spacing_mm, app.segmentation_model.slice_spacing_mm) == (0, 0)


def test_a_network_of_ones_own(other_options, tmp_path):
    path = tmp_path / "own.state"
    model = TinyNetwork(2.0)
    state = {"model_state": model.state_dict(), "model_args": {"slice_spacing_mm": 2.0}, "network": OWN_NETWORK}
    save_checkpoint(path, state)
    init = [*other_options, "--init-from", str(path)]
    app = SegmentationTrainingApp([*init, "--network", OWN_NETWORK])
    assert_same(app.segmentation_model.state_dict(), model.state_dict())
    assert (app.config.network, app.config.slice_spacing_mm) == (OWN_NETWORK, 2.0)
    for network in ([], ["--network", "unet"]):
        with refused(path=path):
            SegmentationTrainingApp([*init, *network])


def test_what_cannot_be_begun_with(other_options, first, tmp_path, capsys):
    init = [*other_options, "--init-from", str(first)]
    for name, value in (("--depth", "3"), ("--filters", "16"), ("--activation", "relu"), ("--space-to-depth", "1")):
        with refused(option=name):
            SegmentationTrainingApp([*init, name, value])
    with refused(option="--intensity-projections"):
        SegmentationTrainingApp([*init, "--intensity-projections"])
    assert read_settings([*init, "--depth", "2"]).config.depth == 2
    config_json = tmp_path / "config.json"
    config_json.write_text(json.dumps({"preset": "strong", "filters": 64}))
    with refused(option="--filters"):
        read_settings([*init, "--config", str(config_json)])
    config_json.write_text(json.dumps({"preset": "strong", "filters": 32}))  # the preset's, not of its own
    assert read_settings([*init, "--config", str(config_json)]).config.filters == 4

    with refused(option="--init-from"):
        read_settings(["--resume", str(first), "--init-from", str(first)])
    assert exit_status(lambda: main(["--resume", "--init-from", str(first)])) == 2
    assert_one_line(capsys, "--init-from")
    with refused(path=tmp_path / "none.state"):
        read_settings(["--init-from", str(tmp_path / "none.state")])
    state = load_checkpoint(first)
    for change in ({"config": None}, {"config": {"depth": 9}}, {"series": {"trn": 3}}, {"series": []}):
        save_checkpoint(first, {**state, **change})
        with refused(path=first):
            read_settings(init)
    save_checkpoint(first, {**state, "config": {**state["config"], "depth": 3}})
    with refused(path=first):
        SegmentationTrainingApp(init)


def test_better_than_from_scratch(options, other_options):
    """After as many samples of other scans; the scans are synthetic, and the first run is short."""
    common = [*SMALL, "--learning-rate", "0.01", "--seed", "1"]
    app = SegmentationTrainingApp([*options, *SAME_BITS, *common, "--samples-per-epoch", "320"])
    app.main()
    scores: dict[str, Scores] = {}
    for name, init in {"scratch": SMALL, "fine": ["--init-from", str(app.run.files.last)]}.items():
        run = SegmentationTrainingApp([*other_options, *init, *common[len(SMALL) :], "--samples-per-epoch", "48"])
        run.do_training(1, run.init_train_ds())
        scores[name] = run.do_validation(1, run.init_val_ds())
    assert scores["fine"].loss < scores["scratch"].loss
