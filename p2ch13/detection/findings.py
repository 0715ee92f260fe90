"""From logits to a list of nodules: connected components, where they are and how large."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from p2ch13.config import MIN_DIAMETER_MM, NODULE_THRESHOLD
from p2ch13.data.ct import Ct
from p2ch13.util.boxes import Box
from p2ch13.util.coordinates import XyzTuple, irc2xyz
from p2ch13.util.logits import to_logit, to_probability

# A component of a box: the box, (index, row, col), and its voxels there -> what it is ranked by.
Score = Callable[[Box, NDArray[np.bool_]], float]


@dataclass(frozen=True)
class Finding:
    """One nodule, as a model sees it.

    Attributes:
        number: from 1 on in each scan, the most probable first; its voxels' value in the labels.
        center_xyz: mm, patient coordinates: the mean of its voxels, to a thousandth, as it is written to a file.
        logit: the mean of its most probable voxels' logits, as many as the smallest nodule has, to a millionth: a
            single voxel says little, and the mean of all depends on where the threshold cuts off its edge. NaN for a
            finding that another program gives a probability alone.
        probability: 0..1, that of `logit`; or another program's, on any scale.
        diameter_mm: of the sphere with its volume.
        first_slice, last_slice: indexes in the scan as it is stored, from 0 on.
    """

    series_uid: str
    number: int
    center_xyz: XyzTuple
    logit: float
    probability: float
    diameter_mm: float
    volume_mm3: float
    first_slice: int
    last_slice: int

    @property
    def score(self) -> float:
        """What findings are ranked by: the logit, in which two that are nearly certain still differ."""
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
        min_diameter_mm: components with less than the volume of this sphere are left out.
    Returns: labels (index, row, col), each voxel's number of the finding, 0 for none; and the findings, those with the
        highest logit first, the larger one first where they have the same.
    """
    voxel_count = max(1, round(sphere_volume(MIN_DIAMETER_MM) / float(np.prod(ct.vx_size_xyz))))

    def score(box: Box, is_component: NDArray[np.bool_]) -> float:
        highest = np.sort(logits[box][is_component])[-voxel_count:]
        return round(float(highest.mean(dtype=np.float64)), 6)

    return label_components(ct, logits > np.float32(to_logit(threshold)), min_diameter_mm, score)


def find_marked(
    ct: Ct, mask: NDArray[np.bool_], min_diameter_mm: float = 0.0
) -> tuple[NDArray[np.int32], list[Finding]]:
    """The 26-connected components of a mask by any program, see `find_nodules`: all of probability 1, largest first."""
    labels, findings = label_components(ct, mask, min_diameter_mm, lambda box, is_component: math.inf)
    return labels, [replace(finding, logit=math.nan) for finding in findings]


def label_components(
    ct: Ct, mask: NDArray[np.bool_], min_diameter_mm: float, score: Score
) -> tuple[NDArray[np.int32], list[Finding]]:
    """Args: score: the logit of a component. Returns: see `find_nodules`."""
    box = find_box(mask)
    if box is None:
        return np.zeros(mask.shape, dtype=np.int32), []
    components = sitk.ConnectedComponent(as_image(ct, mask[box], box), True)  # corners count, too
    component_labels = sitk.GetArrayViewFromImage(components)  # no copy: of a whole scan it would be its largest array
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.ComputePerimeterOff()
    shapes.Execute(components)
    large = [label for label in shapes.GetLabels() if shapes.GetPhysicalSize(label) >= sphere_volume(min_diameter_mm)]
    scores = {}
    for label in large:
        bounds = find_bounds(shapes, label)
        scores[label] = score(shift(bounds, box), component_labels[bounds] == label)
    ranked = sorted(large, key=lambda label: (-scores[label], -shapes.GetPhysicalSize(label), label))

    numbers = np.zeros(shapes.GetNumberOfLabels() + 1, dtype=np.int32)
    numbers[ranked] = np.arange(1, len(ranked) + 1)
    labels = np.zeros(mask.shape, dtype=np.int32)
    for slice_labels, slice_components in zip(labels[box], component_labels, strict=True):
        slice_labels[:] = numbers[slice_components]
    return labels, [as_finding(ct, number, scores[label], shapes, label, box) for number, label in enumerate(ranked, 1)]


def find_box(mask: NDArray[np.bool_]) -> Box | None:
    """The smallest box around what is marked; None if nothing is."""
    if not mask.any():
        return None
    bounds = [np.flatnonzero(mask.any(axis=others))[[0, -1]].tolist() for others in ((1, 2), (0, 2), (0, 1))]
    index, rows, cols = (slice(first, last + 1) for first, last in bounds)
    return index, rows, cols


def as_image(ct: Ct, mask: NDArray[np.bool_], box: Box) -> sitk.Image:
    """A box of the scan's mask, with its place in the patient."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetOrigin(irc2xyz([axis.start for axis in box], ct.origin_xyz, ct.vx_size_xyz, ct.direction))
    image.SetSpacing(ct.vx_size_xyz.tolist())
    image.SetDirection(ct.direction.ravel().tolist())
    return image


def find_bounds(shapes: sitk.LabelShapeStatisticsImageFilter, label: int) -> Box:
    """The box of a component, in the image that it was measured in."""
    starts, sizes = shapes.GetBoundingBox(label)[2::-1], shapes.GetBoundingBox(label)[:2:-1]
    index, rows, cols = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    return index, rows, cols


def shift(bounds: Box, box: Box) -> Box:
    """Bounds within a box, as bounds in what the box was taken from."""
    index, rows, cols = (
        slice(outer.start + inner.start, outer.start + inner.stop) for inner, outer in zip(bounds, box, strict=True)
    )
    return index, rows, cols


def as_finding(
    ct: Ct, number: int, logit: float, shapes: sitk.LabelShapeStatisticsImageFilter, label: int, box: Box
) -> Finding:
    index = find_bounds(shapes, label)[0]
    return Finding(
        series_uid=ct.series_uid,
        number=number,
        center_xyz=XyzTuple(*(round(value, 3) for value in shapes.GetCentroid(label))),
        logit=logit,
        probability=to_probability(logit),
        diameter_mm=2 * shapes.GetEquivalentSphericalRadius(label),
        volume_mm3=shapes.GetPhysicalSize(label),
        first_slice=box[0].start + index.start,
        last_slice=box[0].start + index.stop - 1,
    )


def sphere_volume(diameter_mm: float) -> float:
    return math.pi / 6 * diameter_mm**3
