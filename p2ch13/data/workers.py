"""Worker processes of a `DataLoader`, as many as shared memory has room for."""

from __future__ import annotations

import logging
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from p2ch13.data.datasets import Luna2dSegmentationDataset

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
BATCHES_PER_WORKER = 2  # PyTorch's `prefetch_factor`


def fit_workers(
    dataset: Luna2dSegmentationDataset,
    batches: Sequence[Sequence[int]],
    wanted: int,
    shared_memory: Path = SHARED_MEMORY,
) -> int:
    """Return the number of workers to read batches of whole slices; warn if shared memory allows fewer than are wanted.

    Workers send batches through shared memory, of which Docker gives a container 64 MB; PyTorch ends with an error
    where it is full.

    Args: batches: see `Luna2dSegmentationDataset.group_by_series`; shared_memory: its folder.
    """
    if not wanted or not batches:
        return wanted
    count = min(wanted, count_fitting(find_largest(dataset, batches), shared_memory))
    if count < wanted:
        log.warning(
            f"Shared memory ({shared_memory}) has room for {count} of {wanted} workers: using {count}. Make it larger, "
            "in Docker with --shm-size, or choose a smaller --num-workers."
        )
    return count


def find_largest(dataset: Luna2dSegmentationDataset, batches: Sequence[Sequence[int]]) -> int:
    """Return the bytes of the largest batch: float32 slices with their context slices, and a bool mask."""
    pixel_counts = {uid: math.prod(dataset.index.get_ct(uid).shape_irc[1:]) for uid in dataset.series_list}
    pixel_bytes = (2 * dataset.context_slices_count + 1) * torch.float32.itemsize + torch.bool.itemsize
    return max(len(ndxs) * pixel_counts[dataset.sample_list[ndxs[0]][0]] * pixel_bytes for ndxs in batches)


def count_fitting(batch_bytes: int, shared_memory: Path) -> int:
    """Return the number of workers whose batches fit, two that each prepares and one in use; no limit if unknown."""
    if not shared_memory.is_dir():
        return sys.maxsize
    room = shutil.disk_usage(shared_memory).free // batch_bytes
    return max(0, room - 1) // BATCHES_PER_WORKER
