"""Pixel counts, and the scores made from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

COUNT_NAMES = ("tp", "fn", "fp")


def count_pixels(is_predicted: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """True positives, false negatives and false positives, summed over the batch.

    Args: two bool tensors of one shape.
    Returns: (3,) int64 on their device, in the order of `COUNT_NAMES`; reading it is left to the end of the epoch,
    since reading one per batch would make a GPU wait.
    """
    true_positives = (is_predicted & label).sum()
    return torch.stack([true_positives, label.sum() - true_positives, is_predicted.sum() - true_positives])


class EpochTotals:
    """Adds up an epoch's losses and counts on the device, and reads them once, at the end.

    Attributes: `values`, (5,) float64: loss, number of samples, and the counts of `COUNT_NAMES`. One tensor, which is
        summed over the processes of a run at once; whole numbers are exact in it up to 2**53.
    """

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(2 + len(COUNT_NAMES), dtype=torch.float64, device=device)

    def add(self, losses: torch.Tensor, counts: torch.Tensor) -> None:
        """Args: losses of a batch's samples, (batch,); `count_pixels` of the batch."""
        self.values[0] += losses.detach().sum()
        self.values[1] += len(losses)
        self.values[2:] += counts

    def scores(self) -> Scores:
        loss, sample_count, *counts = self.values.tolist()
        return Scores.from_counts(loss / max(sample_count, 1), *(int(count) for count in counts))


@dataclass(frozen=True)
class Scores:
    """An epoch's loss and scores. Without one nodule pixel in the labels, all but the loss are NaN: nothing to find.

    Percentages are of the labelled pixels, as in the book, so that `fp_percent` can be far beyond 100.
    """

    loss: float
    precision: float
    recall: float
    f1: float
    tp_percent: float
    fn_percent: float
    fp_percent: float

    @classmethod
    def from_counts(cls, loss: float, tp: int, fn: int, fp: int) -> Scores:
        label_count = tp + fn
        if label_count == 0:
            return cls(loss, *[math.nan] * 6)
        return cls(
            loss=loss,
            precision=tp / (tp + fp) if tp + fp else 0.0,
            recall=tp / label_count,
            f1=2 * tp / (2 * tp + fn + fp),
            tp_percent=100 * tp / label_count,
            fn_percent=100 * fn / label_count,
            fp_percent=100 * fp / label_count,
        )

    @property
    def is_defined(self) -> bool:
        return not math.isnan(self.recall)

    def __str__(self) -> str:
        if not self.is_defined:
            return f"loss {self.loss:.4f}, no scores: no pixel here is labelled nodule"
        return (
            f"loss {self.loss:.4f}, precision {self.precision:.4f}, recall {self.recall:.4f}, F1 {self.f1:.4f}"
            f" (of nodule pixels: {self.tp_percent:.1f}% tp, {self.fn_percent:.1f}% fn, {self.fp_percent:.1f}% fp)"
        )
