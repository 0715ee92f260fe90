"""Losses and counts of an epoch, added up on the device and read once at its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from p2ch13.config import LossOptions
from p2ch13.evaluation.metrics import COUNT_NAMES, Scores, find_nodule_samples, find_slice_f1, sample_dice
from p2ch13.training.distributed import sum_over_processes
from p2ch13.training.losses import PixelSums, loss_of_sums
from p2ch13.util.errors import InputError

log = logging.getLogger(__name__)

# Sums over samples: of losses and Dice, and the numbers of samples, of those with nodule, and of those without in which
# anything is marked.
TOTAL_NAMES = ("loss", "dice", "samples", "with_nodule", "false_positive")
SUM_COUNT = len(PixelSums._fields)


class StepResult(NamedTuple):
    """Losses and counts of a batch, by sample; all of it stays on the device."""

    losses: torch.Tensor  # (batch,)
    counts: torch.Tensor  # (batch, 3), of `count_pixels`
    sums: torch.Tensor  # (batch, 7), of `losses.sum_pixels`
    faults: torch.Tensor  # (3,) bool, of `find_faults`


class EpochTotals:
    """Adds up an epoch's losses and counts on the device, and reads them once, at the end.

    Attributes: `values`, (16,) float64: the number of skipped batches; of the others the sums of `TOTAL_NAMES`, the
        counts of `COUNT_NAMES` and `PixelSums`. One tensor, which one call sums over the processes of a run; whole
        numbers are exact in it up to 2**53. `marked`, the values at the latest `mark`; without one, at the start.
    Raises: ValueError for another number of values.
    """

    def __init__(
        self, device: torch.device, values: Sequence[float] | None = None, marked: Sequence[float] | None = None
    ) -> None:
        like: dict[str, Any] = {"dtype": torch.float64, "device": device}
        value_count = 1 + len(TOTAL_NAMES) + len(COUNT_NAMES) + SUM_COUNT
        self.values = torch.zeros(value_count, **like) if values is None else torch.tensor(values, **like)
        self.marked = self.values.clone() if marked is None else torch.tensor(marked, **like)
        for each in (self.values, self.marked):
            if each.shape != (value_count,):
                raise ValueError(f"{len(each)} totals of an epoch, not {value_count}")

    def mark(self) -> None:
        """Have `since_mark` count from here on, without reading anything from the device."""
        self.marked = self.values.clone()

    def since_mark(self) -> EpochTotals:
        """Return the totals of what was added since the latest mark."""
        totals = EpochTotals(self.values.device)
        totals.values = self.values - self.marked
        return totals

    def add(self, result: StepResult, is_counted: torch.Tensor | None = None) -> None:
        """Add a batch, or the samples that `is_counted`, (batch,) bool, names; skip and count one that has a fault."""
        is_bad = result.faults.any()
        is_skipped = is_bad if is_counted is None else is_bad | ~is_counted
        is_with_nodule = find_nodule_samples(result.counts)
        is_false_positive = ~is_with_nodule & (result.counts[:, 2] > 0)
        dice, one = sample_dice(result.counts), torch.ones_like(result.losses)
        totals = torch.stack([result.losses.double(), dice, one, is_with_nodule, is_false_positive], dim=1)
        of_samples = torch.cat([totals, result.counts, result.sums], dim=1)  # (batch, 15) float64
        zero = torch.zeros_like(of_samples)  # 0 times a loss that is NaN would be NaN
        if is_counted is None:
            self.values[0] += is_bad
        self.values[1:] += torch.where(is_skipped.unsqueeze(-1), zero, of_samples).sum(0)

    @property
    def skipped_count(self) -> int:
        return int(self.values[0])

    @property
    def sample_count(self) -> int:
        return int(self.values[1 + TOTAL_NAMES.index("samples")])

    @property
    def sums(self) -> torch.Tensor:
        """(7,) float64, in the order of `PixelSums`: of all samples together."""
        return self.values[-SUM_COUNT:]

    def reduce(self, options: LossOptions, name: str) -> Scores:
        """Sum the totals over all processes and compute the epoch's scores.

        Args: name: of the epoch, for messages. Raises: InputError if every batch was skipped.
        """
        loss = self.summed_loss(options)
        if self.skipped_count:
            log.warning(f"Skipped {self.skipped_count} batches of {name}, whose loss or gradient was not finite.")
        if not self.sample_count:
            raise InputError(f"no batch of {name} has a finite loss and gradient; lower it", option="--learning-rate")
        return self.scores(loss)

    def summed_loss(self, options: LossOptions) -> float:
        """Sum the totals over all processes and compute their loss; NaN without samples.

        It is the mean over samples; with `batch_dice` that of all samples as one batch, which is the same function in
        training and validation, however many slices are computed at once.
        """
        sum_over_processes(self.values)
        if not self.sample_count:
            return math.nan
        if options.batch_dice:
            return loss_of_sums(self.sums, options).item()
        return float(self.values[1 + TOTAL_NAMES.index("loss")]) / self.sample_count

    def scores(self, loss: float | None = None) -> Scores:
        """Compute the scores of all samples. Args: loss: replaces the samples' mean."""
        values = self.values.tolist()[1:-SUM_COUNT]
        loss_sum, dice_sum, sample_count, nodule_count, false_positive_count, tp, fn, fp = values
        mean_count = max(sample_count, 1)
        clear_count = sample_count - nodule_count - false_positive_count  # the Dice of each of these is 1
        return Scores.from_counts(
            loss_sum / mean_count if loss is None else loss,
            dice_sum / mean_count,
            *(int(tp), int(fn), int(fp)),
            find_slice_f1(dice_sum - clear_count, nodule_count, false_positive_count),
        )


def reduce_validation(totals: tuple[EpochTotals, EpochTotals], options: LossOptions, name: str) -> Scores:
    """Compute a validation's scores, see `EpochTotals.reduce`.

    Args: totals: of the slices that hold nodule, and of all slices. Returns: the scores of the first, with those of all
        slices in `of_all` if there are others.
    """
    scores, scores_of_all = (each.reduce(options, name) for each in totals)
    has_others = totals[1].sample_count > totals[0].sample_count
    return replace(scores, of_all=scores_of_all) if has_others else scores
