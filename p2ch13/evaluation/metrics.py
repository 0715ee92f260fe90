"""Pixel counts, and the scores made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from p2ch13.training.losses import SUM_NAMES

COUNT_NAMES = ("tp", "fn", "fp")
# Of samples: losses, Dice, how many there are, with nodule, and without but with something marked.
TOTAL_NAMES = ("loss", "dice", "samples", "with_nodule", "false_alarms")


def count_pixels(is_predicted: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """True positives, false negatives and false positives of each sample.

    Args: two bool tensors of one shape, (batch, ...).
    Returns: (batch, 3) int64 on their device, in the order of `COUNT_NAMES`; reading it is left to the end of the
    epoch, since reading one per batch would make a GPU wait.
    """
    is_predicted, label = is_predicted.flatten(1), label.flatten(1)
    true_positives = (is_predicted & label).sum(1)
    return torch.stack([true_positives, label.sum(1) - true_positives, is_predicted.sum(1) - true_positives], dim=1)


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


def find_nodule_samples(counts: torch.Tensor) -> torch.Tensor:
    """Which samples hold nodule: (batch, 3) of `count_pixels` -> (batch,), bool."""
    return counts[:, :2].sum(1) > 0


def find_slice_f1(dice_sum: float, nodule_count: float, alarm_count: float) -> float:
    """F1 of slices: 2 tp / (2 tp + fn + fp), NaN if there are none.

    A slice with nodule is as much of a true positive as its Dice says, and a false negative for the rest; one without,
    in which anything is marked, is a false positive.
    """
    total = dice_sum + nodule_count + alarm_count
    return 2 * dice_sum / total if total else math.nan


def sample_dice(counts: torch.Tensor) -> torch.Tensor:
    """2 tp / (2 tp + fn + fp) of each sample, (batch, 3) -> (batch,); 1 where nothing is to be found and nothing is."""
    true_positives, wrong = 2 * counts[:, 0], counts[:, 1] + counts[:, 2]
    return torch.where(true_positives + wrong == 0, 1.0, true_positives / (true_positives + wrong))


@dataclass(frozen=True)
class Scores:
    """An epoch's loss and scores. Without one nodule pixel in the labels, all but the loss are NaN: nothing to find.

    Percentages are of the labelled pixels, as in the book, so that `fp_percent` can be far beyond 100. F1 is the Dice
    coefficient of all pixels together, `dice` the mean of those of the single slices, in which a small nodule weighs as
    much as a large one; `slice_f1`, see `find_slice_f1`.

    Attributes: `of_all`, where these are the scores of a validation's slices that hold nodule: those of its other
        slices and these together; None if it has no others.
    """

    loss: float
    precision: float
    recall: float
    f1: float
    dice: float
    tp_percent: float
    fn_percent: float
    fp_percent: float
    slice_f1: float = math.nan
    of_all: Scores | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scores:
        """Scores as a checkpoint holds them: `dataclasses.asdict` of some."""
        of_all = values.get("of_all")
        return cls(**{**values, "of_all": None if of_all is None else cls(**of_all)})

    @classmethod
    def from_counts(cls, loss: float, dice: float, tp: int, fn: int, fp: int, slice_f1: float = math.nan) -> Scores:
        label_count = tp + fn
        if label_count == 0:
            nan = math.nan
            return cls(loss, nan, nan, nan, nan, nan, nan, nan)
        return cls(
            loss=loss,
            precision=tp / (tp + fp) if tp + fp else 0.0,
            recall=tp / label_count,
            f1=2 * tp / (2 * tp + fn + fp),
            dice=dice,
            tp_percent=100 * tp / label_count,
            fn_percent=100 * fn / label_count,
            fp_percent=100 * fp / label_count,
            slice_f1=slice_f1,
        )

    def metric(self, name: str, precision_floor: float) -> float:
        """What a model is chosen by, one of `BEST_METRICS`, on all slices of the validation.

        `recall-at-precision` is recall once the precision has come to the floor, and before that how far it is from it,
        which is negative.
        """
        if self.of_all is not None:
            return self.of_all.metric(name, precision_floor)
        if name != "recall-at-precision":
            return float(getattr(self, name.replace("-", "_")))
        return self.recall if self.precision >= precision_floor else self.precision - precision_floor

    @property
    def is_defined(self) -> bool:
        return not math.isnan(self.recall)

    def __str__(self) -> str:
        if not self.is_defined:
            return f"loss {self.loss:.4f}, no scores: no pixel here is labelled nodule"
        return (
            f"loss {self.loss:.4f}, precision {self.precision:.4f}, recall {self.recall:.4f}, F1 {self.f1:.4f}"
            f", Dice {self.dice:.4f}"
            f" (of nodule pixels: {self.tp_percent:.1f}% tp, {self.fn_percent:.1f}% fn, {self.fp_percent:.1f}% fp)"
        )
