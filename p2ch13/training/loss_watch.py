"""Batches whose loss is not finite: found, named, and left out if that is wished."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch

from util.errors import InputError

log = logging.getLogger(__name__)

PATIENCE = 50  # batches whose losses a GPU is asked for at once, since it has to wait for each answer


class Seen(NamedTuple):
    """A batch whose loss has not been looked at yet."""

    name: str
    is_finite: torch.Tensor  # bool, on the device
    series_uids: Sequence[str]
    slice_ndxs: torch.Tensor


class LossWatch:
    """Looks at the loss of each batch: on a CPU at once, on a GPU when some have come together.

    That it comes late there does no harm: such a batch changes no weights, see `SegmentationTrainingApp.compute_step`.

    Args: skips: warn of such a batch, and do not raise.
    """

    def __init__(self, device: torch.device, skips: bool) -> None:
        self.patience = 1 if device.type == "cpu" else PATIENCE
        self.skips = skips
        self.seen: list[Seen] = []

    def add(self, name: str, losses: torch.Tensor, series_uids: Sequence[str], slice_ndxs: torch.Tensor) -> None:
        """Args: what the batch is called; its losses, (batch,); its samples' series and slices. Raises: see `check`."""
        self.seen.append(Seen(name, losses.detach().isfinite().all(), series_uids, slice_ndxs))
        if len(self.seen) >= self.patience:
            self.check()

    def check(self) -> None:
        """Look at what has come together. Raises: InputError, naming the batch, if its loss is not finite."""
        seen, self.seen = self.seen, []
        if not seen:
            return
        for batch, is_finite in zip(seen, torch.stack([batch.is_finite for batch in seen]).tolist(), strict=True):
            if is_finite:
                continue
            message = f"the loss of {batch.name} is not finite; its slices: {name_slices(batch)}"
            if not self.skips:
                raise InputError(
                    f"{message}; try --precision fp32 or a lower --learning-rate, or leave it out: --skip-bad-batches"
                )
            log.warning(f"Left out: {message}")


def name_slices(batch: Seen) -> str:
    slices: defaultdict[str, set[int]] = defaultdict(set)
    for series_uid, slice_ndx in zip(batch.series_uids, batch.slice_ndxs.tolist(), strict=True):
        slices[series_uid].add(slice_ndx)
    return ", ".join(f"{uid} {' '.join(map(str, sorted(ndxs)))}" for uid, ndxs in sorted(slices.items()))
