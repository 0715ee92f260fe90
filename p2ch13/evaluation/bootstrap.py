"""Confidence intervals of a ratio of sums over scans, such as a mean over all nodules."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from p2ch13.evaluation.froc import BOOTSTRAP_COUNT, confidence_interval


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Compute the interval of sum(numerators) / sum(denominators) over resampled scans.

    Args: numerators, denominators: one for each scan, 0 of a scan that counts for nothing; seed: of the draws.
    Returns: both bounds; NaN unless two scans count, since their spread is unknown.
    """
    if np.count_nonzero(denominators) < 2:
        return math.nan, math.nan
    scan_ndxs = np.random.default_rng(seed).integers(len(numerators), size=(BOOTSTRAP_COUNT, len(numerators)))
    above, below = (np.asarray(values, dtype=float)[scan_ndxs].sum(axis=1) for values in (numerators, denominators))
    is_defined = below > 0
    low, high = confidence_interval(above[is_defined] / below[is_defined])
    return float(low), float(high)
