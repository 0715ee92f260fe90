import math

import pytest
import torch

from p2ch13.config import LossOptions
from p2ch13.evaluation.metrics import count_pixels, find_nodule_samples
from p2ch13.training.losses import loss_of_sums
from p2ch13.training.totals import SUM_COUNT, EpochTotals, StepResult

GOOD, BAD = torch.tensor([False] * 3), torch.tensor([False, False, True])  # faults


@pytest.fixture
def totals():
    return EpochTotals(torch.device("cpu"))


def as_result(losses, counts, sums=None, faults=GOOD):
    counts = torch.tensor(counts)
    return StepResult(
        torch.tensor(losses), counts, torch.zeros(len(counts), SUM_COUNT) if sums is None else sums, faults
    )


def counts_in(totals):
    """Sum true positives, false negatives and false positives."""
    return totals.values[6:9].tolist()


def test_counts_beyond_float32(totals):
    mask = torch.ones(1, 1, dtype=torch.bool).expand(1, 2**24 + 1)
    for _ in range(2):
        totals.add(StepResult(torch.zeros(1), count_pixels(mask, mask), torch.zeros(1, SUM_COUNT), GOOD))
    assert counts_in(totals) == [2**25 + 2, 0, 0]


def test_totals_weigh_samples_equally(totals):
    totals.add(as_result([1.0, 2.0, 3.0], [[4, 0, 1], [0, 0, 0], [0, 0, 0]]))
    totals.add(as_result([6.0], [[2, 2, 14]]))
    scores = totals.scores()
    assert (scores.loss, scores.tp_percent, scores.fn_percent, scores.fp_percent) == (3.0, 75.0, 25.0, 187.5)
    assert scores.dice == pytest.approx((8 / 9 + 1 + 1 + 0.2) / 4)


@pytest.mark.parametrize("bad_loss", [math.inf, 0.5])
def test_a_skipped_batch_is_not_counted(totals, bad_loss):
    """A batch with a non-finite gradient can have a finite loss."""
    totals.add(as_result([0.5, 0.25], [[2, 2, 0], [1, 0, 0]]))
    totals.add(as_result([0.5, bad_loss], [[7, 7, 7], [7, 7, 7]], torch.full((2, SUM_COUNT), torch.nan), BAD))
    assert (totals.skipped_count, totals.sample_count) == (1, 2)
    assert totals.scores().loss == 0.375
    assert counts_in(totals) == [3, 2, 0]
    assert totals.sums.tolist() == [0] * SUM_COUNT


def test_totals_of_some_samples(totals):
    result = as_result([0.5, 4.0, 0.25], [[2, 2, 0], [0, 0, 9], [0, 3, 0]])
    totals.add(result, find_nodule_samples(result.counts))
    assert (totals.sample_count, counts_in(totals), totals.scores().loss) == (2, [2, 5, 0], 0.375)


def test_f1_of_slices_by_hand(totals):
    """Dice 8/9, 0.2 and 0 of three slices with nodule; of four without one, a single pixel is marked in two.

    2 * (8/9 + 0.2) / (8/9 + 0.2 + 3 + 2)
    """
    counts = [[4, 0, 1], [2, 2, 14], [0, 3, 0], [0, 0, 0], [0, 0, 1], [0, 0, 4000], [0, 0, 0]]
    totals.add(as_result([0.0] * 7, counts))
    found = 8 / 9 + 0.2
    assert totals.scores().slice_f1 == pytest.approx(2 * found / (found + 5))
    assert totals.scores().metric("slice-f1", 0.0) == totals.scores().slice_f1


def test_the_loss_of_all_samples_as_one(totals):
    """Sums of two batches: 12 correct of 20 predicted and 30 labeled, entropy 8 of 64 pixels, 3 of two nodules."""
    for sums in ([[10.0, 15, 10, 5, 32, 1, 1]], [[2.0, 5, 20, 3, 32, 2, 1]]):
        totals.add(as_result([9.0], [[1, 1, 1]], torch.tensor(sums)))
    expected = 1 - 25 / 51 + 0.5 * (1 - 25 / 43) + 10 * 8 / 64 + 0.3 * 3 / 2
    options = LossOptions(fn_weight=0.5, cross_entropy=10.0, nodule_entropy=0.3)
    assert loss_of_sums(totals.sums, options).item() == pytest.approx(expected)
    assert totals.scores(loss=expected).loss == expected


def test_totals_since_a_mark(totals):
    totals.add(as_result([0.5, 0.25], [[2, 2, 0], [1, 0, 0]]))
    assert totals.since_mark().sample_count == 2  # since the start
    totals.mark()
    totals.add(as_result([2.0], [[0, 3, 1]]))
    totals.add(as_result([9.0], [[7, 7, 7]], faults=BAD))
    since = totals.since_mark()
    assert (since.skipped_count, since.sample_count, since.scores().loss) == (1, 1, 2.0)
    assert counts_in(since) == [0, 3, 1]
    assert totals.sample_count == 3


def test_totals_of_another_version_are_refused():
    for totals in ([[0.0] * 7], [None, [0.0] * 7]):
        with pytest.raises(ValueError, match="7 totals"):
            EpochTotals(torch.device("cpu"), *totals)
