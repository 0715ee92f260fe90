"""FROC: sensitivity against false positives per scan, by LUNA16's rules.

A finding hits a nodule if its center is less than the nodule's radius away. A nodule counts with the highest score of
its hits; the others are ignored. A finding in two nodules hits both. A finding that hits none is ignored in an excluded
annotation, and a false positive elsewhere. Nodules without a hit count in the denominator of the sensitivity alone.

Source: the evaluation that LUNA16 describes and the script that it ships (noduleCADEvaluationLUNA16.py),
https://luna16.grand-challenge.org/Evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

OPERATING_POINTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives per scan
FINDINGS_PER_SCAN = 100  # used of a scan with more, see `ScanMatch.limited_to`
BOOTSTRAP_COUNT = 1000
CONFIDENCE = 0.95
BAND_POINTS = np.geomspace(OPERATING_POINTS[0], OPERATING_POINTS[-1], 121)  # where the confidence band is computed

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ScanMatch:
    """The hits of a scan's findings on its nodules."""

    scores: Floats  # (finding,), finite; logits, or probabilities on any scale
    hits: Bools  # (finding, nodule); a finding that lies in two nodules hits both
    is_excluded: Bools  # (finding,), whether it lies in an excluded annotation; if in a nodule too, it is a hit

    @property
    def is_found(self) -> Bools:
        """Whether any finding hits the nodule: (nodule,)."""
        return np.asarray(self.hits.any(axis=0))

    @property
    def best_hits(self) -> NDArray[np.intp]:
        """The index of the highest-scoring hit of each nodule, -1 without a hit: (nodule,)."""
        if not len(self.scores):
            return np.full(self.hits.shape[1], -1)
        best = np.where(self.hits, self.scores[:, np.newaxis], -np.inf).argmax(axis=0)
        return np.where(self.is_found, best, -1)

    @property
    def is_hit(self) -> Bools:
        """Whether the finding hits any nodule: (finding,)."""
        return np.asarray(self.hits.any(axis=1))

    @property
    def is_false_positive(self) -> Bools:
        """Whether the finding is a false positive: (finding,)."""
        return ~self.is_hit & ~self.is_excluded

    @property
    def is_ignored(self) -> Bools:
        """Whether the finding lies in an excluded annotation and in no nodule: (finding,)."""
        return ~self.is_hit & self.is_excluded

    def limited_to(self, count: int) -> ScanMatch:
        """Keep at most `count` findings, by the rule of LUNA16's script.

        Of more than `count` findings, keep those that score above number `count` + 1. Equal scores at that rank are
        dropped together, so that the order of the findings does not matter: of 150 equal ones none is kept.
        """
        if len(self.scores) <= count:
            return self
        is_kept = self.scores > np.sort(self.scores)[-count - 1]
        return ScanMatch(self.scores[is_kept], self.hits[is_kept], self.is_excluded[is_kept])


def match_findings(
    finding_xyz: ArrayLike,
    scores: ArrayLike,
    nodule_xyz: ArrayLike,
    nodule_diameters_mm: ArrayLike,
    excluded_xyz: ArrayLike = (),
    excluded_diameters_mm: ArrayLike = (),
) -> ScanMatch:
    """Match the findings of a scan: one hits a nodule whose center is less than the nodule's radius away.

    Args: centers, (finding, 3), (nodule, 3) and (excluded, 3), in mm, patient coordinates, each possibly empty; scores,
        (finding,); diameters, (nodule,) and (excluded,), in mm.
    """
    is_excluded = np.asarray(lie_within(finding_xyz, excluded_xyz, excluded_diameters_mm).any(axis=1))
    hits = lie_within(finding_xyz, nodule_xyz, nodule_diameters_mm)
    return ScanMatch(np.asarray(scores, dtype=float).reshape(-1), hits, is_excluded)


def lie_within(points_xyz: ArrayLike, centers_xyz: ArrayLike, diameters_mm: ArrayLike) -> Bools:
    """Whether a point lies within the sphere around a center, surface excluded: (point, center)."""
    points, centers = (np.asarray(xyz, dtype=float).reshape(-1, 3) for xyz in (points_xyz, centers_xyz))
    radii = np.asarray(diameters_mm, dtype=float).reshape(-1) / 2
    within: Bools = ((points[:, np.newaxis] - centers) ** 2).sum(axis=2) < radii**2
    return within


@dataclass(frozen=True, eq=False)
class FrocCurve:
    """The points of the curve: (0, 0), then one for each distinct score, the highest first."""

    false_positives_per_scan: Floats  # (point,)
    sensitivity: Floats  # (point,); NaN without nodules
    thresholds: Floats  # (point,), the lowest score that counts; the first is infinite

    def sensitivity_at(self, false_positives_per_scan: Sequence[float] | Floats) -> Floats:
        """Interpolate linearly; beyond the last point the sensitivity is constant, as in LUNA16's script.

        A program with too few findings for 8 false positives per scan is not penalized.
        """
        return np.interp(false_positives_per_scan, self.false_positives_per_scan, self.sensitivity)


@dataclass(frozen=True, eq=False)
class Froc:
    """A FROC analysis; intervals are 95% CI from resampled scans, NaN without two scans with nodules."""

    curve: FrocCurve  # of all scans
    limited_count: int  # number of scans with more than `FINDINGS_PER_SCAN` findings, not all of them on the curve
    sensitivities: Floats  # (7,), at `OPERATING_POINTS`
    cpm: float  # their mean, the competition performance metric
    sensitivity_intervals: Floats  # (2, 7)
    cpm_interval: Floats  # (2,)
    band: Floats  # (2, 121), the interval at `BAND_POINTS`

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.cpm_interval[0])


def compute_froc(matches: Sequence[ScanMatch], bootstrap_count: int = BOOTSTRAP_COUNT, seed: int = 0) -> Froc:
    """Compute the curve, sensitivities, CPM and their bootstrap confidence intervals.

    The bootstrap draws as many scans as there are, with replacement, `bootstrap_count` times. Draws without nodule are
    skipped. Without any nodule, all sensitivities are NaN. If one scan holds all nodules, their spread over scans is
    unknown: every draw would repeat that scan, and an interval of its sensitivity alone would look exact.

    Args: matches: one for each scan, including scans without nodules and findings: they count in the denominator.
    """
    events = CurveEvents([match.limited_to(FINDINGS_PER_SCAN) for match in matches])
    curve = events.curve(np.ones(len(matches), dtype=int))
    sensitivities = curve.sensitivity_at(OPERATING_POINTS)
    rng = np.random.default_rng(seed)
    rates = np.concatenate([OPERATING_POINTS, BAND_POINTS])
    draw_count = bootstrap_count if np.count_nonzero(events.nodule_counts) > 1 else 0
    draws = np.empty((draw_count, len(rates)))  # at these rates alone: all curves of LUNA16 would fill the memory
    for draw in draws:
        scan_ndxs = rng.integers(len(matches), size=len(matches))
        draw[:] = events.curve(np.bincount(scan_ndxs, minlength=len(matches))).sensitivity_at(rates)
    at_points, at_band = np.split(draws, [len(OPERATING_POINTS)], axis=1)
    return Froc(
        curve,
        sum(len(match.scores) > FINDINGS_PER_SCAN for match in matches),
        sensitivities,
        float(sensitivities.mean()),
        confidence_interval(at_points),
        confidence_interval(at_points.mean(axis=1)),
        confidence_interval(at_band),
    )


def confidence_interval(values: Floats) -> Floats:
    """Compute lower and upper bounds, (draw, ...) -> (2, ...); draws with NaN are skipped. NaN without draws."""
    defined = values[~np.isnan(values.reshape(len(values), math.prod(values.shape[1:]))).any(axis=1)]
    if not len(defined):
        return np.full((2, *values.shape[1:]), math.nan)
    tail = (1 - CONFIDENCE) / 2
    interval: Floats = np.quantile(defined, [tail, 1 - tail], axis=0)
    return interval


class CurveEvents:
    """The events that move the curve, by falling score: hits of nodules, and false positives."""

    def __init__(self, matches: Sequence[ScanMatch]) -> None:
        found = [match.scores[match.best_hits[match.is_found]] for match in matches]
        false = [match.scores[match.is_false_positive] for match in matches]
        self.nodule_counts = np.array([match.hits.shape[1] for match in matches])  # (scan,)

        scores = np.concatenate([*found, *false])
        order = np.argsort(-scores, kind="stable")
        self.scores = scores[order]
        scan_ndxs = [np.repeat(np.arange(len(matches)), [len(part) for part in parts]) for parts in (found, false)]
        self.scan_ndxs = np.concatenate(scan_ndxs)[order]
        self.is_found = order < sum(len(part) for part in found)
        # Equal scores are one threshold and one point of the curve: the last of them.
        self.steps = np.flatnonzero(np.diff(self.scores, append=-np.inf))

    def curve(self, weights: NDArray[np.int_]) -> FrocCurve:
        """Compute the curve. Args: weights: (scan,), how often each scan counts."""
        event_weights = weights[self.scan_ndxs]
        found, false = (
            np.concatenate([[0.0], np.cumsum(event_weights * is_counted)[self.steps]])
            for is_counted in (self.is_found, ~self.is_found)
        )
        nodule_count = float(weights @ self.nodule_counts)
        sensitivity = found / nodule_count if nodule_count else np.full(len(found), math.nan)
        return FrocCurve(false / weights.sum(), sensitivity, np.concatenate([[np.inf], self.scores[self.steps]]))
