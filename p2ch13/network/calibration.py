"""Probabilities of findings: calibrated from scores, measured, and cut at operating points.

A finding is shown if its probability is at least the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from p2ch13.util.errors import InputError

Floats = NDArray[np.float64]

# What a finding's probability is computed from: the second stage's mean logit over flips, the first stage's logit of
# its most probable voxels, the logarithm of its diameter in mm.
FEATURES = ("second_stage_logit", "first_stage_logit", "log_diameter")
L2_WEIGHT = 1.0  # of the squared weights of standardized features; keeps them finite where they separate the classes


@dataclass(frozen=True)
class Calibration:
    """Logistic regression from a finding's features to the logit of being a nodule.

    Source: Platt (1999), Probabilistic outputs for support vector machines.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float

    def apply(self, features: ArrayLike) -> Floats:
        """Compute calibrated logits: (finding, feature) -> (finding,)."""
        values = np.asarray(features, dtype=np.float64).reshape(-1, len(self.weights))
        logits: Floats = values @ np.array(self.weights) + self.bias
        return logits

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"names": list(self.names), "weights": list(self.weights), "bias": self.bias}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Raises: KeyError, TypeError or ValueError for values that are none of `as_dict` or not finite."""
        names = tuple(map(str, values["names"]))
        weights, bias = tuple(map(float, values["weights"])), float(values["bias"])
        if names != FEATURES or len(weights) != len(names) or not all(map(math.isfinite, (*weights, bias))):
            raise ValueError(f"a calibration of {', '.join(names)}")
        return cls(names, weights, bias)


def fit_calibration(features: ArrayLike, is_nodule: ArrayLike, names: Sequence[str] = FEATURES) -> Calibration:
    """Fit a calibration, with a weak L2 penalty on the weights of the standardized features.

    Args: features: (finding, feature), in the order of `names`; is_nodule: (finding,).
    Raises: InputError without nodules, or without false positives.
    """
    values = np.asarray(features, dtype=np.float64).reshape(-1, len(names))
    truth = np.asarray(is_nodule, dtype=np.float64)
    if not 0 < truth.sum() < len(truth):
        raise InputError(
            f"{int(truth.sum())} of {len(truth)} validation findings are nodules; calibration needs nodules and false "
            "positives: give it more scans"
        )
    mean, scale = values.mean(axis=0), values.std(axis=0)
    scale[scale == 0] = 1.0
    standardized = np.column_stack([(values - mean) / scale, np.ones(len(values))])
    penalty = np.append(np.full(len(names), L2_WEIGHT), 0.0)

    def loss_and_gradient(parameters: Floats) -> tuple[float, Floats]:
        logits = standardized @ parameters
        loss = (np.logaddexp(0, logits) - truth * logits).sum() + (penalty * parameters**2).sum() / 2
        return float(loss), standardized.T @ (sigmoid(logits) - truth) + penalty * parameters

    fitted = minimize(
        loss_and_gradient, np.zeros(len(penalty)), jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9}
    ).x
    weights = fitted[:-1] / scale
    return Calibration(tuple(names), tuple(weights.tolist()), float(fitted[-1] - weights @ mean))


def sigmoid(logits: Floats) -> Floats:
    """Compute the probabilities of logits, without overflow."""
    return np.exp(-np.logaddexp(0, -logits))


class ReliabilityBin(NamedTuple):
    """Findings whose probability is within a tenth of 0..1, say."""

    low: float
    high: float  # exclusive, except for 1
    finding_count: int
    mean_probability: float  # NaN without findings, as is the next
    nodule_share: float


def reliability_curve(probabilities: ArrayLike, is_nodule: ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """Compare probabilities with the share of nodules, in bins of equal width."""
    values, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(is_nodule, dtype=np.float64)
    places = np.minimum((values * bins).astype(int), bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        means, shares = (np.bincount(places, each, minlength=bins) / counts for each in (values, truth))
    columns = (counts.tolist(), means.tolist(), shares.tolist())
    return [ReliabilityBin(ndx / bins, (ndx + 1) / bins, *row) for ndx, row in enumerate(zip(*columns, strict=True))]


def expected_calibration_error(probabilities: ArrayLike, is_nodule: ArrayLike, bins: int = 10) -> float:
    """Compute the mean distance of probability and share of nodules over bins, weighted by findings; NaN without any.

    Source: Naeini et al. (2015), Obtaining well calibrated probabilities using Bayesian binning.
    """
    curve = [each for each in reliability_curve(probabilities, is_nodule, bins) if each.finding_count]
    total = sum(each.finding_count for each in curve)
    distance = sum(each.finding_count * abs(each.mean_probability - each.nodule_share) for each in curve)
    return distance / total if total else math.nan


def choose_threshold(false_positives: ArrayLike, scan_count: int, per_scan: float) -> float:
    """Choose the operating point at which validation scans have at most so many false positives each, on average.

    Args: false_positives: the probabilities of all of them, in any order; scan_count: validation scans.
    Returns: halfway between the most probable false positive that is not shown and the next above it, or 1; 0 if all
        of them may be shown.
    """
    allowed = math.floor(per_scan * scan_count + 1e-9)
    falling = np.sort(np.asarray(false_positives, dtype=np.float64))[::-1]
    if allowed >= len(falling):
        return 0.0
    hidden = falling[allowed]
    higher = falling[falling > hidden]
    return float((hidden + (higher[-1] if len(higher) else 1.0)) / 2)


def control_sensitivity(nodules: ArrayLike, sensitivity: float) -> float:
    """Choose the highest threshold that keeps a sensitivity, by conformal risk control.

    For n validation nodules and one more that is exchangeable with them, the expected share of misses at this threshold
    is at most 1 - sensitivity. This holds on average over draws of validation and new nodules: not for each scan, and
    not for nodules of another kind, scanner or hospital than those of validation.

    Args: nodules: the highest probability of a finding that hits each validation nodule, 0 for a missed one.
    Returns: the largest t with n / (n + 1) * (share of nodules below t) + 1 / (n + 1) <= 1 - sensitivity.
    Raises: InputError if there are too few nodules for this sensitivity, or too many of them were missed.
    Source: Angelopoulos et al. (2024), Conformal risk control, https://arxiv.org/abs/2208.02814
    """
    rising = np.sort(np.asarray(nodules, dtype=np.float64))
    misses = math.floor((1 - sensitivity) * (len(rising) + 1) - 1 + 1e-9)  # that may lie below the threshold
    if misses < 0:
        least = math.ceil(1 / (1 - sensitivity) - 1 - 1e-9)
        raise InputError(
            f"{sensitivity:g} needs {least} validation nodules, and the network has {len(rising)}; choose a lower one",
            option="--sensitivity",
        )
    if rising[misses] <= 0:
        reached = np.count_nonzero(rising > 0) / len(rising)
        raise InputError(
            f"no threshold reaches {sensitivity:g}: in validation, findings hit {reached:.0%} of nodules at all; "
            "choose a lower one",
            option="--sensitivity",
        )
    return float(rising[misses])
