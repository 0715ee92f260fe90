"""Pixel counts, and the scores made from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

COUNT_NAMES = ("tp", "fn", "fp")


def count_pixels(is_predicted: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """True positives, false negatives and false positives of each sample.

    Args: two bool tensors of one shape, (batch, ...).
    Returns: (batch, 3) int64 on their device, in the order of `COUNT_NAMES`; reading it is left to the end of the
    epoch, since reading one per batch would make a GPU wait.
    """
    is_predicted, label = is_predicted.flatten(1), label.flatten(1)
    true_positives = (is_predicted & label).sum(1)
    return torch.stack([true_positives, label.sum(1) - true_positives, is_predicted.sum(1) - true_positives], dim=1)


class EpochTotals:
    """Adds up an epoch's losses and counts on the device, and reads them once, at the end.

    A batch whose loss is not finite is left out. Attributes: `values`, (7,) float64: number of batches left out, loss,
        Dice, number of samples, and the counts of `COUNT_NAMES`. One tensor, which is summed over the processes of a
        run at once; whole numbers are exact in it up to 2**53.
    """

    def __init__(self, device: torch.device, values: Sequence[float] | None = None) -> None:
        like: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.values = torch.zeros(4 + len(COUNT_NAMES), **like) if values is None else torch.tensor(values, **like)

    def add(self, losses: torch.Tensor, counts: torch.Tensor) -> None:
        """Args: losses of a batch's samples, (batch,); `count_pixels` of the batch."""
        is_finite = losses.isfinite().all()
        self.values[0] += ~is_finite
        self.values[1] += torch.where(is_finite, losses.detach().sum(), 0.0)
        self.values[2] += is_finite * sample_dice(counts).sum()
        self.values[3] += is_finite * len(losses)
        self.values[4:] += is_finite * counts.sum(0)

    @property
    def left_out_count(self) -> int:
        return int(self.values[0])

    @property
    def sample_count(self) -> int:
        return int(self.values[3])

    def scores(self) -> Scores:
        _, loss, dice, sample_count, *counts = self.values.tolist()
        sample_count = max(sample_count, 1)
        return Scores.from_counts(loss / sample_count, dice / sample_count, *(int(count) for count in counts))


def sample_dice(counts: torch.Tensor) -> torch.Tensor:
    """2 tp / (2 tp + fn + fp) of each sample, (batch, 3) -> (batch,); 1 where nothing is to be found and nothing is."""
    true_positives, wrong = 2 * counts[:, 0], counts[:, 1] + counts[:, 2]
    return torch.where(true_positives + wrong == 0, 1.0, true_positives / (true_positives + wrong))


@dataclass(frozen=True)
class Scores:
    """An epoch's loss and scores. Without one nodule pixel in the labels, all but the loss are NaN: nothing to find.

    Percentages are of the labelled pixels, as in the book, so that `fp_percent` can be far beyond 100. F1 is the Dice
    coefficient of all pixels together, `dice` the mean of those of the single slices, in which a small nodule weighs as
    much as a large one.
    """

    loss: float
    precision: float
    recall: float
    f1: float
    dice: float
    tp_percent: float
    fn_percent: float
    fp_percent: float

    @classmethod
    def from_counts(cls, loss: float, dice: float, tp: int, fn: int, fp: int) -> Scores:
        label_count = tp + fn
        if label_count == 0:
            return cls(loss, *[math.nan] * 7)
        return cls(
            loss=loss,
            precision=tp / (tp + fp) if tp + fp else 0.0,
            recall=tp / label_count,
            f1=2 * tp / (2 * tp + fn + fp),
            dice=dice,
            tp_percent=100 * tp / label_count,
            fn_percent=100 * fn / label_count,
            fp_percent=100 * fp / label_count,
        )

    def metric(self, name: str, precision_floor: float) -> float:
        """What a model is chosen by, one of `BEST_METRICS`.

        `recall-at-precision` is recall once the precision has come to the floor, and before that how far it is from it,
        which is negative.
        """
        if name != "recall-at-precision":
            return float(getattr(self, name))
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
