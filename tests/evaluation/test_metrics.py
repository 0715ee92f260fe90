import dataclasses
import math

import pytest
import torch

from p2ch13.config import LossOptions
from p2ch13.evaluation.metrics import Scores, count_pixels, find_nodule_samples, sample_dice
from p2ch13.training.losses import loss_of_sums
from p2ch13.training.totals import EpochTotals, StepResult

GOOD, BAD = torch.tensor([False] * 3), torch.tensor([False, False, True])  # faults


def as_result(losses, counts, sums=None, faults=GOOD):
    counts = torch.tensor(counts)
    return StepResult(torch.tensor(losses), counts, torch.zeros(len(counts), 5) if sums is None else sums, faults)


def counts_in(totals):
    """Sum true positives, false negatives and false positives."""
    return totals.values[6:9].tolist()


def test_count_pixels_of_each_sample():
    predicted = torch.tensor([[True, True, True, False, False, False], [False, True, False, False, False, False]])
    label = torch.tensor([[True, True, False, True, False, False], [False, False, False, False, False, False]])
    assert count_pixels(predicted, label).tolist() == [[2, 1, 1], [0, 0, 1]]


def test_counts_beyond_float32():
    mask = torch.ones(1, 1, dtype=torch.bool).expand(1, 2**24 + 1)
    totals = EpochTotals(torch.device("cpu"))
    for _ in range(2):
        totals.add(StepResult(torch.zeros(1), count_pixels(mask, mask), torch.zeros(1, 5), GOOD))
    assert counts_in(totals) == [2**25 + 2, 0, 0]


def test_dice_of_each_sample():
    # 2*4 / (2*4 + 0 + 1); 2*2 / (2*2 + 2 + 14); nothing in common; nothing to find and nothing found
    counts = torch.tensor([[4, 0, 1], [2, 2, 14], [0, 3, 0], [0, 0, 0]])
    assert sample_dice(counts).tolist() == pytest.approx([8 / 9, 0.2, 0.0, 1.0])


def test_scores_by_hand():
    scores = Scores.from_counts(loss=0.5, dice=0.6, tp=6, fn=2, fp=18)
    assert scores == Scores(
        loss=0.5, precision=0.25, recall=0.75, f1=0.375, dice=0.6, tp_percent=75.0, fn_percent=25.0, fp_percent=225.0
    )


# Precision 0.25, recall 0.75, F1 0.375, mean Dice 0.6.
@pytest.mark.parametrize(
    ("name", "precision_floor", "expected"),
    [
        ("recall", 0.9, 0.75),
        ("f1", 0.9, 0.375),
        ("dice", 0.9, 0.6),
        ("recall-at-precision", 0.25, 0.75),
        ("recall-at-precision", 0.5, -0.25),  # what is missing of the floor: worse than any recall
    ],
)
def test_the_metric_that_selects_a_model(name, precision_floor, expected):
    assert Scores.from_counts(0.5, 0.6, 6, 2, 18).metric(name, precision_floor) == pytest.approx(expected)


def test_nothing_found():
    scores = Scores.from_counts(loss=9.0, dice=0.0, tp=0, fn=8, fp=0)
    assert (scores.precision, scores.recall, scores.f1) == (0.0, 0.0, 0.0)


def test_nothing_to_find_has_no_scores():
    scores = Scores.from_counts(loss=0.5, dice=0.0, tp=0, fn=0, fp=3)
    assert math.isnan(scores.recall)
    assert math.isnan(scores.precision)
    assert not scores.is_defined
    assert not scores.recall > 0.0  # so that it is never the best
    assert str(scores) == "loss 0.5000, no scores: no nodule pixel in the labels"


def test_an_epochs_line():
    assert str(Scores.from_counts(0.5, 0.6, 6, 2, 18)) == (
        "loss 0.5000, precision 0.2500, recall 0.7500, F1 0.3750, Dice 0.6000"
        " (of nodule pixels: 75.0% tp, 25.0% fn, 225.0% fp)"
    )


def test_totals_weigh_samples_equally():
    totals = EpochTotals(torch.device("cpu"))
    totals.add(as_result([1.0, 2.0, 3.0], [[4, 0, 1], [0, 0, 0], [0, 0, 0]]))
    totals.add(as_result([6.0], [[2, 2, 14]]))
    scores = totals.scores()
    assert (scores.loss, scores.tp_percent, scores.fn_percent, scores.fp_percent) == (3.0, 75.0, 25.0, 187.5)
    assert scores.dice == pytest.approx((8 / 9 + 1 + 1 + 0.2) / 4)


@pytest.mark.parametrize("bad_loss", [math.inf, 0.5])
def test_a_skipped_batch_is_not_counted(bad_loss):
    """A batch with a non-finite gradient can have a finite loss."""
    totals = EpochTotals(torch.device("cpu"))
    totals.add(as_result([0.5, 0.25], [[2, 2, 0], [1, 0, 0]]))
    totals.add(as_result([0.5, bad_loss], [[7, 7, 7], [7, 7, 7]], torch.full((2, 5), torch.nan), BAD))
    assert (totals.skipped_count, totals.sample_count) == (1, 2)
    assert totals.scores().loss == 0.375
    assert counts_in(totals) == [3, 2, 0]
    assert totals.sums.tolist() == [0] * 5


def test_totals_of_some_samples():
    result = as_result([0.5, 4.0, 0.25], [[2, 2, 0], [0, 0, 9], [0, 3, 0]])
    totals = EpochTotals(torch.device("cpu"))
    totals.add(result, find_nodule_samples(result.counts))
    assert (totals.sample_count, counts_in(totals), totals.scores().loss) == (2, [2, 5, 0], 0.375)


def test_f1_of_slices_by_hand():
    """Dice 8/9, 0.2 and 0 of three slices with nodule; of four without one, a single pixel is marked in two.

    2 * (8/9 + 0.2) / (8/9 + 0.2 + 3 + 2)
    """
    counts = [[4, 0, 1], [2, 2, 14], [0, 3, 0], [0, 0, 0], [0, 0, 1], [0, 0, 4000], [0, 0, 0]]
    totals = EpochTotals(torch.device("cpu"))
    totals.add(as_result([0.0] * 7, counts))
    found = 8 / 9 + 0.2
    assert totals.scores().slice_f1 == pytest.approx(2 * found / (found + 5))
    assert totals.scores().metric("slice-f1", 0.0) == totals.scores().slice_f1


def test_the_loss_of_all_samples_as_one():
    """Sums of two batches: 12 correct of 20 predicted and 30 labeled, entropy 8 of 64 pixels."""
    totals = EpochTotals(torch.device("cpu"))
    for sums in ([[10.0, 15, 10, 5, 32]], [[2.0, 5, 20, 3, 32]]):
        totals.add(as_result([9.0], [[1, 1, 1]], torch.tensor(sums)))
    expected = 1 - 25 / 51 + 0.5 * (1 - 25 / 43) + 10 * 8 / 64
    assert loss_of_sums(totals.sums, LossOptions(fn_weight=0.5, cross_entropy=10.0)).item() == pytest.approx(expected)
    assert totals.scores(loss=expected).loss == expected


def test_totals_of_another_version_are_refused():
    with pytest.raises(ValueError, match="7 totals"):
        EpochTotals(torch.device("cpu"), [0.0] * 7)


def test_a_model_is_selected_on_all_slices():
    of_all = Scores.from_counts(0.5, 0.3, 6, 2, 100)
    scores = dataclasses.replace(Scores.from_counts(0.5, 0.6, 6, 2, 18), of_all=of_all)
    assert scores.metric("dice", 0.0) == 0.3
    assert scores.metric("recall-at-precision", 0.2) == pytest.approx(6 / 106 - 0.2)
    assert Scores.from_dict(dataclasses.asdict(scores)).of_all == dataclasses.replace(of_all)


def test_scores_of_older_checkpoints():
    older = dataclasses.asdict(Scores.from_counts(0.5, 0.6, 6, 2, 18))
    del older["slice_f1"], older["of_all"]
    assert Scores.from_dict(older).f1 == 0.375
