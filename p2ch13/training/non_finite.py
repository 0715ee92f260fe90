"""Detect batches with a loss or gradient that is not finite; skip them or stop."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from p2ch13.training.distributed import sum_over_processes
from p2ch13.util.errors import InputError

log = logging.getLogger(__name__)

PATIENCE = 50  # batches that a GPU is asked about at once, since the CPU waits for each answer


class CheckedBatch(NamedTuple):
    """A batch whose faults are not read yet."""

    name: str
    faults: torch.Tensor  # (3,), bool, on the device
    series_uids: Sequence[str]
    slice_ndxs: torch.Tensor

    def describe(self, own_loss: bool, loss: bool, gradient: bool) -> str:
        if loss and not own_loss:
            return f"the loss of {self.name} is not finite in another process"
        return f"the {'loss' if loss else 'gradient'} of {self.name} is not finite; its slices: {self.name_slices()}"

    def name_slices(self) -> str:
        slices: defaultdict[str, set[int]] = defaultdict(set)
        for series_uid, slice_ndx in zip(self.series_uids, self.slice_ndxs.tolist(), strict=True):
            slices[series_uid].add(slice_ndx)
        return ", ".join(f"{uid} {' '.join(map(str, sorted(ndxs)))}" for uid, ndxs in sorted(slices.items()))


def find_faults(losses: torch.Tensor, parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Find out whether a loss or gradient of a training step is not finite: (3,) bool, on the device.

    The values: a loss of this process, a loss of any process, the gradient, which all processes share. The gradient's
    square has to be finite too: optimizers keep it.

    Args: losses: of this process's samples, (batch,); parameters: with their gradients.
    """
    own_loss = is_not_finite(losses)
    norms = torch.stack(torch._foreach_norm([each.grad for each in parameters if each.grad is not None]))
    counts = torch.stack([own_loss, ~norms.isfinite().all()]).float()
    sum_over_processes(counts)
    return torch.cat([own_loss.unsqueeze(0), counts > 0])


def find_validation_faults(losses: torch.Tensor) -> torch.Tensor:
    """Do the same for a batch of a validation, which has no gradient and belongs to one process."""
    is_bad = is_not_finite(losses)
    return torch.stack([is_bad, is_bad, torch.zeros_like(is_bad)])


def is_not_finite(losses: torch.Tensor) -> torch.Tensor:
    """Return a bool, on the device."""
    return ~losses.detach().isfinite().all()


class NonFiniteLossMonitor:
    """Reads the faults of each batch: on a CPU at once, on a GPU of many batches together.

    A late answer does no harm: such a batch changes no weights, see `train_step`.

    Args: skips: warn of such a batch instead of raising.
    """

    def __init__(self, device: torch.device, skips: bool) -> None:
        self.patience = 1 if device.type == "cpu" else PATIENCE
        self.skips = skips
        self.waiting: list[CheckedBatch] = []

    def add(self, name: str, faults: torch.Tensor, series_uids: Sequence[str], slice_ndxs: torch.Tensor) -> None:
        """Args: the batch's name; its faults; its samples' series and slices. Raises: see `check`."""
        self.waiting.append(CheckedBatch(name, faults.clone(), series_uids, slice_ndxs))  # a replay overwrites faults
        if len(self.waiting) >= self.patience:
            self.check()

    def check(self) -> None:
        """Read the faults so far. Raises: InputError, naming the batch, if something in it is not finite."""
        waiting, self.waiting = self.waiting, []
        if not waiting:
            return
        for batch, faults in zip(waiting, torch.stack([batch.faults for batch in waiting]).tolist(), strict=True):
            if not any(faults):
                continue
            message = batch.describe(*faults)
            if not self.skips:
                cure = "lower it, try --precision fp32, or skip such batches: --skip-non-finite"
                raise InputError(f"{message}; {cure}", option="--learning-rate")
            log.warning(f"Skipped: {message}")
