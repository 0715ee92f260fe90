"""Connected components of a probability map, with position, size and score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2ch13.config import MIN_DIAMETER_MM, NODULE_THRESHOLD
from p2ch13.data.ct import Ct
from p2ch13.labels.regions import center_of, sphere_diameter, sphere_volume, split_mask, volume_mm3
from p2ch13.util.boxes import BoxMask, split_components
from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.logits import to_logit, to_probability


@dataclass(frozen=True)
class Finding:
    """One detection.

    Attributes:
        number: from 1 in each scan, by falling logit; the value of its voxels in the labels.
        center_xyz: mean of its voxels, of the largest fragment if there are several; mm, patient coordinates, rounded
            to 0.001 as in files.
        logit: what findings are ranked by, rounded to 1e-6: with a second stage the calibrated logit, without one
            `score_voxels`. NaN for another program's finding that has a probability alone.
        probability: 0..1, from `logit`; or another program's, on any scale.
        diameter_mm: of the sphere of equal volume.
        first_slice, last_slice: axial slices, counted from the feet, from 0, however the scan is stored; -1 if unknown,
            as are NaN sizes, of a list alone.
        first_stage_logit, second_stage_logit: what `logit` was calibrated from; NaN without a second stage.
    """

    series_uid: str
    number: int
    center_xyz: XyzTuple
    logit: float
    probability: float
    diameter_mm: float = math.nan
    volume_mm3: float = math.nan
    first_slice: int = -1
    last_slice: int = -1
    first_stage_logit: float = math.nan
    second_stage_logit: float = math.nan

    @property
    def score(self) -> float:
        """What findings are ranked by: the logit, which still differs where probabilities round to 1."""
        return self.probability if math.isnan(self.logit) else self.logit


class ScoredPart(NamedTuple):
    """The voxels of a finding and its logits, see `Finding`."""

    logit: float
    part: BoxMask
    first_stage_logit: float = math.nan
    second_stage_logit: float = math.nan


def find_nodules(
    ct: Ct,
    logits: NDArray[np.float32],
    threshold: float = NODULE_THRESHOLD,
    min_diameter_mm: float = MIN_DIAMETER_MM,
) -> tuple[NDArray[np.int32], list[Finding]]:
    """Threshold the map and label its 26-connected components.

    Args:
        logits: (index, row, col), from `segment`.
        threshold: probability above which a voxel is nodule.
        min_diameter_mm: smaller components, by the volume of this sphere, are dropped.
    Returns: labels (index, row, col), the finding's number of each voxel, 0 for none; and the findings by falling
        logit, of equal ones the larger first.
    """
    return number_findings(ct, score_components(ct, logits, threshold, min_diameter_mm))


def score_components(ct: Ct, logits: NDArray[np.float32], threshold: float, min_diameter_mm: float) -> list[ScoredPart]:
    """Threshold the map and score its components. Args: see `find_nodules`."""
    parts = split_large(ct, logits > np.float32(to_logit(threshold)), min_diameter_mm)
    score = score_voxels(ct, logits)
    return [ScoredPart(score(part), part) for part in parts]


def find_marked(
    ct: Ct, mask: NDArray[np.bool_], min_diameter_mm: float = 0.0
) -> tuple[NDArray[np.int32], list[Finding]]:
    """Label the 26-connected components of another program's mask, see `find_nodules`: probability 1, largest first."""
    parts = split_large(ct, mask, min_diameter_mm)
    labels, findings = number_findings(ct, [ScoredPart(math.inf, part) for part in parts])
    return labels, [replace(finding, logit=math.nan) for finding in findings]


def split_large(ct: Ct, mask: NDArray[np.bool_], min_diameter_mm: float) -> list[BoxMask]:
    """Split a mask into its 26-connected components, and drop those smaller than a sphere of this diameter."""
    least_mm3 = sphere_volume(min_diameter_mm)
    return [part for part in split_mask(mask) if volume_mm3(part, ct) >= least_mm3]


def find_largest_fragment(part: BoxMask) -> BoxMask:
    """Find the largest 26-connected component of a mask: between fragments, their mean may be outside of each."""
    return max(split_components(part, fully_connected=True), key=lambda fragment: np.count_nonzero(fragment.mask))


def score_voxels(ct: Ct, logits: NDArray[np.float32]) -> Callable[[BoxMask], float]:
    """Return the function that scores a component by the mean logit of its most probable voxels, rounded to 1e-6.

    They are as many as the smallest nodule has: a single voxel is noise, and the mean of all voxels depends on the
    threshold.
    """
    voxel_count = max(1, round(sphere_volume(MIN_DIAMETER_MM) / float(np.prod(ct.vx_size_xyz))))

    def score(part: BoxMask) -> float:
        highest = np.sort(logits[part.box][part.mask])[-voxel_count:]
        return round(float(highest.mean(dtype=np.float64)), 6)

    return score


def number_findings(ct: Ct, scored: Iterable[ScoredPart]) -> tuple[NDArray[np.int32], list[Finding]]:
    """Number findings by falling logit, of equal ones the larger first. Returns: see `find_nodules`."""
    ordered = sorted(scored, key=lambda each: (-each.logit, -volume_mm3(each.part, ct)))
    labels = np.zeros(ct.shape_irc, dtype=np.int32)
    for number, each in enumerate(ordered, 1):
        labels[each.part.box][each.part.mask] = number
    return labels, [as_finding(ct, number, each) for number, each in enumerate(ordered, 1)]


def as_finding(ct: Ct, number: int, scored: ScoredPart) -> Finding:
    logit, part, *stages = scored
    volume = volume_mm3(part, ct)
    return Finding(
        ct.series_uid,
        number,
        XyzTuple(*(round(value, 3) for value in center_of(find_largest_fragment(part), ct))),
        logit,
        to_probability(logit),
        sphere_diameter(volume),
        volume,
        part.box[0].start,
        part.box[0].stop - 1,
        *stages,
    )
