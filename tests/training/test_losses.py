import math

import pytest
import torch

from p2ch13.config import LossOptions
from p2ch13.training import losses
from p2ch13.training.losses import (
    SMALL_NODULE_PIXELS,
    dice_loss,
    false_positive_score,
    loss_of_sums,
    sum_cross_entropy,
    sum_pixels,
)


def segmentation_loss(logits, label, over_batch=False, **options):
    return losses.segmentation_loss(logits, label, LossOptions(**options), over_batch)[0]


# (2 * correct + 1) / (predicted + labeled + 1)
DICE_BY_HAND = [
    ([1, 1, 0, 0], [1, 1, 0, 0], 0.0),  # same pixels
    ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),  # nothing to find, nothing found
    ([1, 0, 0, 0], [1, 1, 0, 0], 1 - 3 / 4),
    ([0, 0, 1, 1], [1, 1, 0, 0], 1 - 1 / 5),
    ([0, 0, 1, 0], [0, 0, 0, 0], 1 - 1 / 2),  # a false alarm alone
    ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0], 1 - 2 / 4),
]


def as_slice(values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype).reshape(1, 1, 2, 2)


def as_logits(probabilities):
    """Of 0 and 1 the largest that float32 keeps apart from nothing else: a sigmoid of exactly 0 and 1."""
    return as_slice(probabilities).logit().clamp(-200, 200)


@pytest.mark.parametrize(("prob", "label", "expected"), DICE_BY_HAND)
def test_dice_loss(prob, label, expected):
    assert dice_loss(as_slice(prob), as_slice(label, torch.bool), epsilon=1).item() == pytest.approx(expected)


def test_one_loss_for_each_sample():
    prob = torch.cat([as_slice(prob) for prob, _, _ in DICE_BY_HAND])
    label = torch.cat([as_slice(label, torch.bool) for _, label, _ in DICE_BY_HAND])
    assert dice_loss(prob, label).tolist() == pytest.approx([expected for _, _, expected in DICE_BY_HAND])


def test_a_missed_pixel_weighs_eight_times_more():
    # 1 - 3/4 for all pixels; the false negatives' part is the same here, since nothing is predicted outside.
    missed = as_logits([1, 0, 0, 0]), as_slice([1, 1, 0, 0], torch.bool)
    assert segmentation_loss(*missed).item() == pytest.approx(0.25 + 8 * 0.25)
    assert segmentation_loss(*missed, fn_weight=3.0).item() == pytest.approx(0.25 + 3 * 0.25)
    # 1 - 5/6 for all pixels; without the false alarm nothing is missing.
    false_alarm = segmentation_loss(as_logits([1, 1, 1, 0]), as_slice([1, 1, 0, 0], torch.bool))
    assert false_alarm.item() == pytest.approx(1 / 6)


def test_dice_over_the_batch():
    label = torch.cat([as_slice([1, 1, 0, 0], torch.bool), as_slice([0, 0, 0, 0], torch.bool)])
    # (2*1 + 1) / (3 + 2 + 1); of the label's two pixels one is found: (2*1 + 1) / (1 + 2 + 1)
    logits = torch.cat([as_logits([1, 0, 0, 0]), as_logits([0, 0, 1, 1])])
    for fn_weight in (0.0, 2.0):
        loss = segmentation_loss(logits, label, over_batch=True, fn_weight=fn_weight)
        assert loss.tolist() == pytest.approx([0.5 + fn_weight * 0.25] * 2)


def test_over_the_batch_a_false_alarm_where_nothing_is_keeps_its_gradient():
    """A sample's own Dice loss is nearly 1 there whatever is marked, and its gradient goes with 1 / marked**2."""
    gradients = []
    for over_batch in (False, True):
        logits = torch.full((2, 1, 64, 64), 2.0, requires_grad=True)
        label = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
        label[0, :, :16, :16] = True
        segmentation_loss(logits, label, over_batch=over_batch).mean().backward()
        gradients.append(logits.grad[1].mean().item())
    assert gradients[1] > 100 * gradients[0] > 0


@pytest.mark.parametrize(
    ("logit", "is_nodule", "loss", "gradient"),
    [(17.0, False, 17.0, 1.0), (30.0, False, 30.0, 1.0), (-30.0, True, 30.0, -1.0), (-90.0, True, 90.0, -1.0)],
)
def test_cross_entropy_moves_what_is_certain_and_wrong(logit, is_nodule, loss, gradient):
    """ln(1 + e^17) is 17 and its derivative 1; a float32 sigmoid of 17 is 1, its logarithm's gradient 0."""
    logits = torch.full((1, 1, 2, 2), logit, requires_grad=True)
    entropy = sum_cross_entropy(logits, torch.full((1, 1, 2, 2), is_nodule)) / 4  # the mean of the pixels
    entropy.sum().backward()
    assert entropy.item() == pytest.approx(loss, abs=1e-4)
    assert (4 * logits.grad).flatten().tolist() == pytest.approx([gradient] * 4, abs=1e-4)  # a quarter of the mean each


def test_sums_of_bfloat16_are_exact():
    """In bfloat16 itself 256 + 1 is 256, and a slice has 262,144 pixels."""
    prob = torch.ones(1, 1, 512, 512, dtype=torch.bfloat16)
    label = torch.zeros(1, 1, 512, 512, dtype=torch.bool)
    label[..., :100] = True
    expected = 1 - (2 * 51200 + 1) / (262144 + 51200 + 1)
    assert dice_loss(prob, label).item() == pytest.approx(expected, rel=1e-6)


def test_gradient_leads_to_the_label():
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    segmentation_loss(logits, as_slice([1, 0, 0, 0], torch.bool)).sum().backward()
    assert (logits.grad.flatten() < 0).tolist() == [True, False, False, False]


def test_false_positive_score():
    """By hand: 20 of 25 pixels count, the highest that are no nodule; one of logit 20 is told from one of 40."""
    logits = torch.full((3, 1, 5, 5), -2.0)
    logits[0].flatten()[:5] = 3.0
    logits[1].flatten()[:5] = 20.0
    logits[2].flatten()[:5] = 40.0
    label = torch.zeros(3, 1, 5, 5, dtype=torch.bool)
    label[0].flatten()[:2] = True
    assert SMALL_NODULE_PIXELS == 20
    expected = [(3 * 3 - 17 * 2) / 20, (5 * 20 - 15 * 2) / 20, (5 * 40 - 15 * 2) / 20]
    assert false_positive_score(logits, label).tolist() == pytest.approx(expected)
    assert false_positive_score(logits[..., :2, :2], label[..., :2, :2]).shape == (3,)


def test_the_loss_is_made_of_sums_of_pixels():
    """By hand, sigmoids of 0.75 and 0.5: correct 0.75, predicted 2.25, labeled 1, cross-entropy ln 4/3 + 3 ln 2."""
    logits, label = as_logits([0.75, 0.5, 0.5, 0.5]), as_slice([1, 0, 0, 0], torch.bool)
    (sums,) = sum_pixels(logits, label)
    assert sums.tolist() == pytest.approx(
        [0.75, 2.25, 1, math.log(4 / 3) + 3 * math.log(2), 4, (math.log(4 / 3) + 3 * math.log(2)) / 20, 1]
    )
    expected = 1 - 2.5 / 4.25 + 8 * (1 - 2.5 / 2.75) + 2 * sums[3].item() / 4
    assert loss_of_sums(sums, LossOptions(cross_entropy=2.0)).item() == pytest.approx(expected)
    assert segmentation_loss(logits, label, cross_entropy=2.0).item() == pytest.approx(expected)


def test_sums_of_parts_are_the_batch():
    """What validation adds up slice by slice is the loss that training has of a batch of them."""
    torch.manual_seed(0)
    logits, label = torch.randn(6, 1, 8, 8), torch.rand(6, 1, 8, 8) > 0.8
    parts = [sum_pixels(part, truth) for part, truth in zip(logits.split(2), label.split(2), strict=True)]
    weights = {"fn_weight": 0.3, "cross_entropy": 10.0, "nodule_entropy": 0.5}
    of_parts = loss_of_sums(torch.cat(parts).sum(0), LossOptions(**weights)).item()
    of_batch = segmentation_loss(logits, label, over_batch=True, **weights)
    assert of_batch.tolist() == pytest.approx([of_parts] * 6)


def test_small_nodules_count_as_large_ones():
    """By hand: ln 2 for each of 64 pixels; for each pixel of a nodule of 60, and of one of 1, which counts as 20."""
    label = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    label[0, 0, 3, 3] = True
    label[1].flatten()[:60] = True
    logits = torch.zeros(3, 1, 8, 8, requires_grad=True)
    base, loss = (
        segmentation_loss(logits, label, over_batch=True, fn_weight=0.0, nodule_entropy=weight) for weight in (0.0, 0.5)
    )
    expected = 0.5 * (64 * math.log(2) / 20 + 64 * math.log(2) / 60) / 2
    assert (loss - base).tolist() == pytest.approx([expected] * 3)
    (loss - base).mean().backward()
    slopes = logits.grad.flatten(1).abs().max(dim=1).values
    assert slopes[0] == pytest.approx(3 * slopes[1])
    assert slopes[2] == 0  # a sample without nodule has no part in it
    alone = [segmentation_loss(logits[2:], label[2:], fn_weight=0.0, nodule_entropy=weight) for weight in (0.0, 0.5)]
    assert alone[0].item() == alone[1].item()
