"""Pixel counts and the scores computed from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

COUNT_NAMES = ("tp", "fn", "fp")


def count_pixels(is_predicted: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Count true positives, false negatives and false positives of each sample.

    Args: two bool tensors of one shape, (batch, ...).
    Returns: (batch, 3) int64 on their device, in the order of `COUNT_NAMES`. Read it at the end of an epoch: reading it
        for each batch makes a GPU wait.
    """
    is_predicted, label = is_predicted.flatten(1), label.flatten(1)
    true_positives = (is_predicted & label).sum(1)
    return torch.stack([true_positives, label.sum(1) - true_positives, is_predicted.sum(1) - true_positives], dim=1)


def find_nodule_samples(counts: torch.Tensor) -> torch.Tensor:
    """Find the samples with nodule: (batch, 3) of `count_pixels` -> (batch,), bool."""
    return counts[:, :2].sum(1) > 0


def find_slice_f1(dice_sum: float, nodule_count: float, alarm_count: float) -> float:
    """Compute the F1 of slices, 2 tp / (2 tp + fn + fp); NaN without slices.

    A nodule slice counts by its Dice as true positive and by the rest as false negative; a slice without nodule in
    which anything is marked is a false positive.
    """
    total = dice_sum + nodule_count + alarm_count
    return 2 * dice_sum / total if total else math.nan


def sample_dice(counts: torch.Tensor) -> torch.Tensor:
    """Compute 2 tp / (2 tp + fn + fp) of each sample, (batch, 3) -> (batch,); 1 if label and prediction are empty."""
    true_positives, wrong = 2 * counts[:, 0], counts[:, 1] + counts[:, 2]
    return torch.where(true_positives + wrong == 0, 1.0, true_positives / (true_positives + wrong))


@dataclass(frozen=True)
class Scores:
    """An epoch's loss and scores; without nodule pixels in the labels, all but the loss are NaN.

    Percentages are of the labeled pixels, as in the book, so that `fp_percent` can exceed 100. `f1` is the Dice
    coefficient of all pixels together; `dice` is the mean over slices, in which a small nodule weighs as much as a
    large one; `slice_f1`, see `find_slice_f1`.

    Attributes: `of_all`, the scores of all slices of a validation, if these are the scores of its nodule slices; None
        if it has no others.
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
        """Read the scores of a checkpoint, written by `dataclasses.asdict`."""
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
        """Return the metric that selects the best model, one of `BEST_METRICS`, on all slices of the validation.

        `recall-at-precision` is the recall once the precision has reached the floor; below it, the negative distance.
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
            return f"loss {self.loss:.4f}, no scores: no nodule pixel in the labels"
        return (
            f"loss {self.loss:.4f}, precision {self.precision:.4f}, recall {self.recall:.4f}, F1 {self.f1:.4f}"
            f", Dice {self.dice:.4f}"
            f" (of nodule pixels {self.tp_percent:.1f}% found, {self.fn_percent:.1f}% missed; "
            f"of marked pixels {100 * (1 - self.precision):.1f}% false)"
        )
