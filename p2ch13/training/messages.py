"""What a run logs at its start and end, line by line."""

from __future__ import annotations

import logging
import math
import shlex
import signal
from pathlib import Path
from typing import Any

from p2ch13.config import TrainingConfig
from p2ch13.data.cache import describe_rebuilt
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.detection.pictures import draw_findings, write_png
from p2ch13.evaluation.metrics import Scores
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.network.compute import Compute
from p2ch13.training.graphs import is_compiled
from p2ch13.training.learner import Learner
from p2ch13.training.run import RunState
from p2ch13.training.totals import EpochTotals
from p2ch13.util.errors import Stopped

log = logging.getLogger(__name__)


def log_start(
    run: RunState,
    train_ds: TrainingLuna2dSegmentationDataset,
    val_ds: Luna2dSegmentationDataset,
    compute: Compute,
) -> None:
    for line in [*describe_data(train_ds, val_ds), *describe_work(run.config, run.world_size, compute)]:
        log.info(line)
    if rebuilt_count := train_ds.ct_cache.rebuilt_count + val_ds.ct_cache.rebuilt_count:
        log.warning(describe_rebuilt(rebuilt_count))


def describe_data(train_ds: TrainingLuna2dSegmentationDataset, val_ds: Luna2dSegmentationDataset) -> list[str]:
    negative_count = len(val_ds) - val_ds.nodule_slice_count
    return [
        *train_ds.ct_cache.labels.notes,
        f"Training on {len(train_ds.series_list)} series with {len(train_ds.pos_list)} nodules, validation on "
        f"{len(val_ds.series_list)} series with {val_ds.nodule_slice_count} nodule slices"
        f"{f' and {negative_count} without nodule' if negative_count else ''}.",
    ]


def describe_work(config: TrainingConfig, world_size: int, compute: Compute) -> list[str]:
    lines = [
        f"{config.epochs} epochs of {config.samples_per_epoch:,} samples in batches of {config.batch_size}"
        f"{'' if world_size == 1 else f' in each of {world_size} processes'}; "
        f"{compute.dtype_name} on {compute.device.type}; "
        f"augmentation: {', '.join(config.augmentation) or 'none'}."
    ]
    if is_compiled(config):
        lines.append("The first step compiles the network, which takes half a minute; --compile no does without it.")
    return lines


def warn_of_skipped(totals: EpochTotals, name: str) -> None:
    if totals.skipped_count:
        log.warning(f"{name}: skipped {totals.skipped_count} batches, whose loss or gradient was not finite.")


def stopped(signal_number: int, where: str, last: Path) -> Stopped:
    """Return the exception that ends a run on a signal, with the command that resumes it."""
    command = shlex.join(["python", "-m", "p2ch13.training", "--resume", str(last)])
    message = f"Stopped by {signal.Signals(signal_number).name} {where}. To resume: {command}"
    return Stopped(message, signal_number)


def log_end(run: RunState, learner: Learner, val_ds: Luna2dSegmentationDataset) -> None:
    """Draw the best model's findings, and say where everything is. The learner gets the best model's weights."""
    best = None
    if run.best_score != -math.inf:
        best = load_checkpoint(run.files.best)
        learner.evaluated_model.load_state_dict(best["model_state"])
        write_png(run.files.figure, draw_findings(val_ds, learner.predict))
    run.files.forget_launch()
    for line in describe_end(run, best):
        log.info(line)


def describe_end(run: RunState, best: dict[str, Any] | None) -> list[str]:
    """Name the best model, its scores, and the folders. Args: best: the best model's checkpoint, if there is one."""
    lines = ["No best model: no validation found a pixel of a nodule. More samples or epochs may help."]
    if best is not None:
        scores = Scores.from_dict(best["scores"])
        lines = [
            f"Best model, by {run.config.best_metric}: {run.files.best}",
            f"Its scores, epoch {best['epoch']}: {scores}",
            *([f"With slices without nodule: {describe_all(scores.of_all)}"] if scores.of_all else []),
            f"Figure (green: true positive, orange: missed, red: false positive): {run.files.figure}",
        ]
    return [*lines, f"Curves and figures: tensorboard --logdir {run.config.runs_dir}"]


def describe_all(scores: Scores) -> str:
    """Describe the scores of slices with and without nodule."""
    return f"{scores}, F1 of slices {scores.slice_f1:.4f}"
