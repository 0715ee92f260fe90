"""Losses and counts of an epoch, added up on the device and read once at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from p2ch13.evaluation.metrics import COUNT_NAMES, Scores, find_nodule_samples, find_slice_f1, sample_dice
from p2ch13.training.losses import SUM_NAMES

# Of samples: losses, Dice, how many there are, with nodule, and without but with something marked.
TOTAL_NAMES = ("loss", "dice", "samples", "with_nodule", "false_alarms")


class BatchResult(NamedTuple):
    """What a batch has come to, sample by sample; all of it stays on the device."""

    losses: torch.Tensor  # (batch,)
    counts: torch.Tensor  # (batch, 3), of `count_pixels`
    sums: torch.Tensor  # (batch, 5), of `losses.sum_pixels`


class EpochTotals:
    """Adds up an epoch's losses and counts on the device, and reads them once, at the end.

    Attributes: `values`, (14,) float64: the number of batches left out; the sums of `TOTAL_NAMES`, the counts of
        `COUNT_NAMES` and the sums of `losses.SUM_NAMES` of the others. One tensor, which is summed over the processes
        of a run at once; whole numbers are exact in it up to 2**53.
    Raises: ValueError for values of another number.
    """

    def __init__(self, device: torch.device, values: Sequence[float] | None = None) -> None:
        like: dict[str, Any] = {"dtype": torch.float64, "device": device}
        value_count = 1 + len(TOTAL_NAMES) + len(COUNT_NAMES) + len(SUM_NAMES)
        self.values = torch.zeros(value_count, **like) if values is None else torch.tensor(values, **like)
        if self.values.shape != (value_count,):
            raise ValueError(f"{len(self.values)} totals of an epoch, not {value_count}")

    def add(self, result: BatchResult, is_bad: torch.Tensor, is_counted: torch.Tensor | None = None) -> None:
        """Add a batch.

        Args:
            is_bad: a bool: leave the batch out, and count it as left out.
            is_counted: (batch,), bool: which of its samples to add; None: all.
        """
        is_left_out = is_bad if is_counted is None else is_bad | ~is_counted
        parts = (self._list_totals(result), result.counts, result.sums)
        of_samples = torch.cat([part.double() for part in parts], dim=1)  # (batch, 13)
        zero = torch.zeros_like(of_samples)  # where a loss is NaN, 0 times the loss would be NaN, too
        self.values[0] += is_bad
        self.values[1:] += torch.where(is_left_out.unsqueeze(-1), zero, of_samples).sum(0)

    def _list_totals(self, result: BatchResult) -> torch.Tensor:
        """(batch, 5), in the order of `TOTAL_NAMES`."""
        is_with_nodule = find_nodule_samples(result.counts)
        is_false_alarm = ~is_with_nodule & (result.counts[:, 2] > 0)
        losses = result.losses.detach()
        totals = (losses, sample_dice(result.counts), torch.ones_like(losses), is_with_nodule, is_false_alarm)
        return torch.stack([values.double() for values in totals], dim=1)

    @property
    def left_out_count(self) -> int:
        return int(self.values[0])

    @property
    def sample_count(self) -> int:
        return int(self.values[1 + TOTAL_NAMES.index("samples")])

    @property
    def sums(self) -> torch.Tensor:
        """(5,) float64, in the order of `losses.SUM_NAMES`: of all samples together."""
        return self.values[-len(SUM_NAMES) :]

    def scores(self, loss: float | None = None) -> Scores:
        """The epoch's scores. Args: loss: in place of the samples' mean."""
        values = self.values.tolist()[1 : -len(SUM_NAMES)]
        loss_sum, dice_sum, sample_count, nodule_count, alarm_count, tp, fn, fp = values
        mean_count = max(sample_count, 1)
        clear_count = sample_count - nodule_count - alarm_count  # the Dice of each of these is 1
        return Scores.from_counts(
            loss_sum / mean_count if loss is None else loss,
            dice_sum / mean_count,
            *(int(tp), int(fn), int(fp)),
            find_slice_f1(dice_sum - clear_count, nodule_count, alarm_count),
        )
