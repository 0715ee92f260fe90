"""A run's scans, their split, and its datasets, by its options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from p2ch13.config import TrainingConfig
from p2ch13.data.cache import CtCache
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.data.splits import Splits, make_splits, option_of, parse_splits
from p2ch13.network.checkpoint import UNREADABLE
from p2ch13.training.background_samples import BackgroundSamples
from p2ch13.training.backgrounds import read_backgrounds
from p2ch13.training.learner import Learner
from p2ch13.training.mining import HardNegatives, Mining
from p2ch13.training.painter import Painter
from p2ch13.training.provenance import fingerprint_data
from p2ch13.training.run import RunState
from p2ch13.training.shapes import find_donors, find_shapes
from p2ch13.util.errors import InputError, one_line


class RunData(NamedTuple):
    """The cache of a run's scans, and their split."""

    ct_cache: CtCache
    splits: Splits


def open_data(config: TrainingConfig, path: Path | None, state: Mapping[str, Any] | None) -> RunData:
    """Index the scans and split them before any label rule skips some: it must not change the split.

    Args: path, state: of a run that is resumed, which keeps its split; None for a new one.
    Raises: InputError for data that cannot be used, a part of the split without scans, or a corrupt state.
    """
    ct_cache = CtCache.open(config.folders, config.label_options)
    index = ct_cache.index
    if state is None:
        return RunData(ct_cache, make_splits(index.layout.scans, index.patients, config))
    try:
        saved = state.get("splits") or {"training": state["series"]["trn"], "validation": state["series"]["val"]}
        return RunData(ct_cache, parse_splits(saved))
    except UNREADABLE as error:
        raise InputError(f"its split is corrupt ({one_line(error)}); resume from another state", path=path) from None


def open_train_ds(
    config: TrainingConfig, data: RunData, device: torch.device, world_size: int
) -> TrainingLuna2dSegmentationDataset:
    """Raises: InputError for data that cannot be used, or fewer samples than processes."""
    if config.samples_per_epoch < world_size:
        counts = f"{config.samples_per_epoch} samples an epoch for {world_size} processes"
        raise InputError(f"{counts}; raise it", option="--samples-per-epoch")
    return TrainingLuna2dSegmentationDataset(
        series_list=data.splits.training,
        samples_per_epoch=config.samples_per_epoch,
        seed=config.seed,
        device=device,
        sampling=config,
        labels=config.label_options,
        ct_cache=data.ct_cache,
    )


def open_backgrounds(config: TrainingConfig, learner: Learner) -> BackgroundSamples | None:
    """Read the lungs of `--backgrounds` and the shapes to paint; None without.

    Raises: InputError for a folder or scan that cannot be used.
    """
    if config.backgrounds is None:
        return None
    backgrounds = read_backgrounds(
        config.backgrounds, config.cache_dir, config.slice_spacing_mm, config.left_out_background, thickened=True
    )
    return BackgroundSamples(backgrounds, Painter(find_shapes(config.nodule_shapes)), config, learner)


def name_data(
    run: RunState,
    data: RunData,
    datasets: Mapping[str, Luna2dSegmentationDataset],
    backgrounds: BackgroundSamples | None,
) -> None:
    """Name all that a run is trained on in it. Args: datasets: "trn" and "val". Raises: see `fingerprint_data`."""
    run.splits = data.splits
    run.series = {mode: dataset.series_list for mode, dataset in datasets.items()}
    all_series = [series_uid for dataset in datasets.values() for series_uid in dataset.series_list]
    run.data_fingerprint = fingerprint_data(data.ct_cache.index, all_series, run.config.crop_choice)
    if backgrounds is not None:
        run.series["backgrounds"] = list(dict.fromkeys(each.series_uid for each in backgrounds.backgrounds))
        run.background_checksums = [each.checksum for each in backgrounds.backgrounds]
        run.shape_donors = find_donors(backgrounds.painter.shapes)


def open_mining(
    train_ds: TrainingLuna2dSegmentationDataset,
    backgrounds: BackgroundSamples | None,
    learner: Learner,
    run: RunState,
    path: Path | None,
) -> Mining:
    """Continue what a run knows of hard negatives, those of the data folder and of backgrounds.

    Args: path: of the state that it resumes from, if it does.
    Raises: InputError, naming the path, for a state that is corrupt.
    """
    crops = None
    if train_ds.sampler.candidate_count > 1:
        sample_count = run.count_samples(run.epoch, run.step)
        crops = HardNegatives(train_ds.store, learner.model, learner.compute, learner.process, sample_count)
    mining = Mining(crops, backgrounds)
    if run.mining is not None:
        try:
            mining.load_state_dict(run.mining)
        except UNREADABLE as error:
            message = f"its hard negatives are corrupt ({one_line(error)}); resume from another state"
            raise InputError(message, path=path) from None
    return mining


def open_val_ds(config: TrainingConfig, data: RunData) -> Luna2dSegmentationDataset:
    """Raises: InputError for data that cannot be used, or a split whose validation series have no nodule."""
    val_ds = Luna2dSegmentationDataset(
        series_list=data.splits.validation,
        labels=config.label_options,
        slice_spacing_mm=config.slice_spacing_mm,
        negative_slices=config.val_negatives,
        ct_cache=data.ct_cache,
    )
    if not val_ds.nodule_slice_count:
        counts = f"none of the {len(val_ds.series_list)} validation series has a nodule"
        message = f"{counts}: there is nothing to score; choose another split"
        raise InputError(message, option=option_of(config, data.splits))
    return val_ds
