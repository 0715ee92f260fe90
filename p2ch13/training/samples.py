"""A run's datasets, by its options."""

from __future__ import annotations

import torch

from p2ch13.config import TrainingConfig
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.util.errors import InputError


def open_train_ds(config: TrainingConfig, device: torch.device, world_size: int) -> TrainingLuna2dSegmentationDataset:
    """Raises: InputError for data that cannot be used, or fewer samples than processes."""
    if config.samples_per_epoch < world_size:
        counts = f"{config.samples_per_epoch} samples an epoch for {world_size} processes"
        raise InputError(f"{counts}; raise it", option="--samples-per-epoch")
    return TrainingLuna2dSegmentationDataset(
        config.val_stride,
        is_val_set=False,
        samples_per_epoch=config.samples_per_epoch,
        seed=config.seed,
        device=device,
        sampling=config,
        folders=config.folders,
        labels=config.label_options,
    )


def open_val_ds(config: TrainingConfig) -> Luna2dSegmentationDataset:
    """Raises: InputError for data that cannot be used, or a split whose validation series have no nodule."""
    val_ds = Luna2dSegmentationDataset(
        config.val_stride,
        is_val_set=True,
        folders=config.folders,
        labels=config.label_options,
        slice_spacing_mm=config.slice_spacing_mm,
        negative_slices=config.val_negatives,
    )
    if not val_ds.nodule_slice_count:
        series = f"none of the {len(val_ds.series_list)} validation series has a nodule"
        raise InputError(f"{series}: there is nothing to score; choose another split", option="--val-stride")
    return val_ds
