import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from p2ch13.config import TrainingConfig
from p2ch13.data.cache import describe_rebuilt
from p2ch13.evaluation.metrics import Scores
from p2ch13.network import compute
from p2ch13.network.checkpoint import load_checkpoint, load_model
from p2ch13.training import app as training_app
from p2ch13.training import learner, loop, losses
from p2ch13.training.__main__ import main
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.graphs import is_compiled
from p2ch13.training.losses import sum_pixels
from p2ch13.training.messages import log_start
from p2ch13.training.optimizers import warm_up_cosine
from tests.support.checks import assert_one_line
from tests.support.commands import exit_status

REPOSITORY = Path(__file__).parents[2]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def run(*options):
    return exit_status(lambda: main(options))


def run_script(command, options, cwd):
    return subprocess.run(
        [sys.executable, *command, *options],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_two_epochs_for_real(options, tmp_path):
    done = run_script(["-m", "p2ch13.training"], [*options, "--epochs", "2", "--augmented", "tiny"], tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.findall(r" (E\d \w+) loss ", done.stdout) == ["E1 trn", "E1 val", "E2 trn", "E2 val"]
    files = sorted((tmp_path / "models" / "p2ch13").iterdir())
    endings = [file.name.split("_tiny.")[1] for file in files]
    assert endings == ["128.state", "64.state", "best.png", "best.state", "last.state"]
    assert [line for line in lines if str(files[3]) in line]  # the final lines say where the best model is
    assert "tensorboard --logdir" in lines[-2]
    assert lines[-1].startswith("Next: ") and str(files[3]) in lines[-1]
    assert len(list((tmp_path / "runs" / "p2ch13").iterdir())) == 2
    state = load_checkpoint(files[0])
    assert (state["epoch"], state["totalTrainingSamples_count"]) == (2, 128)
    assert state["model_name"] == "UNetWrapper"
    assert state["sys_argv"][-1] == "tiny"
    assert TrainingConfig.from_dict(state["config"]).augment_noise


def test_the_launcher_is_the_same_program(tmp_path):
    commands = ["-m", "p2ch13.training"], [REPOSITORY / "training.py"]
    module, launcher = (run_script(command, ["--help"], tmp_path).stdout for command in commands)
    assert module == launcher
    assert "--augment-offset" in module


def test_a_saved_model_predicts_what_the_trained_one_does(options):
    app = SegmentationTrainingApp([*options, "--epochs", "1", "--depth", "4"])
    app.main()
    (path,) = app.run.files.folder.glob("*.64.state")
    ct_slices = torch.randn(1, 7, 64, 64) * 300 - 600
    app.segmentation_model.eval()
    with torch.inference_mode():
        assert torch.allclose(load_model(path)(ct_slices), app.segmentation_model(ct_slices), atol=1e-4)
    assert load_model(app.run.files.best).unet.depth == 4


def test_the_same_seed_trains_the_same_model(options):
    states = []
    for seed in ("3", "3", "4"):
        app = SegmentationTrainingApp([*options, "--seed", seed, "--augmented"])
        app.do_training(1, app.init_train_ds())
        states.append(app.segmentation_model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["unet.last.weight"], states[2]["unet.last.weight"])


def test_corrupt_values_of_the_cache_are_counted_at_the_start(options, folders, caplog):
    app = SegmentationTrainingApp(options)
    app.init_train_ds()
    for path in folders.cache_dir.rglob("*.val"):
        path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level("INFO"):
        log_start(app.run, app.init_train_ds(), app.init_val_ds(), app.compute)
    assert describe_rebuilt(3) in caplog.text  # one for each nodule


@pytest.mark.parametrize("augmented", [[], ["--augmented"]])
def test_scores_are_the_same_kind_with_and_without_augmentation(options, augmented):
    """In the book's code the label is an integer without augmentation, and ~label then is -1 or -2, never false."""
    app = SegmentationTrainingApp([*options, *augmented])
    batch = next(app.init_train_ds().batches(16))
    with torch.no_grad():
        app.segmentation_model.unet.last.bias.fill_(1e6)  # everything is nodule
    tp, fn, fp = app.learner.train_step(*batch[:2]).counts.sum(0)
    assert fn == 0
    assert tp + fp == 16 * 64 * 64
    assert 0 < tp < 16 * 64 * 64 / 4


def loss_of_all(logits, label, fn_weight, cross_entropy):
    """The loss of all pixels together, by another way."""
    logits, truth = logits.double(), label.double()
    probability = torch.sigmoid(logits)
    terms = []
    for marked in (probability, probability * truth):
        terms.append(1 - (2 * (marked * truth).sum() + 1) / (marked.sum() + truth.sum() + 1))
    entropy = -torch.where(label, F.logsigmoid(logits), F.logsigmoid(-logits)).mean()
    return (terms[0] + fn_weight * terms[1] + cross_entropy * entropy).item()


@pytest.mark.parametrize("mode", ["trn", "val"])
def test_training_and_validation_show_the_same_loss(options, monkeypatch, mode):
    """That of all the epoch's samples as one batch; in training those of batches, which are minimized, differ from it.

    How many slices are computed at once does not matter.
    """
    loss_options = ["--batch-dice", "--fn-weight", "0.5", "--cross-entropy", "2", "--precision", "fp32"]
    app = SegmentationTrainingApp([*options, *loss_options])
    seen = []
    monkeypatch.setattr(
        losses, "sum_pixels", lambda *given, **options: (seen.append(given), sum_pixels(*given, **options))[1]
    )
    train_ds, val_ds = app.init_train_ds(), app.init_val_ds()
    shown = []
    for batch_size in (1, 4) if mode == "val" else (16,):
        monkeypatch.setattr(training_app, "get_slice_batch_size", lambda _, size=batch_size: size)
        seen.clear()
        scores = app.do_training(1, train_ds) if mode == "trn" else app.do_validation(1, val_ds)
        logits, label = (torch.cat(parts).detach() for parts in zip(*seen, strict=True))
        assert len(logits) == (64 if mode == "trn" else 22)
        assert scores.loss == pytest.approx(loss_of_all(logits, label, 0.5, 2.0), rel=1e-4)
        shown.append(scores.loss)
    assert shown == pytest.approx([shown[0]] * len(shown), rel=1e-5)


def show(app, marks_elsewhere):
    """Have a model that finds part of each nodule, and marks nothing more in slices with one, and all or nothing in the
    others."""

    def logits(ct_slices):
        middle = ct_slices[:, 3:4]
        is_dense = middle > -700
        is_found = is_dense & (torch.arange(middle.shape[3]) % 4 > 0)
        if marks_elsewhere:
            is_found |= ~is_dense.flatten(1).any(1)[:, None, None, None]
        return torch.where(is_found, 20.0, -20.0)

    app.segmentation_model.logits = logits


@pytest.mark.parametrize("chosen_by", [["--preset", "strong"], ["--val-negatives", "1", "--best-metric", "dice"]])
def test_of_two_equal_on_nodules_the_one_without_false_alarms_is_the_best(options, chosen_by):
    app = SegmentationTrainingApp([*options, *chosen_by, "--no-ema", "--labels", "box"])
    val_ds = app.init_val_ds()
    scores = []
    for marks_elsewhere in (True, False):
        show(app, marks_elsewhere)
        scores.append(app.do_validation(1, val_ds))
    with_alarms, without = scores
    assert replace(with_alarms, of_all=None) == replace(without, of_all=None)
    assert 0.5 < without.recall < 0.9
    assert with_alarms.of_all.precision < 0.1 < without.of_all.precision == 1
    assert [app.run.update_best(each) for each in scores] == [True, True]
    assert not app.run.update_best(with_alarms)


def test_the_books_validation_has_slices_with_nodule_alone(options):
    app = SegmentationTrainingApp([*options, "--preset", "book"])
    val_ds = app.init_val_ds()
    assert len(val_ds) == val_ds.nodule_slice_count == 22
    assert app.do_validation(1, val_ds).of_all is None


def test_workers_read_the_same_validation_slices(options):
    scores = []
    for workers in ("0", "2"):
        app = SegmentationTrainingApp([*options, "--num-workers", workers])
        scores.append(app.do_validation(1, app.init_val_ds()))
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("options", "expected"), [(["--epochs=12"], [1, 5, 10, 12]), (["--epochs=4", "--validation-cadence=2"], [1, 2, 4])]
)
def test_epochs_with_a_validation(options, expected):
    app = SegmentationTrainingApp(options)
    assert [epoch for epoch in range(1, app.config.epochs + 1) if app.run.is_validation_epoch(epoch)] == expected


def test_only_a_higher_recall_is_the_best(options):
    app = SegmentationTrainingApp(options)
    nothing_to_find = Scores.from_counts(1.0, 0.0, 0, 0, 5)
    recalls = [Scores.from_counts(1.0, 0.5, tp, 10 - tp, 5) for tp in (0, 4, 3, 4, 6)]
    best_epochs = []
    for epoch_ndx, scores in enumerate([nothing_to_find, *recalls], start=1):
        app.run.epoch = epoch_ndx
        app.save_model(scores, app.run.update_best(scores))
        best_epochs.append(load_checkpoint(app.run.files.best)["epoch"] if app.run.files.best.exists() else None)
    # Recall NaN and 0 are not the best of anything: in the book's code an epoch with score 0 is.
    assert best_epochs == [None, None, 3, 3, 3, 6]


def test_the_best_by_another_metric():
    """Recall 0.8 at precision 0.08, then 0.4 at 0.8, then 0.6 at 0.6."""
    epochs = [Scores.from_counts(1.0, 0.5, *counts) for counts in ((8, 2, 92), (4, 6, 1), (6, 4, 4))]
    for metric, expected in {
        "recall": [True, False, False],
        "f1": [True, True, True],
        "recall-at-precision": [True, True, True],
    }.items():
        app = SegmentationTrainingApp(["--best-metric", metric, "--precision-floor", "0.5"])
        assert [app.run.update_best(scores) for scores in epochs] == expected


def test_early_stop(options, caplog, monkeypatch):
    """Best in epoch 2; two validations after it without a better one end the run."""
    found = iter([1, 4, 2, 3, 9])  # of 10 pixels
    app = SegmentationTrainingApp([*options, "--epochs", "5", "--validation-cadence", "1", "--early-stop", "2"])
    monkeypatch.setattr(app, "do_validation", lambda *_: Scores.from_counts(1.0, 0.5, tp := next(found), 10 - tp, 5))
    with caplog.at_level("INFO"):
        app.main()
    assert app.run.epoch == 4
    assert load_checkpoint(app.run.files.best)["epoch"] == 2
    assert "--early-stop" in caplog.text


def test_the_strong_preset_for_real(options, tmp_path, capsys):
    main([*options, "--preset", "strong", "--epochs", "2"])
    (path,) = (tmp_path / "models" / "p2ch13").glob("*.last.state")
    state = load_checkpoint(path)
    averaged, trained = state["model_state"]["unet.last.weight"], state["trained_state"]["unet.last.weight"]
    assert not torch.equal(averaged, trained)
    assert torch.allclose(averaged, trained, atol=0.1)
    assert TrainingConfig.from_dict(state["config"]).preset == "strong"
    events = {
        mode: EventAccumulator(str(next((tmp_path / "runs" / "p2ch13").glob(f"*_{mode}_*")))).Reload()
        for mode in ("trn", "val")
    }
    curves = {mode: set(each.Tags()["scalars"]) for mode, each in events.items()}
    assert curves["trn"] - curves["val"] == {"learning_rate", "loss/within_epoch"}
    assert curves["val"] - curves["trn"] == {
        f"pr_all/{name}" for name in ("precision", "recall", "f1_score", "dice", "slice_f1")
    }
    assert "pr/dice" in curves["trn"]
    # The last of 8 steps of an epoch begins at 56 samples, and at 120 of 128.
    expected = [3e-3 * warm_up_cosine(samples / 128) for samples in (56, 120)]
    assert [event.value for event in events["trn"].Scalars("learning_rate")] == pytest.approx(expected)


def test_averaged_weights_by_hand(options):
    """After the first step they are its weights; each further step moves them by 1/100 towards its own."""
    app = SegmentationTrainingApp([*options, "--ema", "--samples-per-epoch", "48"])
    train_ds = app.init_train_ds()
    weights, last = [], app.segmentation_model.unet.last
    add = app.non_finite.add
    app.non_finite.add = lambda *batch: (weights.append(last.weight.detach().clone()), add(*batch))
    app.do_training(1, train_ds)
    expected = weights[0]
    for weight in weights[1:]:
        expected = 0.99 * expected + 0.01 * weight
    assert len(weights) == 3
    assert torch.allclose(app.learner.evaluated_model.unet.last.weight, expected, atol=1e-7)


def test_a_model_that_finds_nothing_is_said_to(options, monkeypatch):
    monkeypatch.setattr(loop, "NODULE_LOGIT", math.inf)
    app = SegmentationTrainingApp(options)
    outcome = app.main()
    assert outcome.lines[0].startswith("No best model")
    assert outcome.values["best"] is None
    assert not list(app.run.files.folder.glob("*best*"))
    assert len(list(app.run.files.folder.glob("*.64.state"))) == 1


@pytest.mark.slow
def test_deterministic_runs_are_equal(options, tmp_path):
    """With augmentation and workers, each in a process of its own."""
    options = [*options, "--num-workers=2", "--samples-per-epoch=32", "--augmented", "--deterministic"]
    states = []
    for name in ("first", "second"):
        done = run_script(["-m", "p2ch13.training"], [*options, f"--models-dir={tmp_path / name}"], tmp_path)
        assert done.returncode == 0, done.stderr
        (path,) = (tmp_path / name / "p2ch13").glob("*.last.state")
        states.append(load_checkpoint(path))
    first, second = (state["model_state"] for state in states)
    assert all(torch.equal(first[name], second[name]) for name in first)
    untrained = SegmentationTrainingApp(options).segmentation_model.unet
    assert not torch.equal(first["unet.last.weight"], untrained.last.weight)
    assert states[0]["scores"] == states[1]["scores"]


def test_deterministic_operations_only(monkeypatch):
    called = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", called.append)
    assert not is_compiled(SegmentationTrainingApp(["--deterministic", "--epochs", "9"]).config, torch.device("cpu"))
    assert called == [True]


@pytest.fixture
def two_threads(monkeypatch):
    """To choose from; in fact there is one, and any number passes for it."""
    used = []
    monkeypatch.setattr(compute, "get_thread_limit", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    return used


def test_training_and_validation_choose_their_threads(options, two_threads):
    app = SegmentationTrainingApp([*options, "--samples-per-epoch", "64"])
    assert (app.learner.train_threads.counts, app.learner.val_threads.counts) == ((1, 2), (1, 2))
    train_ds, val_ds = app.init_train_ds(), app.init_val_ds()
    for tuner, work in (
        (app.learner.train_threads, lambda: app.do_training(1, train_ds)),
        (app.learner.val_threads, lambda: app.do_validation(1, val_ds)),
    ):
        assert not tuner.is_settled
        tuner.wait_s = math.inf  # no other trial begins before the end of an epoch
        while not tuner.is_settled:
            work()
    assert set(two_threads) <= {1, 2}


def test_a_number_of_threads_is_kept(options, two_threads):
    app = SegmentationTrainingApp([*options, "--threads", "2"])
    app.do_training(1, app.init_train_ds())
    assert set(two_threads) == {2}


def test_code_is_compiled_for_the_chosen_number_of_threads(options, two_threads, monkeypatch):
    """Not for those on trial: the steps of a trial are those of the model as it is."""
    called = []

    class Compiled(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, ct_slices):
            called.append(app.learner.train_threads.is_settled)
            return self.model(ct_slices)

    monkeypatch.setattr(learner, "compile_model", lambda model, choice: Compiled(model))
    app = SegmentationTrainingApp([*options, "--samples-per-epoch", "64", "--compile", "yes"])
    train_ds, threads = app.init_train_ds(), app.learner.train_threads
    assert threads.wait_s > app.learner.val_threads.wait_s
    threads.wait_s = math.inf  # no other trial begins
    while not threads.is_settled:
        assert called == []
        app.do_training(1, train_ds)
    called.clear()
    app.do_training(2, train_ds)
    assert called == [True] * 4


def test_a_full_disk_leaves_the_last_checkpoint(options, tmp_path):
    """A limit on the size of files, which a checkpoint is larger than and TensorBoard's are not."""
    main([*options, "--samples-per-epoch", "8"])
    (path,) = (tmp_path / "models" / "p2ch13").glob("*.last.state")
    before = path.read_bytes()
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "from p2ch13.training.__main__ import main; from p2ch13.util.errors import run_command\n"
        f"run_command(lambda: main(['--resume', {str(path)!r}, '--epochs', '2']))"
    )
    done = run_script(["-c", code], [], tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.endswith(".state: File too large")
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))


def test_bfloat16_scores_are_near_float32(options):
    scores = []
    for precision in ("fp32", "bf16"):
        app = SegmentationTrainingApp([*options, "--precision", precision])
        app.do_training(1, app.init_train_ds())
        scores.append(app.do_validation(1, app.init_val_ds()))
    assert scores[1].loss == pytest.approx(scores[0].loss, rel=0.1)


def test_mistakes_end_in_one_line(options, folders, tmp_path, capsys):
    assert run(*options, "--val-stride", "1") == 2
    assert_one_line(capsys, "--val-stride")
    assert run(*options, "--data-dir", str(tmp_path / "nowhere")) == 2
    assert_one_line(capsys, "nowhere")
    (tmp_path / "file").write_text("")
    assert run(*options, "--models-dir", str(tmp_path / "file")) == 2
    assert_one_line(capsys, "file/p2ch13", "--models-dir")
    annotations = folders.data_dir / "annotations.csv"
    lines = annotations.read_text().splitlines()
    annotations.write_text("\n".join(line for line in lines if not line.startswith(("1.2.0", "1.2.2"))))
    assert run(*options) == 2
    assert_one_line(capsys, "--val-stride")
    for series_uid in ("1.2.1", "1.2.3"):  # all scans of training
        (folders.data_dir / "subset0" / f"{series_uid}.raw").write_bytes(b"short")
    assert run(*options) == 2
    assert_one_line(capsys, "1.2.1.raw")
    assert not (tmp_path / "models").exists()
    assert not (tmp_path / "runs").exists()


def test_real_ct(luna_sample, options, tmp_path):
    app = SegmentationTrainingApp([*options, "--data-dir", str(luna_sample), "--val-stride", "3", "--augmented"])
    train_ds, val_ds = app.init_train_ds(), app.init_val_ds()
    assert (len(train_ds.pos_list), len(val_ds)) == (7, 11)
    scores = app.do_training(1, train_ds)
    assert 0 < scores.recall <= 1


@needs_gpu
def test_crops_live_on_the_gpu(options):
    app = SegmentationTrainingApp(options)
    batch = next(app.init_train_ds().batches(16))
    assert batch[0].is_cuda and batch[1].is_cuda


@pytest.mark.parametrize(
    ("more", "epochs", "tolerance"),
    [
        # Rounding, which Adam's first step makes larger: it follows the sign of gradients next to zero.
        pytest.param(["--samples-per-epoch", "32", "--precision", "fp32"], 1, 3e-3, marks=pytest.mark.slow),
        # Seven whole steps and a smaller one: a GPU takes the first ones one by one, and replays the others.
        pytest.param(["--samples-per-epoch", "120", "--augmented"], 2, 0.1, marks=needs_gpu),
    ],
)
def test_a_compiled_run_trains_as_well(options, more, epochs, tolerance):
    losses = []
    for choice in ("no", "yes"):
        app = SegmentationTrainingApp([*options, *more, "--compile", choice])
        train_ds = app.init_train_ds()
        losses.append([app.do_training(epoch_ndx, train_ds).loss for epoch_ndx in range(1, epochs + 1)])
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)
