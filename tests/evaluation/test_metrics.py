import dataclasses
import math

import pytest
import torch

from p2ch13.evaluation.metrics import Scores, count_pixels, sample_dice


def test_count_pixels_of_each_sample():
    predicted = torch.tensor([[True, True, True, False, False, False], [False, True, False, False, False, False]])
    label = torch.tensor([[True, True, False, True, False, False], [False, False, False, False, False, False]])
    assert count_pixels(predicted, label).tolist() == [[2, 1, 1], [0, 0, 1]]


def test_dice_of_each_sample():
    # 2*4 / (2*4 + 0 + 1); 2*2 / (2*2 + 2 + 14); nothing in common; nothing to find and nothing found
    counts = torch.tensor([[4, 0, 1], [2, 2, 14], [0, 3, 0], [0, 0, 0]])
    assert sample_dice(counts).tolist() == pytest.approx([8 / 9, 0.2, 0.0, 1.0])


def test_scores_by_hand():
    scores = Scores.from_counts(loss=0.5, dice=0.6, tp=6, fn=2, fp=18, slice_f1=0.7)
    assert scores == Scores(
        loss=0.5,
        precision=0.25,
        recall=0.75,
        f1=0.375,
        dice=0.6,
        tp_percent=75.0,
        fn_percent=25.0,
        fp_percent=225.0,
        slice_f1=0.7,
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
        " (of nodule pixels 75.0% found, 25.0% missed; of marked pixels 75.0% false)"
    )


def test_a_model_is_selected_on_all_slices():
    of_all = Scores.from_counts(0.5, 0.3, 6, 2, 100, slice_f1=0.7)
    scores = dataclasses.replace(Scores.from_counts(0.5, 0.6, 6, 2, 18), of_all=of_all)
    assert scores.metric("dice", 0.0) == 0.3
    assert scores.metric("recall-at-precision", 0.2) == pytest.approx(6 / 106 - 0.2)
    assert Scores.from_dict(dataclasses.asdict(scores)).of_all == dataclasses.replace(of_all)


def test_scores_of_older_checkpoints():
    older = dataclasses.asdict(Scores.from_counts(0.5, 0.6, 6, 2, 18))
    del older["slice_f1"], older["of_all"]
    assert Scores.from_dict(older).f1 == 0.375
