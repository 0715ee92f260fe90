"""What training minimises: a Dice loss in which a missed pixel weighs more than a false one; which crops are hard."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from p2ch13.config import TrainingConfig

FALSE_ALARM_PIXELS = 20  # a nodule of 3.5 mm, at 0.7 mm a pixel


def dice_loss(prediction: torch.Tensor, label: torch.Tensor, epsilon: float = 1.0) -> torch.Tensor:
    """1 - (2 * sum(prediction * label) + epsilon) / (sum(prediction) + sum(label) + epsilon), for each sample.

    Args:
        prediction: (batch, channel, row, col) probabilities.
        label: (batch, channel, row, col), bool.
        epsilon: makes an empty prediction of an empty label a loss of 0 and not 0/0.
    Returns: (batch,) float32, 0 (equal) to nearly 1 (nothing in common).
    Source: the book, 13.6.3; Dice (1945), https://doi.org/10.2307/1932409.
    """
    over_sample = (1, 2, 3)
    prediction, label = prediction.float(), label.float()  # thousands of pixels are too many to add up in bfloat16
    correct = (prediction * label).sum(over_sample)
    return 1 - (2 * correct + epsilon) / (prediction.sum(over_sample) + label.sum(over_sample) + epsilon)


def batch_dice_loss(prediction: torch.Tensor, label: torch.Tensor, epsilon: float = 1.0) -> torch.Tensor:
    """`dice_loss` of all pixels of the batch together, for each sample: (batch,), all the same.

    In a sample without a nodule, Dice is nearly 1 as soon as anything is marked, and hardly changes with how much.
    Over the batch every false alarm counts as much as a pixel that was missed.
    """
    batch_size, _, _, cols = label.shape
    as_one = (1, 1, -1, cols)
    return dice_loss(prediction.reshape(as_one), label.reshape(as_one), epsilon).expand(batch_size)


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
        over_batch: Dice of the batch as a whole instead of each sample's.
        cross_entropy: weight of a third term, the pixels' mean cross-entropy. Dice hardly moves a pixel that is taken
            for nodule with certainty; cross-entropy moves it the more.
    Source: the book, 13.6.3, loss weighting.
    """
    loss = batch_dice_loss if over_batch else dice_loss
    prediction = logits.float().sigmoid()
    losses = loss(prediction, label) + fn_weight * loss(prediction * label, label)
    if cross_entropy:
        losses = losses + cross_entropy * pixel_cross_entropy(logits, label)
    return losses


def pixel_cross_entropy(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of each sample's pixels: (batch,).

    From logits: of probabilities it has no gradient where the sigmoid has come to 1, at a logit of 17, and ends at 100.

    Args: logits, label: as for `segmentation_loss`.
    """
    entropy = F.binary_cross_entropy_with_logits(logits.float(), label.float(), reduction="none")
    return entropy.mean((1, 2, 3))


def rate_false_alarms(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The mean logit of each sample's most probable pixels that are no nodule, as many as a small nodule has: (batch,).

    Args: logits, label: as for `segmentation_loss`.
    """
    false_alarms = logits.float().masked_fill(label, -torch.inf).flatten(start_dim=1)
    return false_alarms.topk(min(FALSE_ALARM_PIXELS, false_alarms.shape[1]), dim=1).values.mean(dim=1)
