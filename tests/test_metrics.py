import math

import torch

from p2ch13.metrics import EpochTotals, Scores, count_pixels


def test_count_pixels():
    predicted = torch.tensor([True, True, True, False, False, False])
    label = torch.tensor([True, True, False, True, False, False])
    assert count_pixels(predicted, label).tolist() == [2, 1, 1]


def test_counts_beyond_what_float32_holds():
    mask = torch.ones(1, dtype=torch.bool).expand(2**24 + 1)
    assert count_pixels(mask, mask).tolist() == [2**24 + 1, 0, 0]


def test_scores_by_hand():
    scores = Scores.from_counts(loss=0.5, tp=6, fn=2, fp=18)
    assert scores == Scores(
        loss=0.5, precision=0.25, recall=0.75, f1=0.375, tp_percent=75.0, fn_percent=25.0, fp_percent=225.0
    )


def test_nothing_found():
    scores = Scores.from_counts(loss=9.0, tp=0, fn=8, fp=0)
    assert (scores.precision, scores.recall, scores.f1) == (0.0, 0.0, 0.0)


def test_nothing_to_find_has_no_scores():
    scores = Scores.from_counts(loss=0.5, tp=0, fn=0, fp=3)
    assert math.isnan(scores.recall)
    assert math.isnan(scores.precision)
    assert not scores.is_defined
    assert not scores.recall > 0.0  # so that it is never the best
    assert str(scores) == "loss 0.5000, no scores: no pixel here is labelled nodule"


def test_an_epochs_line():
    assert str(Scores.from_counts(0.5, 6, 2, 18)) == (
        "loss 0.5000, precision 0.2500, recall 0.7500, F1 0.3750 (of nodule pixels: 75.0% tp, 25.0% fn, 225.0% fp)"
    )


def test_totals_weigh_every_sample_alike():
    totals = EpochTotals(torch.device("cpu"))
    totals.add(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4, 0, 1]))
    totals.add(torch.tensor([6.0]), torch.tensor([2, 2, 17]))
    assert totals.scores() == Scores.from_counts(3.0, 6, 2, 18)
