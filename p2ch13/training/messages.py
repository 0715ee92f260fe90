"""What a run says at its start and at its end, line by line."""

from __future__ import annotations

from typing import Any

import torch

from p2ch13.config import TrainingConfig
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.evaluation.metrics import Scores
from p2ch13.training.run_state import RunState
from p2ch13.util.launch import Launch


def describe_data(train_ds: TrainingLuna2dSegmentationDataset, val_ds: Luna2dSegmentationDataset) -> list[str]:
    negative_count = len(val_ds) - val_ds.nodule_slice_count
    return [
        *train_ds.index.labels.notes,
        f"Training on {len(train_ds.series_list)} series with {len(train_ds.pos_list)} nodules, validation on "
        f"{len(val_ds.series_list)} series with {val_ds.nodule_slice_count} slices that hold nodule"
        f"{f' and {negative_count} that hold none' if negative_count else ''}.",
    ]


def describe_work(
    config: TrainingConfig, launch: Launch, device: torch.device, dtype: torch.dtype, is_compiled: bool
) -> list[str]:
    lines = [
        f"{config.epochs} epochs of {config.samples_per_epoch:,} samples in batches of {config.batch_size}"
        f"{'' if launch.is_alone else f' in each of {launch.world_size} processes'}; "
        f"{str(dtype).removeprefix('torch.')} on {device.type}; "
        f"augmentation: {', '.join(config.augmentation) or 'none'}."
    ]
    if is_compiled:
        lines.append("The first step compiles the network, which takes half a minute; --compile no does without it.")
    return lines


def describe_end(run: RunState, best: dict[str, Any] | None) -> list[str]:
    """Where everything is. Args: best: the best model's checkpoint, if there is one."""
    lines = ["No best model: in no epoch did it find a pixel of a nodule. More samples or epochs may help."]
    if best is not None:
        scores = Scores.from_dict(best["scores"])
        lines = [
            f"Best model, by {run.config.best_metric}: {run.best_path}",
            f"Its scores, epoch {best['epoch']}: {scores}",
            *([f"With slices that hold no nodule: {describe_all(scores.of_all)}"] if scores.of_all else []),
            f"Picture (green: found, orange: missed, red: false alarm): {run.picture_path}",
        ]
    return [*lines, f"Curves and pictures: tensorboard --logdir {run.config.runs_dir}"]


def describe_all(scores: Scores) -> str:
    """The scores of slices with and without nodule."""
    return f"{scores}, F1 of slices {scores.slice_f1:.4f}"
