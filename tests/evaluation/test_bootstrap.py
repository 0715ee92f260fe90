import math

import numpy as np
import pytest

from p2ch13.evaluation.bootstrap import ratio_interval


def test_two_scans_by_hand():
    """Of two scans a draw has the first twice, the second twice, or both, with 1/4, 1/4 and 1/2: all are likely."""
    assert ratio_interval([1, 3], [2, 4]) == (0.5, 0.75)


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(1).normal(5, 2, size=400)
    low, high = ratio_interval(values.tolist(), [1.0] * 400)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


@pytest.mark.parametrize("weights", [[], [0, 0, 0], [0, 3, 0]])
def test_one_scan_has_no_interval(weights):
    assert all(map(math.isnan, ratio_interval([0.0] * len(weights), weights)))
