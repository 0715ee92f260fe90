"""Messages of a run: its start, its scores, its end."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from p2ch13.commands import spell
from p2ch13.config import NETWORKS, TrainingConfig
from p2ch13.data.cache import describe_rebuilt
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.detection.colors import COMPARED, explain
from p2ch13.detection.pictures import draw_findings, write_png
from p2ch13.evaluation.metrics import Scores
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.network.compute import Compute
from p2ch13.phantom.uids import is_phantom
from p2ch13.training.graphs import is_compiled, is_long
from p2ch13.training.learner import Learner
from p2ch13.training.recipe import describe_recipe
from p2ch13.training.run import RunState
from p2ch13.training.tensorboard import TensorBoardReport
from p2ch13.util.errors import EXIT_DONE, EXIT_SIGNAL, Stopped, name_signal
from p2ch13.util.outcome import Outcome

log = logging.getLogger(__name__)

STOPPING = "Stopping after this step; once more ends at once."


def log_start(
    run: RunState, train_ds: TrainingLuna2dSegmentationDataset, val_ds: Luna2dSegmentationDataset, compute: Compute
) -> None:
    """Describe the data and the work of a run."""
    config, negative_count = run.config, len(val_ds) - val_ds.nodule_slice_count
    log.info(describe_recipe(config))
    for line in train_ds.index.labels.notes:
        log.info(line)
    log.info(
        f"Training on {len(train_ds.series_list)} series with {len(train_ds.pos_list)} nodules, validation on "
        f"{len(val_ds.series_list)} series with {val_ds.nodule_slice_count} nodule slices"
        f"{f' and {negative_count} without nodule' if negative_count else ''}."
    )
    epochs = f"{config.epochs} epoch{'' if config.epochs == 1 else 's'}"
    log.info(
        f"{epochs} of {config.samples_per_epoch:,} samples in batches of {config.batch_size}"
        f"{'' if run.world_size == 1 else f' in each of {run.world_size} processes'}; "
        f"{compute.dtype_name} on {compute.device.type}; augmentation: {', '.join(config.augmentation) or 'none'}."
    )
    if backgrounds := run.series.get("backgrounds"):
        log.info(
            f"Backgrounds: {len(backgrounds)} lungs, {config.background_share:.0%} of each batch; painted shapes: "
            f"{config.nodule_shapes}{f', of {len(run.shape_donors)} scans' if run.shape_donors else ''}."
        )
    elif all(map(is_phantom, train_ds.series_list)):
        log.info("All scans of the training are synthetic: expect many false positives in real lungs.")
    if config.init_from is not None:
        log_init(config.init_from, run.init_series, val_ds.series_list)
    if is_compiled(config, compute.device):
        log.info("The first step compiles the network, which takes a minute; --compile no does without it.")
    elif config.compile == "auto" and compute.device.type != "cpu" and is_long(config):
        log.info("The network is not compiled, which has not been tried on a GPU; --compile yes does it.")
    if train_ds.ct_cache.rebuilt_count:  # the cache of both
        log.warning(describe_rebuilt(train_ds.ct_cache.rebuilt_count))


def log_init(path: Path, init_series: Sequence[str], val_series: Sequence[str]) -> None:
    """Say what a run's first weights are, and whether their network was trained on scans of the validation."""
    if not init_series:
        log.info(f"First weights: those of {path}.")
        log.warning("This file does not name its training series: scans of the validation may be among them.")
        return
    log.info(f"First weights: those of {path}, trained on {len(init_series)} series.")
    if seen := set(init_series).intersection(val_series):
        log.warning(
            f"{len(seen)} of {len(val_series)} validation series are among these: scores will be better than on scans "
            "that no training has seen."
        )


def log_metrics(report: TensorBoardReport | None, run: RunState, mode: str, scores: Scores, learner: Learner) -> None:
    """Log the scores of the current epoch's training (mode "trn", with the learning rate) or validation ("val")."""
    epoch_ndx = run.epoch + 1
    log.info(f"E{epoch_ndx} {mode} {scores}")
    if scores.of_all is not None:
        log.info(f"E{epoch_ndx} {mode} with slices without nodule: {describe_all(scores.of_all)}")
    if report:
        learning_rate = float(learner.optimizer.param_groups[0]["lr"]) if mode == "trn" else None
        report.log_scores(mode, scores, run.count_samples(epoch_ndx), learning_rate)


def log_images(
    report: TensorBoardReport | None, run: RunState, datasets: Mapping[str, Luna2dSegmentationDataset], learner: Learner
) -> None:
    """Log overlays after the validation of the current epoch, the labels with the first epoch's."""
    epoch_ndx = run.epoch + 1
    if report:
        report.log_images(datasets, learner.predict, run.count_samples(epoch_ndx), with_labels=epoch_ndx == 1)


def stopped(run: RunState, signal_number: int, where: str) -> Stopped:
    """Return the exception that ends a run on a signal, with the command that resumes it."""
    network = [] if run.config.network in NETWORKS else ["--network", run.config.network]
    command = spell("train", "--resume", str(run.files.last), *network)
    message = f"Stopped by {name_signal(signal_number)} {where}. To resume: {command}"
    return Stopped(message, signal_number)


def finish_files(run: RunState, learner: Learner, val_ds: Luna2dSegmentationDataset) -> None:
    """Draw the best model's findings. The learner gets the best model's weights."""
    if run.best_score != -math.inf:
        learner.evaluated_model.load_state_dict(load_checkpoint(run.files.best)["model_state"])
        write_png(run.files.figure, draw_findings(val_ds, learner.predict))
    run.files.forget_launch()


def conclude(run: RunState, stopped: Stopped | None = None) -> Outcome:
    """Say what a run has reached, and where everything is. Args: stopped: what ended it early."""
    best = load_checkpoint(run.files.best) if run.best_score != -math.inf else None
    lines = ["No best model: no validation found a pixel of a nodule. More samples or epochs may help."]
    if best is not None:
        scores = Scores.from_dict(best["scores"])
        lines = [f"Best epoch, by {run.config.best_metric}: {best['epoch']}. Its validation, of slices: {scores}"]
        if scores.of_all:
            lines.append(f"With slices without nodule: {describe_all(scores.of_all)}")
        lines += [
            f"Network: {run.files.best}",
            f"Figure ({explain(*COMPARED)}): {run.files.figure}",
        ]
    lines.append(f"Curves and figures: {shlex.join(['tensorboard', '--logdir', str(run.config.runs_dir)])}")
    if best is not None:
        lines.append(f"Next: {evaluation_command(run)}")
    values = {
        "best": run.files.best if best else None,
        "last": run.files.last,
        "best_epoch": best["epoch"] if best else None,
        "best_metric": run.config.best_metric,
        "scores": best["scores"] if best else None,
        "epochs": run.epoch,
        "steps_of_next_epoch": run.step,
        "samples": run.count_samples(run.epoch, run.step),
        "stopped_by": stopped and name_signal(stopped.signal_number),
    }
    return Outcome(lines, values, EXIT_SIGNAL + stopped.signal_number if stopped else EXIT_DONE)


def evaluation_command(run: RunState) -> str:
    """Return the command that scores the best model on whole scans."""
    own = run.config.data_dir != TrainingConfig.data_dir
    data_dir = ["--data-dir", str(run.config.data_dir)] if own else []
    return spell("evaluate", *data_dir, "--checkpoint", str(run.files.best))


def describe_all(scores: Scores) -> str:
    """Describe the scores of slices with and without nodule."""
    return f"{scores}, F1 of slices {scores.slice_f1:.4f}"
