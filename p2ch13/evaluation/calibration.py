"""Calibration of findings, measured on scored scans, with confidence intervals over scans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ch13.evaluation.froc import BOOTSTRAP_COUNT, Floats, confidence_interval
from p2ch13.evaluation.scoring import ScanScores
from p2ch13.network.calibration import expected_calibration_error, reliability_curve, sigmoid

BIN_COUNT = 10
# What is measured, as tables name it -> its key in the result of `measure_calibration`.
CALIBRATIONS = {"before": "before", "after": "after", "after, of findings shown": "after_shown"}


def measure_calibration(scans: Sequence[ScanScores], seed: int = 0) -> dict[str, Any] | None:
    """Compare the probabilities of findings with the share of nodules among them, without findings in excluded ones.

    Returns: plain values for JSON: the curve, and the expected calibration error with its interval, before calibration
        (the sigmoid of the second stage's logit) and after; and after, of those findings alone that are shown, since
        most candidates are improbable and right to be, which makes the mean error small. None without findings of a
        second stage.
    """
    rows = []
    for scan_ndx, scan in enumerate(scans):
        kinds = zip(scan.match.is_hit.tolist(), scan.match.is_ignored.tolist(), strict=True)
        for finding, (is_nodule, is_ignored) in zip(scan.findings, kinds, strict=True):
            if not is_ignored and not math.isnan(finding.second_stage_logit):
                shown = scan.shows(finding.probability)
                rows.append((scan_ndx, finding.second_stage_logit, finding.probability, is_nodule, shown))
    if not rows:
        return None
    scan_ndxs, logits, after, truth, is_shown = (np.array(column) for column in zip(*rows, strict=True))
    draws = draw_scans(len(scans), seed)
    return {
        "scans": len(scans),
        "before": describe(sigmoid(logits), truth, scan_ndxs, draws),
        "after": describe(after, truth, scan_ndxs, draws),
        "after_shown": describe(after[is_shown], truth[is_shown], scan_ndxs[is_shown], draws),
    }


def draw_scans(scan_count: int, seed: int) -> NDArray[np.int_]:
    """Draw scans with replacement: (draw, scan), how often each counts."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(scan_count, size=(BOOTSTRAP_COUNT, scan_count))
    return np.array([np.bincount(each, minlength=scan_count) for each in drawn])


def describe(
    probabilities: Floats, is_nodule: NDArray[np.bool_], scan_ndxs: NDArray[np.int_], draws: NDArray[np.int_]
) -> dict[str, Any]:
    """Args: probabilities, is_nodule, scan_ndxs: (finding,); draws: see `draw_scans`."""
    has_spread = len(np.unique(scan_ndxs)) > 1  # of one scan's findings every draw would have the same error
    errors = resample_error(probabilities, is_nodule, scan_ndxs, draws) if has_spread else np.empty(0)
    low, high = confidence_interval(errors).tolist()
    return {
        "findings": len(probabilities),
        "nodules": int(is_nodule.sum()),
        "ece": expected_calibration_error(probabilities, is_nodule, BIN_COUNT),
        "ece_low": low,
        "ece_high": high,
        "curve": [each._asdict() for each in reliability_curve(probabilities, is_nodule, BIN_COUNT)],
    }


def resample_error(
    probabilities: Floats, is_nodule: NDArray[np.bool_], scan_ndxs: NDArray[np.int_], draws: NDArray[np.int_]
) -> Floats:
    """Compute the expected calibration error of each draw: (draw,); NaN for a draw without findings.

    A bin's part of the error is the distance between its sum of probabilities and its nodules, so that sums of each
    scan suffice.
    """
    places = np.minimum((probabilities * BIN_COUNT).astype(int), BIN_COUNT - 1)
    excess, counts = np.zeros((draws.shape[1], BIN_COUNT)), np.zeros(draws.shape[1])
    np.add.at(excess, (scan_ndxs, places), probabilities - is_nodule)
    np.add.at(counts, scan_ndxs, 1)
    with np.errstate(invalid="ignore"):
        errors: Floats = np.abs(draws @ excess).sum(axis=1) / (draws @ counts)
    return errors
