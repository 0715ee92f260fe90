import math

import pytest

from p2ch13.evaluation.scoring import NoduleScore
from p2ch13.evaluation.size_classes import name_class, summarize_sizes


def nodule(diameter_mm, probability=math.nan, dice=0.0, volume_error=math.nan, surface_mm=math.nan):
    return NoduleScore(
        "1.2", (0, 0, 0), diameter_mm, probability, dice=dice, volume_error=volume_error, surface_distance_mm=surface_mm
    )


NODULES = [
    nodule(2.9),
    nodule(3.0, 0.9, 0.8, 0.5, 0.4),
    nodule(5.99, 0.8, 0.6, -0.1, 0.8),
    nodule(6.0, math.nan, 0.0),  # missed
    nodule(10.0, 0.7, 0.9, 0.2, 1.0),
]


def test_classes_by_hand():
    sizes = summarize_sizes(NODULES)
    under_3, from_3, from_6, from_10 = sizes["classes"]
    assert [part["count"] for part in sizes["classes"]] == [1, 2, 1, 1]
    assert [part["found"] for part in sizes["classes"]] == [0, 2, 0, 1]
    assert (from_3["recall"], from_3["mean_dice"], from_3["compared"]) == (1, pytest.approx(0.7), 2)
    assert from_3["volume_bias"] == pytest.approx(0.2)
    assert from_3["volume_spread"] == pytest.approx(0.3)  # of 0.5 and -0.1 around 0.2
    assert from_3["mean_surface_distance_mm"] == pytest.approx(0.6)
    assert (from_6["recall"], from_6["mean_dice"], from_6["compared"], from_6["volume_bias"]) == (0, 0, 0, None)
    assert (from_10["volume_bias"], from_10["volume_spread"]) == (0.2, 0)
    assert (from_10["from_mm"], from_10["to_mm"]) == (10, None)
    assert (under_3["recall"], under_3["volume_spread"]) == (0, None)
    assert (sizes["compared"], sizes["volume_bias"]) == (3, pytest.approx(0.2))
    assert sizes["volume_spread"] == pytest.approx(math.sqrt((0.3**2 + 0.3**2 + 0) / 3))


def test_without_nodules():
    sizes = summarize_sizes([])
    assert (sizes["compared"], sizes["volume_bias"], sizes["classes"][1]["recall"]) == (0, None, None)


def test_names_of_classes():
    names = [name_class(part["from_mm"], part["to_mm"]) for part in summarize_sizes([])["classes"]]
    assert names == ["under 3 mm", "3 to under 6 mm", "6 to under 10 mm", "10 mm and more"]
