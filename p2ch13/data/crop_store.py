"""CropStore: all crops of a training set and their masks, on a GPU, in memory, or memory-mapped."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from p2ch13.config import CROP_WIDTH_IRC, TRAINING_CROP_SIZE, CropChoice
from p2ch13.data.cache import CtCache
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.errors import InputError
from p2ch13.util.memory import MemoryMappedTensor, PeriodicRelease
from p2ch13.util.progress import BAR_DELAY_S, progress_bar

log = logging.getLogger(__name__)

CROPS_IN_MEMORY_BYTES = 2**29  # three times what LUNA16's nodules need; a larger set is memory-mapped
GPU_MEMORY_SHARE = 0.5  # of a GPU's free memory, for crops; the network needs the rest

# HU, float32 (batch, 7, row, col), clipped to -1000..1000; masks, bool (batch, 1, row, col); UIDs; slices, (batch,).
Batch = tuple[torch.Tensor, torch.Tensor, list[str], torch.Tensor]


class Crop(NamedTuple):
    """A crop that samples are cut from."""

    series_uid: str
    center_xyz: XyzTuple  # mm, patient coordinates


class CropStore:
    """The crops of a training set, read from the cache into two tensors that batches are cut from.

    Args:
        ct_cache: the cache; crops too large for memory are mapped in its folder.
        series_list: the series of the training set.
        nodules: their nodules, in the order of the crops.
        choice: which crops there are besides those through the nodules' centers.
        context_slices_count: context slices on either side.
        device: the device of the batches; it holds the crops, too, unless they would fill half of a GPU's free memory.
        in_memory_bytes: crops of more bytes are memory-mapped, if the CPU holds them.
    Attributes:
        crop_list: all crops, nodules first; `nodule_crop_counts` of each nodule, then the negatives.
        slice_ndxs: (crop,), the slice of each crop's center.
        windows, mask_windows: views of all window positions, (crop, channel, row offset, col offset, 64, 64).
        mapped_tensors: the memory-mapped tensors.
    Raises: InputError if negatives are requested and there are none, or a scan cannot be read.
    """

    def __init__(
        self,
        ct_cache: CtCache,
        series_list: Sequence[str],
        nodules: Sequence[CandidateInfoTuple],
        choice: CropChoice,
        context_slices_count: int,
        device: torch.device,
        in_memory_bytes: int = CROPS_IN_MEMORY_BYTES,
    ) -> None:
        self.device = device
        self.nodule_crop_counts, self.crop_list = list_crops(ct_cache, series_list, nodules, choice)
        crop_count = len(self.crop_list)
        if choice.negatives and crop_count == sum(self.nodule_crop_counts):
            raise InputError("no training series has a place without a nodule; use 0", option="--negatives")
        self.mapped_tensors: list[MemoryMappedTensor] = []
        self._releasing = PeriodicRelease(self._release_memory)
        width_irc = (2 * context_slices_count + 1, *CROP_WIDTH_IRC[1:])
        shape, mask_shape = (crop_count, *width_irc), (crop_count, 1, *CROP_WIDTH_IRC[1:])
        hu_bytes = 2 * math.prod(shape)
        kept_on = choose_crops_device(device, hu_bytes + math.prod(mask_shape))
        folder = ct_cache.folder if kept_on.type == "cpu" and hu_bytes > in_memory_bytes else None
        hu, masks = self._allocate(shape, torch.int16, folder), self._allocate(mask_shape, torch.bool, folder)
        self.slice_ndxs = torch.empty(crop_count, dtype=torch.int64)
        with progress_bar(crop_count, "Reading crops", "crop", delay_s=BAR_DELAY_S) as bar:
            for ndx, (series_uid, center_xyz) in enumerate(self.crop_list):
                ct_chunk, pos_chunk, center_irc = ct_cache.get_ct_raw_candidate(
                    series_uid, center_xyz, width_irc, choice.slice_spacing_mm
                )
                hu.numpy()[ndx] = ct_chunk
                masks.numpy()[ndx, 0] = pos_chunk[context_slices_count]
                self.slice_ndxs[ndx] = center_irc.index
                self._releasing.count(1)
                bar.update()
        size = TRAINING_CROP_SIZE
        self.windows = hu.to(kept_on).unfold(2, size, 1).unfold(3, size, 1)
        self.mask_windows = masks.to(kept_on).unfold(2, size, 1).unfold(3, size, 1)

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None) -> torch.Tensor:
        if folder is None:
            return torch.empty(shape, dtype=dtype)
        self.mapped_tensors.append(MemoryMappedTensor(folder, shape, dtype))
        return self.mapped_tensors[-1].tensor

    def cut(self, places: torch.Tensor, crop_ndxs: NDArray[np.int64]) -> Batch:
        """Cut a batch at places, see `cut_windows`; `crop_ndxs` are the places' crops, known on the CPU."""
        series_uids = [self.crop_list[ndx].series_uid for ndx in crop_ndxs]
        batch = (*self.cut_windows(places), series_uids, self.slice_ndxs[crop_ndxs])
        self._releasing.count(len(crop_ndxs))
        return batch

    def cut_windows(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut windows at places, (3, batch): crop, row offset, col offset.

        Returns: HU, float32 (batch, 7, 64, 64), and masks, bool (batch, 1, 64, 64), on `device`.
        """
        crops, row_offsets, col_offsets = places
        hu, masks = (
            copy_to(self.device, windows[crops, :, row_offsets, col_offsets])
            for windows in (self.windows, self.mask_windows)
        )
        return hu.float(), masks

    def _release_memory(self) -> None:
        for mapped_tensor in self.mapped_tensors:
            mapped_tensor.release()


def list_crops(
    ct_cache: CtCache, series_list: Sequence[str], nodules: Sequence[CandidateInfoTuple], choice: CropChoice
) -> tuple[list[int], list[Crop]]:
    """List the number of crops of each nodule, and all crops: those of `nodules`, then the negatives by series."""
    found = {}
    with progress_bar(len(series_list), "Choosing crops", "scan", delay_s=BAR_DELAY_S) as bar:
        for series_uid in series_list:
            found[series_uid] = ct_cache.find_centers(series_uid, choice)
            bar.update()
    of_nodule = {
        (nodule.series_uid, nodule.center_xyz): centers
        for series_uid in series_list
        for nodule, centers in zip(ct_cache.index.nodules[series_uid], found[series_uid].of_nodules, strict=True)
    }
    of_nodules = [[Crop(n.series_uid, xyz) for xyz in of_nodule[n.series_uid, n.center_xyz]] for n in nodules]
    negatives = [Crop(uid, center_xyz) for uid in series_list for center_xyz in found[uid].negatives]
    return [len(crops) for crops in of_nodules], [*chain(*of_nodules), *negatives]


def choose_crops_device(device: torch.device, byte_count: int) -> torch.device:
    """Choose the device that holds the crops: `device`, or the CPU if they would fill a GPU."""
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        if byte_count > GPU_MEMORY_SHARE * free_bytes:
            log.info(f"Crops stay in the CPU's memory: {byte_count / 1e9:.1f} GB, {free_bytes / 1e9:.1f} GB are free.")
            return torch.device("cpu")
    return device


def copy_to(device: torch.device, values: torch.Tensor) -> torch.Tensor:
    """Copy values to a device; the CPU does not wait for a copy to a GPU."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
