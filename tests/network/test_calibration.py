import math

import numpy as np
import pytest
from scipy.special import expit

from p2ch13.network.calibration import (
    FEATURES,
    Calibration,
    choose_threshold,
    control_sensitivity,
    expected_calibration_error,
    fit_calibration,
    reliability_curve,
    sigmoid,
)
from tests.support.checks import refused


def test_logits_by_hand():
    calibration = Calibration(FEATURES, (2.0, 0.5, -1.0), 0.25)
    np.testing.assert_allclose(calibration.apply([(1, 4, 2), (0, 0, 0)]), [2 + 2 - 2 + 0.25, 0.25])
    assert calibration.apply(np.zeros((0, 3))).shape == (0,)


def test_a_known_model_is_recovered():
    rng = np.random.default_rng(0)
    features = rng.normal((1, -2, 1.5), (3, 2, 0.5), (20_000, 3))
    true_logits = 0.7 * features[:, 0] + 0.4 * features[:, 1] - 1.2 * features[:, 2] + 0.9
    fitted = fit_calibration(features, rng.random(len(features)) < expit(true_logits))
    assert fitted.names == FEATURES
    assert fitted.weights == pytest.approx((0.7, 0.4, -1.2), abs=0.06)
    assert fitted.bias == pytest.approx(0.9, abs=0.15)


def test_a_constant_feature_alone_gives_the_share_of_nodules():
    fitted = fit_calibration(np.full((8, 3), 5.0), [1, 0, 0, 0, 1, 0, 0, 0])
    np.testing.assert_allclose(sigmoid(fitted.apply([(5, 5, 5)])), [0.25], atol=1e-6)


def test_the_penalty_by_hand():
    """Features -1 and 1 separate four findings; with weight w the loss is 4 log(1 + exp(-w)) + w**2 / 2.

    Its minimum is where w = 4 / (1 + exp(w)): at 1.0 the right side is 1.0758, at 1.1 it is 0.9989, at 1.0454 1.0400.
    """
    fitted = fit_calibration([[-1.0], [-1.0], [1.0], [1.0]], [0, 0, 1, 1], names=["score"])
    (weight,) = fitted.weights
    assert weight == pytest.approx(4 / (1 + math.exp(weight)), abs=1e-6)
    assert 1.0 < weight < 1.1
    assert fitted.bias == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("is_nodule", [[0, 0], [1, 1], []])
def test_one_class_alone_cannot_be_calibrated(is_nodule):
    with refused():
        fit_calibration(np.zeros((len(is_nodule), 3)), is_nodule)


def test_saved_and_loaded():
    calibration = Calibration(FEATURES, (2.0, 0.5, -1.0), 0.25)
    assert Calibration.from_dict(calibration.as_dict()) == calibration


@pytest.mark.parametrize(
    "changes",
    [{"weights": [1.0]}, {"weights": [1.0, math.nan, 1.0]}, {"bias": math.inf}, {"names": ["a", "b", "c"]}],
)
def test_values_that_are_no_calibration(changes):
    values = Calibration(FEATURES, (2.0, 0.5, -1.0), 0.25).as_dict()
    with pytest.raises((KeyError, TypeError, ValueError)):
        Calibration.from_dict({**values, **changes})


def test_sigmoid_does_not_overflow():
    np.testing.assert_allclose(sigmoid(np.array([-1000.0, 0.0, math.log(3), 1000.0])), [0, 0.5, 0.75, 1])


PROBABILITIES = [0.05, 0.15, 0.15, 0.95, 1.0]
IS_NODULE = [0, 1, 0, 1, 1]


def test_reliability_by_hand():
    curve = reliability_curve(PROBABILITIES, IS_NODULE)
    assert [each.finding_count for each in curve] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert curve[0] == (0.0, 0.1, 1, 0.05, 0.0)
    assert curve[1] == (0.1, 0.2, 2, 0.15, 0.5)
    assert curve[9] == (0.9, 1.0, 2, 0.975, 1.0)
    assert math.isnan(curve[5].nodule_share)


def test_calibration_error_by_hand():
    expected = (1 * 0.05 + 2 * abs(0.15 - 0.5) + 2 * abs(0.975 - 1)) / 5
    assert expected_calibration_error(PROBABILITIES, IS_NODULE) == pytest.approx(expected)
    assert expected_calibration_error(PROBABILITIES, IS_NODULE, bins=1) == pytest.approx(abs(2.3 - 3) / 5)
    assert math.isnan(expected_calibration_error([], []))


@pytest.mark.parametrize(
    ("per_scan", "threshold"),
    [
        (0, (0.9 + 1) / 2),
        (0.5, (0.7 + 0.9) / 2),  # 1 of 2 scans
        (0.9, (0.7 + 0.9) / 2),  # still 1
        (1, (0.7 + 0.9) / 2),  # two are equal: neither is shown
        (1.5, (0.2 + 0.7) / 2),
        (2, 0.0),
    ],
)
def test_operating_points_by_hand(per_scan, threshold):
    assert choose_threshold([0.7, 0.2, 0.9, 0.7], 2, per_scan) == pytest.approx(threshold)


@pytest.mark.parametrize(
    ("sensitivity", "threshold"),
    [
        # Nine nodules: (misses + 1) / 10 <= 1 - sensitivity.
        (0.9, 0.1),  # no miss
        (0.8, 0.2),  # one
        (0.85, 0.1),
        (0.5, 0.5),
        (0.15, 0.8),  # seven misses: 8 / 10 <= 0.85
    ],
)
def test_conformal_thresholds_by_hand(sensitivity, threshold):
    nodules = [0.3, 0.1, 0.2, 0.9, 0.8, 0.4, 0.5, 0.6, 0.7]
    assert control_sensitivity(nodules, sensitivity) == threshold


def test_conformal_thresholds_that_do_not_exist():
    with refused(option="--sensitivity"):  # 1 / 9 > 0.1
        control_sensitivity([0.5] * 8, 0.9)
    with refused(option="--sensitivity"):
        control_sensitivity([], 0.5)
    assert control_sensitivity([0.0, *[0.5] * 18], 0.9) == 0.5  # one miss of 19
    with refused(option="--sensitivity"):
        control_sensitivity([0.0, 0.0, *[0.5] * 17], 0.9)


def test_the_conformal_guarantee_holds_on_average():
    """The sixth of 30 equally likely ranks: a new nodule is missed in 6 of 30 draws."""
    draws = np.random.default_rng(1).random((4000, 30))
    missed = [new < control_sensitivity(nodules, 0.8) for *nodules, new in draws.tolist()]
    assert np.mean(missed) == pytest.approx(0.2, abs=0.02)
