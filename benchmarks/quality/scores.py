"""Sensitivity and false positives of scored scans: at thresholds, at false positives per scan, by size and kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from p2ch13.config import LabelOptions
from p2ch13.data.index import ScanIndex
from p2ch13.evaluation.calibration import draw_scans
from p2ch13.evaluation.froc import (
    OPERATING_POINTS,
    Floats,
    Froc,
    ScanMatch,
    compute_froc,
    confidence_interval,
)
from p2ch13.evaluation.scoring import NoduleScore, ScanScores
from p2ch13.evaluation.summary import divide, mean
from p2ch13.util.coordinates import XyzTuple

SIZE_BORDERS_MM = (3.0, 6.0, 10.0, 20.0, math.inf)
SMALL_MM = SIZE_BORDERS_MM[1]  # LUNA16's and Lung-RADS's small nodules are below
FAINT_HU = -300.0  # median HU of a nodule: most ground glass lies below, solid tissue above
SEED = 0  # of the bootstrap

NoduleChoice = Callable[[NoduleScore], bool]


class Estimate(NamedTuple):
    """A score; NaN where it is not defined. Attributes: interval: its 95% CI from resampled scans; None without one."""

    value: float
    interval: list[float] | None = None


def is_small(nodule: NoduleScore) -> bool:
    return nodule.diameter_mm < SMALL_MM


def is_large(nodule: NoduleScore) -> bool:
    return not is_small(nodule)


def select_nodules(scans: Iterable[ScanScores], choice: NoduleChoice) -> list[ScanScores]:
    """Score the same findings on some of the nodules; those in other nodules alone become excluded ones."""
    selected = []
    for scan in scans:
        is_chosen = np.array([choice(nodule) for nodule in scan.nodules], dtype=bool)
        match = scan.match
        others = match.hits[:, ~is_chosen].any(axis=1)
        selected.append(
            replace(
                scan,
                nodules=tuple(filter(choice, scan.nodules)),
                match=ScanMatch(match.scores, match.hits[:, is_chosen], match.is_excluded | others),
            )
        )
    return selected


def measure_sensitivity(scans: Sequence[ScanScores], threshold: float | None = None) -> Estimate:
    """Measure the share of nodules that are found among the findings shown.

    Args: threshold: probability from which on findings are shown; None: each scan's own.
    """
    counts = [len(scan.nodules) for scan in scans]
    return resample(
        [sum(is_shown(scan, nodule.probability, threshold) for nodule in scan.nodules) for scan in scans], counts
    )


def measure_false_positives(scans: Sequence[ScanScores], threshold: float | None = None) -> Estimate:
    """Measure the mean number of false positives shown in a scan, see `measure_sensitivity`."""
    shown = [sum(is_shown(scan, each.probability, threshold) for each in scan.false_positives) for scan in scans]
    return resample(shown, [1] * len(scans))


def is_shown(scan: ScanScores, probability: float, threshold: float | None) -> bool:
    return scan.shows(probability) if threshold is None else probability >= threshold


def resample(counts: Sequence[int], totals: Sequence[int]) -> Estimate:
    """Compute the ratio of two sums over scans, and its interval as FROC's is computed; of one scan none."""
    draws = draw_scans(len(counts), SEED)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (draws @ np.array(counts)) / (draws @ np.array(totals))
    interval = confidence_interval(ratios) if len(counts) > 1 else np.full(2, math.nan)
    return estimate(divide(sum(counts), sum(totals)), interval)


def estimate(value: float, interval: Floats) -> Estimate:
    """Args: interval: (2,), NaN without one."""
    low, high = interval.tolist()
    return Estimate(float(value), None if math.isnan(low) else [low, high])


def measure_froc(scans: Sequence[ScanScores]) -> Froc:
    return compute_froc([scan.match for scan in scans], seed=SEED)


def at_rate(froc: Froc, false_positives_per_scan: float) -> Estimate:
    """Return the sensitivity at one of `OPERATING_POINTS`."""
    ndx = OPERATING_POINTS.index(false_positives_per_scan)
    return estimate(froc.sensitivities[ndx], froc.sensitivity_intervals[:, ndx])


def measure_cpm(froc: Froc) -> Estimate:
    return estimate(froc.cpm, froc.cpm_interval)


def compare_sizes(scans: Sequence[ScanScores]) -> list[dict[str, Any]]:
    """Score nodules by their diameter: a row for each range that has any."""
    rows = []
    for low_mm, high_mm in pairwise(SIZE_BORDERS_MM):
        name = f"{low_mm:g} mm and more" if high_mm == math.inf else f"{low_mm:g} to {high_mm:g} mm"

        def choice(nodule: NoduleScore, low_mm: float = low_mm, high_mm: float = high_mm) -> bool:
            return low_mm <= nodule.diameter_mm < high_mm

        rows += describe_group("size", name, select_nodules(scans, choice))
    return rows


def compare_kinds(scans: Sequence[ScanScores], data_dir: Path) -> list[dict[str, Any]]:
    """Score nodules of 6 mm and more by their median HU: of smaller ones, partial volume hides what they are."""
    median_hu = measure_density(scans, data_dir)
    large = select_nodules(scans, is_large)

    def is_faint(nodule: NoduleScore) -> bool:
        return median_hu[nodule.series_uid, nodule.center_xyz] < FAINT_HU

    def is_dense(nodule: NoduleScore) -> bool:
        return median_hu[nodule.series_uid, nodule.center_xyz] >= FAINT_HU

    return [
        *describe_group("kind", f"dense, median of {FAINT_HU:g} HU or more", select_nodules(large, is_dense)),
        *describe_group("kind", f"faint, median below {FAINT_HU:g} HU", select_nodules(large, is_faint)),
    ]


def describe_group(column: str, name: str, scans: Sequence[ScanScores]) -> list[dict[str, Any]]:
    """Describe a group of nodules in a row of a table; no row without nodules."""
    nodules = [nodule for scan in scans for nodule in scan.nodules]
    if not nodules:
        return []
    sensitivity, froc = measure_sensitivity(scans), measure_froc(scans)
    return [
        {
            column: name,
            "nodules": len(nodules),
            "sensitivity": sensitivity.value,
            "95% CI": sensitivity.interval,
            "at 1 false positive a scan": at_rate(froc, 1.0).value,
            "at 4": at_rate(froc, 4.0).value,
            "mean Dice": mean([nodule.dice for nodule in nodules]),
        }
    ]


def measure_density(scans: Sequence[ScanScores], data_dir: Path) -> dict[tuple[str, XyzTuple], float]:
    """Measure the median HU of each nodule's voxels in its mask; NaN for one that the mask does not mark.

    Returns: by series and center.
    """
    index = ScanIndex(data_dir, LabelOptions(labels="mask"))
    density = {}
    for scan in scans:
        ct = index.get_ct(scan.series_uid)
        for nodule in ct.nodules:
            voxels = ct.hu[ct.build_annotation_mask([nodule])]
            density[scan.series_uid, nodule.center_xyz] = float(np.median(voxels)) if len(voxels) else math.nan
    return density
