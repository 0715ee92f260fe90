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

PATIENCE = 50  # batches whose losses a GPU is asked for at once, since it has to wait for each answer


class Faults(NamedTuple):
    """What was not finite in a step, in the order of `find_faults`."""

    own_loss: bool
    loss: bool
    gradient: bool

    def describe(self, batch: Seen) -> str:
        if self.loss and not self.own_loss:
            return f"the loss of {batch.name} is not finite in another process"
        what = "loss" if self.loss else "gradient"
        return f"the {what} of {batch.name} is not finite; its slices: {name_slices(batch)}"


class Seen(NamedTuple):
    """A batch whose faults have not been looked at yet."""

    name: str
    faults: torch.Tensor  # (3,), bool, on the device
    series_uids: Sequence[str]
    slice_ndxs: torch.Tensor


def find_faults(losses: torch.Tensor, parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Whether a loss or gradient of a training step is not finite: (3,) bool, on the device.

    First whether a loss of this process is not, then whether one of any process is not, then whether the gradient is
    not, which all processes share. Nor may the gradient's square be: optimizers keep it.

    Args: losses: of this process's samples, (batch,); parameters: with their gradients.
    """
    own_loss = is_not_finite(losses)
    norms = torch.stack([parameter.grad.norm() for parameter in parameters if parameter.grad is not None])
    counts = torch.stack([own_loss, ~norms.isfinite().all()]).float()
    sum_over_processes(counts)
    return torch.cat([own_loss.unsqueeze(0), counts > 0])


def find_validation_faults(losses: torch.Tensor) -> torch.Tensor:
    """The same of a validation's batch, which has no gradient and is one process's alone."""
    is_bad = is_not_finite(losses)
    return torch.stack([is_bad, is_bad, torch.zeros_like(is_bad)])


def is_not_finite(losses: torch.Tensor) -> torch.Tensor:
    """A bool, on the device."""
    return ~losses.detach().isfinite().all()


class NonFiniteLossMonitor:
    """Looks at the faults of each batch: on a CPU at once, on a GPU when some have come together.

    That it comes late there does no harm: such a batch changes no weights, see `SegmentationTrainingApp.compute_step`.

    Args: skips: warn of such a batch, and do not raise.
    """

    def __init__(self, device: torch.device, skips: bool) -> None:
        self.patience = 1 if device.type == "cpu" else PATIENCE
        self.skips = skips
        self.seen: list[Seen] = []

    def add(self, name: str, faults: torch.Tensor, series_uids: Sequence[str], slice_ndxs: torch.Tensor) -> None:
        """Args: what the batch is called; its faults; its samples' series and slices. Raises: see `check`."""
        self.seen.append(Seen(name, faults.clone(), series_uids, slice_ndxs))  # a recorded step overwrites them
        if len(self.seen) >= self.patience:
            self.check()

    def check(self) -> None:
        """Look at what has come together. Raises: InputError, naming the batch, if something in it is not finite."""
        seen, self.seen = self.seen, []
        if not seen:
            return
        for batch, values in zip(seen, torch.stack([batch.faults for batch in seen]).tolist(), strict=True):
            faults = Faults(*values)
            if not any(faults):
                continue
            message = faults.describe(batch)
            if not self.skips:
                raise InputError(
                    f"{message}; try --precision fp32 or a lower --learning-rate, or leave it out: --skip-non-finite"
                )
            log.warning(f"Left out: {message}")


def name_slices(batch: Seen) -> str:
    slices: defaultdict[str, set[int]] = defaultdict(set)
    for series_uid, slice_ndx in zip(batch.series_uids, batch.slice_ndxs.tolist(), strict=True):
        slices[series_uid].add(slice_ndx)
    return ", ".join(f"{uid} {' '.join(map(str, sorted(ndxs)))}" for uid, ndxs in sorted(slices.items()))
