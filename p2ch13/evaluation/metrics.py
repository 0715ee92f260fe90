"""Pixel counts, and the scores made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
