"""What training minimizes: a Dice loss in which a missed pixel weighs more than a false one; which crops are hard."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from p2ch13.config import TrainingConfig
from p2ch13.training.distributed import sum_with_gradients

EPSILON = 1.0  # makes an empty prediction of an empty label a loss of 0 and not 0/0
SUM_NAMES = ("correct", "predicted", "labeled", "entropy", "pixels")
FALSE_ALARM_PIXELS = 20  # a nodule of 3.5 mm, at 0.7 mm a pixel


def dice_loss(prediction: torch.Tensor, label: torch.Tensor, epsilon: float = EPSILON) -> torch.Tensor:
    """1 - (2 * sum(prediction * label) + epsilon) / (sum(prediction) + sum(label) + epsilon), for each sample.

    Args:
        prediction: (batch, channel, row, col) probabilities.
        label: (batch, channel, row, col), bool.
        epsilon: makes an empty prediction of an empty label a loss of 0 and not 0/0.
    Returns: (batch,) float32, 0 (equal) to nearly 1 (nothing in common).
    Source: the book, 13.6.3; Dice (1945), https://doi.org/10.2307/1932409.
    """
    return dice_of_sums(*sum_dice(prediction, label), epsilon)


def sum_dice(prediction: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What Dice is made of: the sums of prediction * label, of the prediction and of the label; each (batch,)."""
    over_sample = (1, 2, 3)
    prediction, label = prediction.float(), label.float()  # thousands of pixels are too many to add up in bfloat16
    return (prediction * label).sum(over_sample), prediction.sum(over_sample), label.sum(over_sample)


def sum_over_batch(values: torch.Tensor) -> torch.Tensor:
    """Each sample's values, (batch, ...), replaced by their sum over the batch, with all processes' parts of it."""
    return sum_with_gradients(values.sum(0)).expand_as(values)


def dice_of_sums(
    correct: torch.Tensor, predicted: torch.Tensor, labeled: torch.Tensor, epsilon: float = EPSILON
) -> torch.Tensor:
    """The Dice loss of sums such as `sum_dice` gives, of a sample or of many together."""
    return 1 - (2 * correct + epsilon) / (predicted + labeled + epsilon)


def segmentation_loss(
    logits: torch.Tensor,
    label: torch.Tensor,
    fn_weight: float = TrainingConfig.fn_weight,
    over_batch: bool = False,
    cross_entropy: float = 0.0,
) -> torch.Tensor:
    """Dice loss of all pixels plus `fn_weight` times that of the nodule's pixels alone, for each sample: (batch,).

    `prediction * label` cannot hold a false positive, so that the second term asks for recall only: nodule is a
    thousandth of the pixels, and a network that marks too little learns little.

    Args:
        logits: (batch, channel, row, col), of `UNetWrapper.logits`.
        label: (batch, channel, row, col), bool.
        fn_weight: of the second term, 8 in the book.
        over_batch: the loss of the batch as a whole, in all processes of a run, instead of each sample's. In a sample
            without a nodule, Dice is nearly 1 as soon as anything is marked, and hardly changes with how much; over the
            batch every false alarm counts as much as a pixel that was missed.
        cross_entropy: weight of a third term, the pixels' mean cross-entropy. Dice hardly moves a pixel that is taken
            for nodule with certainty; cross-entropy moves it the more.
    Source: the book, 13.6.3, loss weighting.
    """
    sums = sum_pixels(logits, label, with_entropy=cross_entropy > 0)
    return losses_of_batch(sums, fn_weight, over_batch, cross_entropy)


def losses_of_batch(sums: torch.Tensor, fn_weight: float, over_batch: bool, cross_entropy: float) -> torch.Tensor:
    """`segmentation_loss` of a batch whose pixels were summed up: (batch, 5), of `sum_pixels`, -> (batch,)."""
    return loss_of_sums(sum_over_batch(sums) if over_batch else sums, fn_weight, cross_entropy)


def sum_pixels(logits: torch.Tensor, label: torch.Tensor, with_entropy: bool = True) -> torch.Tensor:
    """What the loss is made of: (batch, 5) float32, in the order of `SUM_NAMES`.

    Sums of a sample's pixels, which can be added up over samples; see `loss_of_sums`.

    Args:
        logits, label: as for `segmentation_loss`.
        with_entropy: without it the cross-entropy is 0, for a loss that has no use for it.
    """
    correct, predicted, labeled = sum_dice(logits.float().sigmoid(), label)
    pixels = torch.full_like(correct, label[0].numel())
    entropy = sum_cross_entropy(logits, label) if with_entropy else torch.zeros_like(correct)
    return torch.stack([correct, predicted, labeled, entropy, pixels], dim=1)


def loss_of_sums(sums: torch.Tensor, fn_weight: float, cross_entropy: float) -> torch.Tensor:
    """`segmentation_loss` of pixels that were summed up: (..., 5), of `sum_pixels`, -> (...).

    `prediction * label` is its own product with the label, so that its Dice has the same sums.
    """
    correct, predicted, labeled, entropy, pixels = sums.unbind(-1)
    losses = dice_of_sums(correct, predicted, labeled) + fn_weight * dice_of_sums(correct, correct, labeled)
    return losses + cross_entropy * entropy / pixels if cross_entropy else losses


def sum_cross_entropy(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The sum of the cross-entropy of each sample's pixels: (batch,).

    From logits: of probabilities it has no gradient where the sigmoid has come to 1, at a logit of 17, and ends at 100.

    Args: logits, label: as for `segmentation_loss`.
    """
    entropy = F.binary_cross_entropy_with_logits(logits.float(), label.float(), reduction="none")
    return entropy.sum((1, 2, 3))


def false_positive_score(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The mean logit of each sample's most probable pixels that are no nodule, as many as a small nodule has: (batch,).

    Args: logits, label: as for `segmentation_loss`.
    """
    false_alarms = logits.float().masked_fill(label, -torch.inf).flatten(start_dim=1)
    return false_alarms.topk(min(FALSE_ALARM_PIXELS, false_alarms.shape[1]), dim=1).values.mean(dim=1)
