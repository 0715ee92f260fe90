from itertools import pairwise

import pytest
import torch

from p2ch13.config import OPTIMIZERS
from p2ch13.evaluation.metrics import Scores
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.non_finite import CheckedBatch, NonFiniteLossMonitor
from p2ch13.training.run import as_dict
from tests.support.checks import assert_one_line, refused
from tests.support.commands import exit_status
from tests.support.processes import spoil_step


def test_on_a_gpu_several_losses_are_looked_at_together():
    """Named is the batch that had the bad one, not the one in which it was found."""
    watch = NonFiniteLossMonitor(torch.device("cuda"), skips=False)
    watch.patience = 3
    faults = torch.tensor([False, False, False])  # a recorded step writes those of the next one over them
    for step, is_bad, slice_ndxs in ((1, False, [7, 8]), (2, True, [4, 3])):
        faults[:2] = is_bad
        watch.add(f"step {step}", faults, ["1.2.1", "1.2.3"], torch.tensor(slice_ndxs))
    faults.fill_(False)
    with refused(option="--learning-rate") as error:
        watch.add("step 3", faults, ["1.2.1", "1.2.3"], torch.tensor([5, 6]))
    assert "step 2" in str(error.value) and "1.2.1 4, 1.2.3 3" in str(error.value)
    watch.check()  # what was looked at is not looked at again


@pytest.mark.parametrize(
    ("faults", "parts"),
    [
        ((True, True, True), ("the loss of step 2", "1.2.1 7;")),
        ((False, True, True), ("the loss of step 2", "in another process;")),
        ((False, False, True), ("the gradient of step 2", "1.2.1 7;")),
    ],
)
def test_what_was_not_finite(faults, parts):
    watch = NonFiniteLossMonitor(torch.device("cpu"), skips=False)
    with refused(option="--learning-rate") as error:
        watch.add("step 2", torch.tensor(faults), ["1.2.1"], torch.tensor([7]))
    assert all(part in str(error.value) for part in parts)


def spoil_gradient(app, step, value=torch.inf):
    """Not finite in one step, whose loss is."""
    steps = []

    def spoil(gradient):
        steps.append(1)
        return gradient * value if len(steps) == step else gradient

    app.segmentation_model.unet.last.weight.register_hook(spoil)


SPOILED = {spoil_step: "loss", spoil_gradient: "gradient"}


def copy_of_all(app):
    """Weights, statistics, what the optimizer keeps, averaged weights."""
    models = (app.segmentation_model.state_dict(), app.learner.evaluated_model.state_dict())
    return [value.clone() for values in (*models, *app.optimizer.state.values()) for value in values.values()]


@pytest.mark.parametrize(
    ("spoil", "optimizer", "bad_step"),
    [
        (spoil_step, "adam", 2),
        *((spoil_gradient, optimizer, bad_step) for optimizer in OPTIMIZERS for bad_step in (1, 3, 6)),
    ],
)
def test_what_is_not_finite_is_skipped(options, caplog, spoil, optimizer, bad_step):
    """The first step, one of many, and the epoch's last: it changes nothing, and the scores are those of the others."""
    length = ["--samples-per-epoch", "24", "--batch-size", "4", "--depth", "1"]
    app = SegmentationTrainingApp([*options, *length, "--optimizer", optimizer, "--ema", "--skip-non-finite"])
    spoil(app, bad_step)
    states, batches = [copy_of_all(app)], []
    add = app.non_finite.add
    app.non_finite.add = lambda *batch: (states.append(copy_of_all(app)), batches.append(batch), add(*batch))
    scores = app.do_training(1, app.init_train_ds())
    unchanged = [
        len(before) == len(after) and all(torch.equal(*pair) for pair in zip(before, after, strict=True))
        for before, after in pairwise(states)
    ]
    assert unchanged == [step == bad_step for step in range(1, 7)]
    assert (app.totals.skipped_count, app.totals.sample_count) == (1, 20)
    assert 0 < scores.loss < 100
    assert f"the {SPOILED[spoil]} of epoch 1, step {bad_step} " in caplog.text
    assert CheckedBatch(*batches[bad_step - 1]).name_slices() in caplog.text
    assert all(value.isfinite().all() for value in states[-1])
    app.run.end_epoch(app.totals.skipped_count)
    assert as_dict(app.run, app.learner)["left_out_count"] == 1


def test_a_gradient_whose_square_is_not_finite_is_not_either(options):
    """Adam keeps it, and would not move that weight any more."""
    app = SegmentationTrainingApp(options)
    spoil_gradient(app, 2, value=1e30)
    with refused(option="--learning-rate"):
        app.do_training(1, app.init_train_ds())


@pytest.mark.parametrize(
    ("spoil", "bad_step"), [(spoil_step, 7), (spoil_gradient, 3), (spoil_gradient, 4), (spoil_gradient, 8)]
)
def test_what_is_not_finite_ends_the_run(options, capsys, spoil, bad_step):
    """In the step that had it, the last one of an epoch too; what was saved before it stays."""
    app = SegmentationTrainingApp([*options, "--epochs", "2"])
    spoil(app, bad_step)
    assert exit_status(app.main) == 2
    epoch, step = divmod(bad_step - 1, 4)
    assert_one_line(capsys, f"the {SPOILED[spoil]} of epoch {epoch + 1}, step {step + 1} ")
    assert app.run.files.last.exists() == (epoch > 0)
    if epoch > 0:
        last = load_checkpoint(app.run.files.last)
        assert last["epoch"] == epoch
        assert all(value.isfinite().all() for value in last["model_state"].values())


def test_the_average_begins_with_the_first_good_step(options):
    app = SegmentationTrainingApp([*options, "--ema", "--skip-non-finite", "--samples-per-epoch", "32"])
    spoil_gradient(app, 1)
    app.do_training(1, app.init_train_ds())
    weights = (model.unet.last.weight for model in (app.learner.evaluated_model, app.segmentation_model))
    assert torch.equal(*weights)


@pytest.mark.parametrize("spoiled", ["weights", "average", "optimizer"])
def test_what_is_not_finite_is_not_saved(options, spoiled):
    app = SegmentationTrainingApp([*options, "--ema", "--depth", "1"])
    app.main()
    files = {path: path.read_bytes() for path in app.run.files.folder.iterdir()}
    spoiled_model = {"weights": app.segmentation_model, "average": app.learner.evaluated_model}.get(spoiled)
    parameter = app.segmentation_model.unet.last.weight
    tensor = app.optimizer.state[parameter]["exp_avg"] if spoiled_model is None else spoiled_model.unet.last.weight
    with torch.no_grad():
        tensor.view(-1)[0] = torch.nan
    with refused(path=app.run.files.last):
        app.run.save(app.learner, totals=app.totals)
    with refused(path=app.run.files.last):
        app.run.save(app.learner, Scores.from_counts(1.0, 0.5, 1, 1, 1), is_best=True)
    assert {path: path.read_bytes() for path in app.run.files.folder.iterdir()} == files


def test_nothing_but_bad_batches(options):
    app = SegmentationTrainingApp([*options, "--skip-non-finite"])
    with torch.no_grad():
        app.segmentation_model.unet.last.weight.fill_(torch.nan)
    with refused(option="--learning-rate"):
        app.do_training(1, app.init_train_ds())
