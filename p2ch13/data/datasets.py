"""Luna2dSegmentationDataset (whole slices) and TrainingLuna2dSegmentationDataset (random crops)."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from p2ch13.config import (
    CONTEXT_SLICES_COUNT,
    CROP_WIDTH_IRC,
    TRAINING_CROP_SIZE,
    CropChoice,
    Folders,
    LabelOptions,
    TrainingConfig,
)
from p2ch13.data.cache import CtCache
from p2ch13.data.prepare import precache_command
from p2ch13.data.sampling import EpochSampler, EpochSamples, find_steps, share_steps
from p2ch13.labels.candidates import sort_candidates
from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.errors import InputError
from p2ch13.util.launch import Launch
from p2ch13.util.memory import DiskTensor
from p2ch13.util.progress import progress_bar
from p2ch13.volumes.files import no_such_series

log = logging.getLogger(__name__)

CROPS_IN_MEMORY_BYTES = 2**29  # three times what LUNA16's nodules need; a larger set stays on disk
GPU_MEMORY_SHARE = 0.5  # of what is free on a GPU, for crops; the rest is for the network's work
BAR_DELAY_S = 1.0  # what is in the cache is read before a bar would be seen
RELEASE_AFTER_SAMPLES = 64  # for each of which the system may have mapped 2 MB into memory, the largest of pages

# HU, float32 (7, row, col), clipped to -1000..1000; mask, bool (1, row, col); series UID; index of the slice.
Sample = tuple[torch.Tensor, torch.Tensor, str, int]
# The same for several samples: (batch, 7, row, col), (batch, 1, row, col), UIDs, (batch,).
Batch = tuple[torch.Tensor, torch.Tensor, list[str], torch.Tensor]
# Crops, (n, 7, 64, 64), and a mask of the pixels that do not count, (n, 1, 64, 64) -> (n,), the larger the harder.
HardnessRating = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

MIN_NEGATIVE_SLICES = 4  # of each scan, where a dataset has slices without nodule

RATED_MARGIN = 16  # rows and cols at each side that do not count in a rating: a negative's place lies in the middle


class Crop(NamedTuple):
    """Where training cuts samples."""

    series_uid: str
    center_xyz: XyzTuple  # mm, patient coordinates


class Luna2dSegmentationDataset(Dataset[Sample]):
    """Slices between their neighbours, each with the mask of its nodules.

    Args:
        val_stride: every `val_stride`-th series, from the first on, is for validation; 0 takes all series.
        is_val_set: True keeps those series, False the others; None, with 0, all.
        series_uid: this one series only.
        context_slices_count: neighbours on either side; the first and the last slice are repeated beyond the ends.
        full_ct: every slice, not only those that hold nodule.
        folders: where scans, CSV files and the cache are.
        labels: how nodules are marked; the book's way if nothing is said.
        slice_spacing_mm: spacing of the context slices, see `Ct.context_indexes`; 0: adjacent slices.
        negative_slices: slices without nodule as well, so many for each with one and at least `MIN_NEGATIVE_SLICES`
            of each scan, spread over it; 0 takes none.
    Attributes: `series_list`; `pos_list`, their nodules, largest first; `sample_list`, series UID and slice of each
        item; `nodule_slice_count`, how many of these hold nodule.
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
        folders: Folders | None = None,
        labels: LabelOptions | None = None,
        slice_spacing_mm: float = 0.0,
        negative_slices: float = 0.0,
    ) -> None:
        self.context_slices_count = context_slices_count
        self.negative_slices = negative_slices
        self.slice_spacing_mm = slice_spacing_mm
        self.full_ct = full_ct
        self.labels = labels or LabelOptions()
        self.ct_cache = CtCache(folders or Folders(), self.labels)
        # Split first, so that two kinds of labels, of which one leaves scans out, have the same validation scans.
        chosen = split_series(self.ct_cache.all_series, val_stride, is_val_set, series_uid)
        self.series_list = self.ct_cache.keep_labelled(chosen)
        self.pos_list = sort_candidates([n for uid in self.series_list for n in self.ct_cache.nodules[uid]])
        self.nodule_slice_count = 0
        self.sample_list = self._find_samples()

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
        """A whole slice, whether or not it is one of the samples."""
        ct = self.ct_cache.get_ct(series_uid)
        hu = torch.from_numpy(ct.get_slice(slice_ndx, self.context_slices_count, self.slice_spacing_mm)).float()
        mask = torch.from_numpy(ct.get_slice_mask(slice_ndx)).unsqueeze(0)
        return hu, mask, series_uid, slice_ndx

    def group_by_series(self, batch_size: int, launch: Launch | None = None) -> list[list[int]]:
        """Indexes of samples in batches of one series each, for `DataLoader(batch_sampler=...)`.

        Scans differ in rows and cols, so that slices of two of them may not fit into one tensor. Of several processes
        each gets every so many-th series, so that a scan is read by one of them only.
        """
        series: defaultdict[str, list[int]] = defaultdict(list)
        for ndx, (series_uid, _) in enumerate(self.sample_list):
            series[series_uid].append(ndx)
        return [
            ndxs[start : start + batch_size]
            for ndxs in (launch or Launch()).share(list(series.values()))
            for start in range(0, len(ndxs), batch_size)
        ]


class TrainingLuna2dSegmentationDataset(Luna2dSegmentationDataset):
    """Random 64x64 crops out of the 96x96 around each nodule, `samples_per_epoch` of them.

    All crops lie in two tensors on `device` (200 MB for LUNA16's nodules, some 7 GB with its negatives and other
    slices), and `batches` hands out whole batches of them. Where they would take more than half of a GPU's free memory,
    the CPU keeps them, and each batch is copied; where a CPU's memory should not hold them, they lie in a file in the
    cache's folder. A plain `DataLoader` works as well; its samples are those of steps of 16.
    Which crop and where a sample is cut depends on the seed, the number of the epoch and which samples are in a step
    together, see `EpochSampler`: not on how many processes share a step, nor on where a run that is resumed goes on.

    Args: those of `Luna2dSegmentationDataset`, and
        samples_per_epoch: the length.
        seed: fixes the samples.
        device: where batches come out, and the crops are kept if they fit.
        negatives: share of the samples that have no nodule at their centre, spread evenly over the epoch.
        all_nodule_slices: cut nodules at all their slices, not through the centre alone.
        hard_negative_candidates: places that are drawn for each negative; `batches` can take the hardest of its own.
        weight_by_diameter: draw a nodule the more often, the larger it is: in proportion to its diameter.
    Attributes: `crop_list`, one for each crop that is kept, those of nodules first.
    Raises: InputError, also if no series has a nodule, or none of the negatives that are asked for.
    """

    def __init__(
        self,
        val_stride: int = 0,
        is_val_set: bool | None = None,
        series_uid: str | None = None,
        context_slices_count: int = CONTEXT_SLICES_COUNT,
        *,
        samples_per_epoch: int = TrainingConfig.samples_per_epoch,
        seed: int = 0,
        device: torch.device | str = "cpu",
        negatives: float = 0.0,
        hard_negative_candidates: int = 1,
        all_nodule_slices: bool = False,
        weight_by_diameter: bool = False,
        folders: Folders | None = None,
        labels: LabelOptions | None = None,
        slice_spacing_mm: float = 0.0,
    ) -> None:
        super().__init__(
            val_stride,
            is_val_set,
            series_uid,
            context_slices_count,
            folders=folders,
            labels=labels,
            slice_spacing_mm=slice_spacing_mm,
        )
        if not self.pos_list:
            raise InputError("no training series has a nodule; choose another split with --val-stride")
        self.samples_per_epoch = samples_per_epoch
        self.epoch_ndx = 0
        self.disk_tensors: list[DiskTensor] = []
        self.samples_until_release = RELEASE_AFTER_SAMPLES
        choice = CropChoice(all_nodule_slices, negatives > 0, slice_spacing_mm)
        self._check_prepared(choice, negatives)
        nodule_crop_counts, self.crop_list = self._list_crops(choice)
        if negatives and len(self.crop_list) == sum(nodule_crop_counts):
            raise InputError("no training series has a place without a nodule; leave out --negatives")
        self.device = torch.device(device)
        self._read_crops()
        self.sampler = EpochSampler(
            nodule_crop_counts,
            [nodule.diameter_mm for nodule in self.pos_list],
            crop_count=len(self.crop_list),
            offset_counts=self.ct_windows.shape[2:4],
            samples_per_epoch=samples_per_epoch,
            seed=seed,
            device=self.ct_windows.device,
            negatives=negatives,
            hard_negative_candidates=hard_negative_candidates if negatives else 1,
            weight_by_diameter=weight_by_diameter,
        )
        self.shuffle_samples()

    def _find_samples(self) -> list[tuple[str, int]]:
        return []  # a sample is cut around a nodule: none is tied to a slice

    def _check_prepared(self, choice: CropChoice, negatives: float) -> None:
        """Say so if the scans have to be read, and which command does that in several processes."""
        missing = [uid for uid in self.series_list if not self.ct_cache.is_complete(uid, choice)]
        if missing:
            folders = Folders(self.ct_cache.data_dir, self.ct_cache.folder)
            command = precache_command(folders, self.labels, choice, negatives)
            log.warning(
                f"precache.py has not prepared {len(missing)} of {len(self.series_list)} training scans for these "
                f"options; what is missing is read now, one scan at a time. In several processes: {command}"
            )

    def _list_crops(self, choice: CropChoice) -> tuple[list[int], list[Crop]]:
        """How many crops each nodule has, and all crops: those of `pos_list`, then negatives, by `series_list`."""
        places = {}
        with progress_bar(len(self.series_list), "Choosing crops", "scan", delay_s=BAR_DELAY_S) as bar:
            for series_uid in self.series_list:
                places[series_uid] = self.ct_cache.find_centers(series_uid, choice)
                bar.update()
        of_nodule = {
            (nodule.series_uid, nodule.center_xyz): centers
            for series_uid in self.series_list
            for nodule, centers in zip(self.ct_cache.nodules[series_uid], places[series_uid].of_nodules, strict=True)
        }
        centers_of_nodules = [of_nodule[nodule.series_uid, nodule.center_xyz] for nodule in self.pos_list]
        crops = [
            Crop(nodule.series_uid, center_xyz)
            for nodule, centers in zip(self.pos_list, centers_of_nodules, strict=True)
            for center_xyz in centers
        ]
        crops += [Crop(uid, center_xyz) for uid in self.series_list for center_xyz in places[uid].negatives]
        return [len(centers) for centers in centers_of_nodules], crops

    def _read_crops(self) -> None:
        width_irc = (2 * self.context_slices_count + 1, *CROP_WIDTH_IRC[1:])
        crop_count = len(self.crop_list)
        hu_bytes, mask_bytes = crop_count * math.prod(width_irc) * 2, crop_count * math.prod(width_irc[1:])
        device = choose_crops_device(self.device, hu_bytes + mask_bytes)
        on_disk = device.type == "cpu" and hu_bytes > CROPS_IN_MEMORY_BYTES
        crops = self._allocate((crop_count, *width_irc), torch.int16, on_disk)
        masks = self._allocate((crop_count, 1, *width_irc[1:]), torch.bool, on_disk)
        self.slice_ndxs = torch.empty(crop_count, dtype=torch.int64)
        with progress_bar(crop_count, "Reading crops", "crop", delay_s=BAR_DELAY_S) as bar:
            for ndx, crop in enumerate(self.crop_list):
                ct_chunk, pos_chunk, center_irc = self.ct_cache.get_ct_raw_candidate(
                    crop.series_uid, crop.center_xyz, width_irc, self.slice_spacing_mm
                )
                crops.numpy()[ndx] = ct_chunk
                masks.numpy()[ndx, 0] = pos_chunk[self.context_slices_count]
                self.slice_ndxs[ndx] = center_irc.index
                self._release_memory(1)
                bar.update()
        # Every place that a 64x64 window can take, as a view: (crop, channel, row offset, col offset, 64, 64).
        size = TRAINING_CROP_SIZE
        self.ct_windows = crops.to(device).unfold(2, size, 1).unfold(3, size, 1)
        self.mask_windows = masks.to(device).unfold(2, size, 1).unfold(3, size, 1)

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype, on_disk: bool) -> torch.Tensor:
        if not on_disk:
            return torch.empty(shape, dtype=dtype)
        self.disk_tensors.append(DiskTensor(self.ct_cache.folder, shape, dtype))
        return self.disk_tensors[-1].tensor

    def _release_memory(self, sample_count: int) -> None:
        """Every so many samples, let go of the crops on disk that were mapped into memory for them."""
        self.samples_until_release -= sample_count
        if self.samples_until_release <= 0:
            self.samples_until_release = RELEASE_AFTER_SAMPLES
            for disk_tensor in self.disk_tensors:
                disk_tensor.release()

    def shuffle_samples(self, epoch_ndx: int | None = None) -> None:
        """Begin an epoch, the next one if none is named: other samples, from other crops, cut at other places."""
        self.epoch_ndx = self.epoch_ndx + 1 if epoch_ndx is None else epoch_ndx
        self.__dict__.pop("epoch_samples", None)

    @cached_property
    def epoch_samples(self) -> EpochSamples:
        """What a `DataLoader` reads."""
        return self.sampler.draw(self.epoch_ndx, find_steps(len(self), TrainingConfig.batch_size, process_count=1))

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __getitem__(self, ndx: int) -> Sample:
        if not -len(self) <= ndx < len(self):
            raise IndexError(f"sample {ndx} of {len(self)}")
        return self.__getitems__([ndx])[0]

    def __getitems__(self, ndxs: Sequence[int]) -> list[Sample]:
        """Several samples at once: what a `DataLoader` asks for."""
        samples = self.epoch_samples
        ct_slices, masks, series_uids, slice_ndxs = self._cut(samples.places[:, ndxs], samples.crop_ndxs[ndxs])
        return list(zip(ct_slices, masks, series_uids, slice_ndxs.tolist(), strict=True))

    def batches(
        self,
        batch_size: int,
        launch: Launch | None = None,
        first_step: int = 0,
        rate: HardnessRating | None = None,
    ) -> Iterator[Batch]:
        """All samples of the epoch, in whole batches, those of the steps before `first_step` left out.

        The last batch may be smaller. Of several processes each gets its part of every step's samples; there must be as
        many samples as processes.

        Args: rate: how hard crops are by the pixels that count; each negative is cut at the hardest of its places.
        """
        launch = launch or Launch()
        samples = self.sampler.draw(self.epoch_ndx, find_steps(len(self), batch_size, launch.world_size))
        for part in share_steps(len(self), batch_size, launch)[first_step:]:
            if rate is None or self.sampler.hard_negative_candidates == 1:
                yield self._cut(samples.places[:, part], samples.crop_ndxs[part])
            else:
                places = samples.find_hardest(part, partial(self._rate_places, rate))
                yield self._cut(places, places[0].cpu().numpy())

    def _rate_places(self, rate: HardnessRating, places: torch.Tensor) -> torch.Tensor:
        """The rating of the middle of crops that the network sees whole, with all that reaches into the middle."""
        ct_slices, masks = self._cut_windows(places)
        is_ignored = torch.ones_like(masks)
        middle = (..., slice(RATED_MARGIN, -RATED_MARGIN), slice(RATED_MARGIN, -RATED_MARGIN))
        is_ignored[middle] = masks[middle]
        return rate(ct_slices, is_ignored)

    def _cut_windows(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """HU, float32 (batch, 7, 64, 64), and masks, (batch, 1, 64, 64), on the device that batches are for."""
        crops, row_offsets, col_offsets = places
        ct_slices, masks = (
            copy_to(self.device, windows[crops, :, row_offsets, col_offsets])
            for windows in (self.ct_windows, self.mask_windows)
        )
        return ct_slices.float(), masks

    def _cut(self, places: torch.Tensor, crop_ndxs: NDArray[np.int64]) -> Batch:
        series_uids = [self.crop_list[ndx].series_uid for ndx in crop_ndxs]
        batch = (*self._cut_windows(places), series_uids, self.slice_ndxs[crop_ndxs])
        self._release_memory(len(crop_ndxs))
        return batch


def choose_crops_device(device: torch.device, byte_count: int) -> torch.device:
    """Where crops are kept: on the device, or on the CPU if they would fill a GPU."""
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        if byte_count > GPU_MEMORY_SHARE * free_bytes:
            log.info(f"Crops stay in the CPU's memory: {byte_count / 1e9:.1f} GB, {free_bytes / 1e9:.1f} GB are free.")
            return torch.device("cpu")
    return device


def copy_to(device: torch.device, values: torch.Tensor) -> torch.Tensor:
    """The values on a device; the CPU does not wait for a copy to a GPU."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def choose_negative_slices(slice_count: int, positive_indexes: Sequence[int], share: float) -> list[int]:
    """Slices of a scan without nodule, evenly spread: `share` times as many as those with, and at least a few."""
    if not share:
        return []
    others = [ndx for ndx in range(slice_count) if ndx not in positive_indexes]
    count = min(max(round(share * len(positive_indexes)), MIN_NEGATIVE_SLICES), len(others))
    return [others[int((ndx + 0.5) * len(others) / count)] for ndx in range(count)]


def split_series(
    series_list: Sequence[str], val_stride: int, is_val_set: bool | None, series_uid: str | None
) -> list[str]:
    """The series of one side of the split. Raises: InputError if it is empty, ValueError for a meaningless call."""
    if is_val_set and val_stride <= 0:
        raise ValueError("a validation set needs a val_stride of at least 1")
    chosen = list(series_list)
    if series_uid is not None:
        chosen = [uid for uid in chosen if uid == series_uid]
        if not chosen:
            raise no_such_series(series_uid)
    if is_val_set:
        chosen = chosen[::val_stride]
    elif val_stride > 0:
        del chosen[::val_stride]
    if not chosen:
        raise InputError(
            f"{len(series_list)} scans and every {val_stride}. for validation leave none for training; "
            "choose another --val-stride or add scans"
        )
    return chosen
