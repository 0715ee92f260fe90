"""Luna2dSegmentationDataset (whole slices) and TrainingLuna2dSegmentationDataset (random crops)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch.utils.data import Dataset

from p2ch13.config import CONTEXT_SLICES_COUNT, Folders, LabelOptions, SamplingOptions
from p2ch13.data.cache import CtCache
from p2ch13.data.crop_store import CROPS_IN_MEMORY_BYTES, Batch, CropStore
from p2ch13.data.prepare import keep_readable, precache_command
from p2ch13.data.sampling import (
    EpochSampler,
    EpochSamples,
    check_memory,
    choose_negative_slices,
    find_steps,
    share_steps,
)
from p2ch13.data.splits import split_series
from p2ch13.labels.candidates import sort_candidates
from p2ch13.util.errors import InputError
from p2ch13.util.memory import available_memory
from p2ch13.util.process_rank import ProcessRank
from p2ch13.util.progress import BAR_DELAY_S, progress_bar

log = logging.getLogger(__name__)

LOADER_BATCH_SIZE = 16  # of a plain `DataLoader`, which does not tell the dataset its own

# One sample of a `Batch`: (7, row, col), (1, row, col), series UID, index of the slice.
Sample = tuple[torch.Tensor, torch.Tensor, str, int]


class Luna2dSegmentationDataset(Dataset[Sample]):
    """Slices with their context slices and the mask of their nodules.

    Args:
        val_stride: every `val_stride`-th patient, from the first, is for validation; 0 takes all.
        is_val_set: True keeps their series, False the others; None, with 0, all.
        series_uid: only this series.
        series_list: these series, in place of a side of the split.
        context_slices_count: context slices on either side; beyond the ends the last slice is repeated.
        full_ct: every slice instead of the nodule slices.
        folders: the data folder and the cache.
        labels: how nodules are marked; None: the book's box.
        slice_spacing_mm: spacing of the context slices, see `Ct.context_indexes`; 0: adjacent slices.
        negative_slices: slices without nodule per nodule slice, at least `MIN_NEGATIVE_SLICES` of each scan, evenly
            spread; 0: none.
        ct_cache: an open cache in place of `CtCache.open(folders, labels)`.
    Attributes: `ct_cache` and its `index`; `series_list`; `pos_list`, their nodules, largest first; `sample_list`,
        series UID and slice of each item; `nodule_slice_count`.
    Raises: InputError if a folder, file or scan cannot be used or the split leaves no series.
    """

    def __init__(
        self,
        val_stride: int = 0,
        is_val_set: bool | None = None,
        series_uid: str | None = None,
        context_slices_count: int = CONTEXT_SLICES_COUNT,
        full_ct: bool = False,
        *,
        series_list: Sequence[str] | None = None,
        folders: Folders | None = None,
        labels: LabelOptions | None = None,
        slice_spacing_mm: float = 0.0,
        negative_slices: float = 0.0,
        ct_cache: CtCache | None = None,
    ) -> None:
        self.context_slices_count = context_slices_count
        self.negative_slices = negative_slices
        self.slice_spacing_mm = slice_spacing_mm
        self.full_ct = full_ct
        self.labels = labels or LabelOptions()
        self.ct_cache = ct_cache or CtCache.open(folders or Folders(), self.labels)
        self.index = self.ct_cache.index
        # Split first: labels that skip scans must not change which scans are for validation.
        if series_list is None:
            series_list = split_series(self.index.all_series, self.index.patients, val_stride, is_val_set, series_uid)
        labeled = self.index.keep_labeled(series_list)
        self._prepare(labeled)
        self.series_list = keep_readable(labeled, self._read_series)
        self.pos_list = sort_candidates([n for uid in self.series_list for n in self.index.nodules[uid]])
        self.nodule_slice_count = 0
        self.sample_list = self._find_samples()

    def _prepare(self, series_list: Sequence[str]) -> None:
        """Do what comes before series are read."""

    def _read_series(self, series_uid: str) -> None:
        """Read what samples of a series are found by, from the cache if it is there."""
        self.ct_cache.get_ct_sample_size(series_uid)
        self.ct_cache.find_centers(series_uid)

    def _find_samples(self) -> list[tuple[str, int]]:
        samples: list[tuple[str, int]] = []
        with progress_bar(len(self.series_list), "Finding slices", "scan", delay_s=BAR_DELAY_S) as bar:
            for series_uid in self.series_list:
                slice_count, positive_indexes = self.ct_cache.get_ct_sample_size(series_uid)
                self.nodule_slice_count += len(positive_indexes)
                slice_ndxs: Sequence[int] = range(slice_count)
                if not self.full_ct:
                    negatives = choose_negative_slices(slice_count, positive_indexes, self.negative_slices)
                    slice_ndxs = sorted([*positive_indexes, *negatives])
                samples += [(series_uid, ndx) for ndx in slice_ndxs]
                bar.update()
        return samples

    def __len__(self) -> int:
        return len(self.sample_list)

    def __getitem__(self, ndx: int) -> Sample:
        return self.get_full_slice(*self.sample_list[ndx])

    def get_full_slice(self, series_uid: str, slice_ndx: int) -> Sample:
        """Read a whole slice, whether or not it is one of the samples."""
        ct = self.index.get_ct(series_uid)
        hu = torch.from_numpy(ct.get_slice(slice_ndx, self.context_slices_count, self.slice_spacing_mm)).float()
        mask = torch.from_numpy(ct.get_slice_mask(slice_ndx)).unsqueeze(0)
        return hu, mask, series_uid, slice_ndx

    def group_by_series(self, batch_size: int, process: ProcessRank | None = None) -> list[list[int]]:
        """Group the indexes of samples into batches of one series each, for `DataLoader(batch_sampler=...)`.

        Scans differ in rows and cols, so slices of two scans may not fit into one tensor. Each process gets whole
        series, so that it alone reads their scans.
        """
        series: defaultdict[str, list[int]] = defaultdict(list)
        for ndx, (series_uid, _) in enumerate(self.sample_list):
            series[series_uid].append(ndx)
        return [
            ndxs[start : start + batch_size]
            for ndxs in (process or ProcessRank()).share(list(series.values()))
            for start in range(0, len(ndxs), batch_size)
        ]


class TrainingLuna2dSegmentationDataset(Luna2dSegmentationDataset):
    """Random 64x64 windows of the 96x96 crops around nodules and negatives, `samples_per_epoch` of them.

    `CropStore` holds all crops (200 MB for LUNA16's nodules, some 7 GB with negatives and all nodule slices), and
    `batches` cuts whole batches from it. A plain `DataLoader` works as well; it gets the samples of steps of 16.
    The seed, the epoch and the samples of a step determine crops and positions (see `EpochSampler`); the number of
    processes that share a step and where a run was resumed do not.

    Args: those of `Luna2dSegmentationDataset`, and
        samples_per_epoch: the length.
        seed: of the samples.
        device: the device of the batches; it holds the crops if they fit.
        sampling: which crops there are and how they are drawn.
        crops_in_memory_bytes: crops of more bytes are memory-mapped.
    Attributes: `store` and its `crop_list`; `sampler`.
    Raises: InputError, also if no series has a nodule, or negatives are requested and there are none.
    """

    def __init__(
        self,
        val_stride: int = 0,
        is_val_set: bool | None = None,
        series_uid: str | None = None,
        context_slices_count: int = CONTEXT_SLICES_COUNT,
        *,
        series_list: Sequence[str] | None = None,
        samples_per_epoch: int = 300_000,
        seed: int = 0,
        device: torch.device | str = "cpu",
        sampling: SamplingOptions | None = None,
        folders: Folders | None = None,
        labels: LabelOptions | None = None,
        ct_cache: CtCache | None = None,
        crops_in_memory_bytes: int = CROPS_IN_MEMORY_BYTES,
    ) -> None:
        sampling = sampling or SamplingOptions()
        check_memory(samples_per_epoch, sampling, available_memory())
        self.crop_choice, self.negatives = sampling.crop_choice, sampling.negatives
        super().__init__(
            val_stride,
            is_val_set,
            series_uid,
            context_slices_count,
            series_list=series_list,
            folders=folders,
            labels=labels,
            slice_spacing_mm=sampling.slice_spacing_mm,
            ct_cache=ct_cache,
        )
        if not self.pos_list:
            in_any = any(self.index.nodules[series_uid] for series_uid in self.index.series_list)
            reason = None if in_any else self.index.no_nodules(self.series_list)
            raise reason or InputError("no training series has a nodule; choose another split")
        self.samples_per_epoch = samples_per_epoch
        self.epoch_ndx = 0
        crops = (self.series_list, self.pos_list, self.crop_choice, context_slices_count)
        self.store = CropStore(self.ct_cache, *crops, torch.device(device), crops_in_memory_bytes)
        self.crop_list = self.store.crop_list
        self.sampler = EpochSampler(
            self.store.nodule_crop_counts,
            [nodule.diameter_mm for nodule in self.pos_list],
            crop_count=len(self.crop_list),
            offset_counts=self.store.windows.shape[2:4],
            samples_per_epoch=samples_per_epoch,
            seed=seed,
            device=self.store.windows.device,
            options=sampling,
        )
        self.shuffle_samples()

    def _find_samples(self) -> list[tuple[str, int]]:
        return []  # samples are cut around nodules: they have no slice of their own

    def _prepare(self, series_list: Sequence[str]) -> None:
        """Find the series that are not cached for these options, and say how to cache them faster."""
        self._missing = {uid for uid in series_list if not self.ct_cache.is_complete(uid, self.crop_choice)}
        if self._missing:
            folders = Folders(self.index.data_dir, self.ct_cache.folder)
            command = precache_command(folders, self.labels, self.crop_choice, self.negatives)
            log.warning(
                f"{len(self._missing)} of {len(series_list)} training scans are not cached for these options; reading "
                f"them now, one at a time. To cache them in several processes: {command}"
            )

    def _read_series(self, series_uid: str) -> None:
        if series_uid in self._missing:
            self.ct_cache.fill(series_uid, self.crop_choice)

    def shuffle_samples(self, epoch_ndx: int | None = None) -> None:
        """Begin an epoch, by default the next one: draw other crops and positions."""
        self.epoch_ndx = self.epoch_ndx + 1 if epoch_ndx is None else epoch_ndx
        self.__dict__.pop("epoch_samples", None)

    @cached_property
    def epoch_samples(self) -> EpochSamples:
        """The samples of this epoch for a plain `DataLoader`."""
        return self.sampler.draw(self.epoch_ndx, find_steps(len(self), LOADER_BATCH_SIZE, process_count=1))

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __getitem__(self, ndx: int) -> Sample:
        if not -len(self) <= ndx < len(self):
            raise IndexError(f"sample {ndx} of {len(self)}")
        return self.__getitems__([ndx])[0]

    def __getitems__(self, ndxs: Sequence[int]) -> list[Sample]:
        """Several samples at once, as a `DataLoader` requests them."""
        samples = self.epoch_samples
        ct_slices, masks, series_uids, slice_ndxs = self.store.cut(samples.places[:, ndxs], samples.crop_ndxs[ndxs])
        return list(zip(ct_slices, masks, series_uids, slice_ndxs.tolist(), strict=True))

    def batches(
        self,
        batch_size: int,
        process: ProcessRank | None = None,
        first_step: int = 0,
        hardness: torch.Tensor | None = None,
    ) -> Iterator[Batch]:
        """Yield the epoch's samples in whole batches, from step `first_step` on; the last batch may be smaller.

        Each process gets its share of every step's samples; there must be as many samples as processes.

        Args: hardness: of each crop, (crop,), on the device of the crops, read anew for each batch: a negative is the
            hardest of its candidates. None: the first of them.
        """
        process = process or ProcessRank()
        samples = self.sampler.draw(self.epoch_ndx, find_steps(len(self), batch_size, process.world_size))
        for part in share_steps(len(self), batch_size, process)[first_step:]:
            if hardness is None:
                yield self.store.cut(samples.places[:, part], samples.crop_ndxs[part])
            else:
                places = samples.find_hardest(part, hardness)
                yield self.store.cut(places, places[0].cpu().numpy())
