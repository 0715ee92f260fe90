"""Connected components of a probability map, with position, size and score."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from p2ch13.config import MIN_DIAMETER_MM, NODULE_THRESHOLD
from p2ch13.data.ct import Ct
from p2ch13.labels.regions import center_of, sphere_diameter, sphere_volume, split_mask, volume_mm3
from p2ch13.util.boxes import BoxMask
from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.logits import to_logit, to_probability


@dataclass(frozen=True)
class Finding:
    """One detection.

    Attributes:
        number: from 1 in each scan, by falling logit; the value of its voxels in the labels.
        center_xyz: mean of its voxels, mm, patient coordinates, rounded to 0.001 as in files.
        logit: mean logit of its most probable voxels, as many as the smallest nodule has, rounded to 1e-6: a single
            voxel is noise, and the mean of all voxels depends on the threshold. NaN for another program's finding that
            has a probability alone.
        probability: 0..1, from `logit`; or another program's, on any scale.
        diameter_mm: of the sphere of equal volume.
        first_slice, last_slice: axial slices, counted from the feet, from 0, however the scan is stored; -1 if unknown,
            as are NaN sizes, of a list alone.
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

    @property
    def score(self) -> float:
        """What findings are ranked by: the logit, which still differs where probabilities round to 1."""
        return self.probability if math.isnan(self.logit) else self.logit


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
    voxel_count = max(1, round(sphere_volume(MIN_DIAMETER_MM) / float(np.prod(ct.vx_size_xyz))))

    def score(part: BoxMask) -> float:
        highest = np.sort(logits[part.box][part.mask])[-voxel_count:]
        return round(float(highest.mean(dtype=np.float64)), 6)

    return label_components(ct, logits > np.float32(to_logit(threshold)), min_diameter_mm, score)


def find_marked(
    ct: Ct, mask: NDArray[np.bool_], min_diameter_mm: float = 0.0
) -> tuple[NDArray[np.int32], list[Finding]]:
    """Label the 26-connected components of another program's mask, see `find_nodules`: probability 1, largest first."""
    labels, findings = label_components(ct, mask, min_diameter_mm, lambda part: math.inf)
    return labels, [replace(finding, logit=math.nan) for finding in findings]


def label_components(
    ct: Ct, mask: NDArray[np.bool_], min_diameter_mm: float, score: Callable[[BoxMask], float]
) -> tuple[NDArray[np.int32], list[Finding]]:
    """Args: score: computes the logit of a component. Returns: see `find_nodules`."""
    labels = np.zeros(mask.shape, dtype=np.int32)
    least_mm3 = sphere_volume(min_diameter_mm)
    scored = [(score(part), part) for part in split_mask(mask) if volume_mm3(part, ct) >= least_mm3]
    scored.sort(key=lambda pair: (-pair[0], -volume_mm3(pair[1], ct)))
    for number, (_, part) in enumerate(scored, 1):
        labels[part.box][part.mask] = number
    return labels, [as_finding(ct, number, logit, part) for number, (logit, part) in enumerate(scored, 1)]


def as_finding(ct: Ct, number: int, logit: float, part: BoxMask) -> Finding:
    volume = volume_mm3(part, ct)
    return Finding(
        series_uid=ct.series_uid,
        number=number,
        center_xyz=XyzTuple(*(round(value, 3) for value in center_of(part, ct))),
        logit=logit,
        probability=to_probability(logit),
        diameter_mm=sphere_diameter(volume),
        volume_mm3=volume,
        first_slice=part.box[0].start,
        last_slice=part.box[0].stop - 1,
    )
