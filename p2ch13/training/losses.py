"""The loss: a weighted sum of named terms, each a function of sums over pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F

from p2ch13.config import LossOptions
from p2ch13.training.distributed import sum_with_gradients

EPSILON = 1.0  # makes the loss of an empty prediction and an empty label 0, not 0/0
SMALL_NODULE_PIXELS = 20  # a nodule of 3.5 mm, at 0.7 mm a pixel


class PixelSums(NamedTuple):
    """Sums over the pixels of a sample, or of many samples together: each (...), float."""

    correct: torch.Tensor  # prediction * label
    predicted: torch.Tensor
    labeled: torch.Tensor
    entropy: torch.Tensor  # cross-entropy
    pixels: torch.Tensor  # their number
    nodule_entropy: torch.Tensor  # cross-entropy of a sample with nodule for each pixel of its nodule, else 0
    with_nodule: torch.Tensor  # 1 for a sample with nodule pixels, else 0


def dice_of_sums(
    correct: torch.Tensor, predicted: torch.Tensor, labeled: torch.Tensor, epsilon: float = EPSILON
) -> torch.Tensor:
    return 1 - (2 * correct + epsilon) / (predicted + labeled + epsilon)


# Sums and weight -> the weighted term, (...). The weight is the field of `LossOptions` of the term's name, or else 1.
TERMS: dict[str, Callable[[PixelSums, float], torch.Tensor]] = {
    "dice": lambda sums, weight: weight * dice_of_sums(sums.correct, sums.predicted, sums.labeled),
    # Dice of `prediction * label`, which holds no false positive: it asks for recall alone. A nodule is a thousandth
    # of the pixels, and a network that marks too little gets little gradient from the first term.
    "fn_weight": lambda sums, weight: weight * dice_of_sums(sums.correct, sums.correct, sums.labeled),
    # Mean over pixels. Dice hardly moves a pixel with a confident false positive; cross-entropy moves it most.
    "cross_entropy": lambda sums, weight: weight * sums.entropy / sums.pixels,
    # Mean over samples with nodule. In sums over pixels a nodule of 30 mm counts as much as 50 of 4 mm. With samples
    # without nodule in it, too, fewer small ones are found.
    "nodule_entropy": lambda sums, weight: weight * sums.nodule_entropy / sums.with_nodule.clamp(min=1),
}


def segmentation_loss(
    logits: torch.Tensor, label: torch.Tensor, options: LossOptions, over_batch: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the loss of each sample.

    Args:
        logits: (batch, channel, row, col), of `SegmentationNetwork.logits`.
        label: (batch, channel, row, col), bool.
        options: the terms' weights.
        over_batch: give every sample the loss of the batch as a whole, over all processes of a run. In a sample without
            a nodule, Dice is nearly 1 as soon as anything is marked, and hardly changes with how much; over the batch
            a false positive counts as much as a missed pixel.
    Returns: losses, (batch,); their `PixelSums`, (batch, 7) float32.
    Source: the book, 13.6.3, loss weighting.
    """
    sums = sum_pixels(logits, label, with_entropy=options.cross_entropy > 0 or options.nodule_entropy > 0)
    weighed = sum_with_gradients(sums.sum(0)).expand_as(sums) if over_batch else sums
    return loss_of_sums(weighed, options), sums


def loss_of_sums(sums: torch.Tensor, options: LossOptions) -> torch.Tensor:
    """Add up the weighted terms: (..., 7), of `sum_pixels` -> (...). Sums of several samples give their joint loss."""
    of_pixels = PixelSums(*sums.unbind(-1))
    weights = {name: getattr(options, name, 1.0) for name in TERMS}
    return reduce(torch.add, (TERMS[name](of_pixels, weight) for name, weight in weights.items() if weight))


def sum_pixels(logits: torch.Tensor, label: torch.Tensor, with_entropy: bool = True) -> torch.Tensor:
    """Sum each sample's pixels: (batch, 7) float32, in the order of `PixelSums`.

    Args: logits, label: see `segmentation_loss`; with_entropy: without it the cross-entropy is 0.
    """
    correct, predicted, labeled = sum_dice(logits.float().sigmoid(), label)
    pixels = torch.full_like(correct, label[0].numel())
    entropy = sum_cross_entropy(logits, label) if with_entropy else torch.zeros_like(correct)
    with_nodule = (labeled > 0).float()
    nodule_entropy = with_nodule * entropy / labeled.clamp(min=SMALL_NODULE_PIXELS)
    return torch.stack(PixelSums(correct, predicted, labeled, entropy, pixels, nodule_entropy, with_nodule), dim=1)


def dice_loss(prediction: torch.Tensor, label: torch.Tensor, epsilon: float = EPSILON) -> torch.Tensor:
    """1 - (2 * sum(prediction * label) + epsilon) / (sum(prediction) + sum(label) + epsilon), for each sample.

    Args:
        prediction: (batch, channel, row, col) probabilities.
        label: (batch, channel, row, col), bool.
    Returns: (batch,) float32, 0 (equal) to nearly 1 (nothing in common).
    Source: the book, 13.6.3; Dice (1945), https://doi.org/10.2307/1932409.
    """
    return dice_of_sums(*sum_dice(prediction, label), epsilon)


def sum_dice(prediction: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum prediction * label, the prediction and the label over each sample's pixels; each (batch,)."""
    over_sample = (1, 2, 3)
    prediction, label = prediction.float(), label.float()  # bfloat16 cannot add up thousands of pixels
    return (prediction * label).sum(over_sample), prediction.sum(over_sample), label.sum(over_sample)


def sum_cross_entropy(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Sum the cross-entropy over each sample's pixels: (batch,).

    From logits: that of probabilities has no gradient where the sigmoid reaches 1, at a logit of 17, and ends at 100.
    """
    entropy = F.binary_cross_entropy_with_logits(logits.float(), label.float(), reduction="none")
    return entropy.sum((1, 2, 3))


def false_positive_score(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Compute the mean logit of each sample's most probable negative pixels, as many as a small nodule has: (batch,).

    Args: logits, label: see `segmentation_loss`.
    """
    negatives = logits.float().masked_fill(label, -torch.inf).flatten(start_dim=1)
    return negatives.topk(min(SMALL_NODULE_PIXELS, negatives.shape[1]), dim=1).values.mean(dim=1)
