"""From probabilities to a list of nodules: what hangs together, where it is and how large."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from p2ch13.config import MIN_DIAMETER_MM, NODULE_THRESHOLD
from p2ch13.ct import Ct
from util.boxes import Box
from util.coordinates import XyzTuple, irc2xyz


@dataclass(frozen=True)
class Finding:
    """One nodule, as a model sees it.

    Attributes:
        number: from 1 on in each scan, the most probable first; its voxels' value in the labels.
        center_xyz: mm, patient coordinates: the mean of its voxels.
        probability: the mean of its most probable voxels, as many as the smallest nodule has: a single voxel says
            little, and the mean of all depends on where the threshold cuts off its edge.
        diameter_mm: of the sphere with its volume.
        first_slice, last_slice: indexes in the scan as it is stored, from 0 on.
    """

    series_uid: str
    number: int
    center_xyz: XyzTuple
    probability: float
    diameter_mm: float
    volume_mm3: float
    first_slice: int
    last_slice: int


def find_nodules(
    ct: Ct,
    probability: NDArray[np.float16],
    threshold: float = NODULE_THRESHOLD,
    min_diameter_mm: float = MIN_DIAMETER_MM,
) -> tuple[NDArray[np.int32], list[Finding]]:
    """Take what is above a threshold apart into pieces that hang together by faces, edges or corners.

    Args:
        probability: (index, row, col), from `segment`.
        min_diameter_mm: pieces with less than the volume of this sphere are left out.
    Returns: labels (index, row, col), each voxel's number of the finding, 0 for none; and the findings, the most
        probable first, the larger one first where they are as probable.
    """
    box = find_box(probability > threshold)
    if box is None:
        return np.zeros(probability.shape, dtype=np.int32), []
    pieces = sitk.ConnectedComponent(as_image(ct, probability[box] > threshold, box), True)  # corners count, too
    piece_labels = sitk.GetArrayViewFromImage(pieces)  # no copy: of a whole scan it would be its largest array
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.ComputePerimeterOff()
    shapes.Execute(pieces)
    large = [label for label in shapes.GetLabels() if shapes.GetPhysicalSize(label) >= sphere_volume(min_diameter_mm)]
    scores = {label: score(ct, probability[box], piece_labels, label, find_bounds(shapes, label)) for label in large}
    ranked = sorted(large, key=lambda label: (-scores[label], -shapes.GetPhysicalSize(label), label))

    numbers = np.zeros(shapes.GetNumberOfLabels() + 1, dtype=np.int32)
    numbers[ranked] = np.arange(1, len(ranked) + 1)
    labels = np.zeros(probability.shape, dtype=np.int32)
    for slice_labels, slice_pieces in zip(labels[box], piece_labels, strict=True):
        slice_labels[:] = numbers[slice_pieces]
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
    """The box of a piece, in the image that it was measured in."""
    starts, sizes = shapes.GetBoundingBox(label)[2::-1], shapes.GetBoundingBox(label)[:2:-1]
    index, rows, cols = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    return index, rows, cols


def score(ct: Ct, probability: NDArray[np.float16], piece_labels: NDArray[np.uint32], label: int, bounds: Box) -> float:
    """The mean of a piece's most probable voxels, as many as make up the smallest nodule."""
    values = probability[bounds][piece_labels[bounds] == label].astype(np.float32)
    count = max(1, round(sphere_volume(MIN_DIAMETER_MM) / float(np.prod(ct.vx_size_xyz))))
    return float(np.sort(values)[-count:].mean())


def as_finding(
    ct: Ct, number: int, probability: float, shapes: sitk.LabelShapeStatisticsImageFilter, label: int, box: Box
) -> Finding:
    index = find_bounds(shapes, label)[0]
    return Finding(
        series_uid=ct.series_uid,
        number=number,
        center_xyz=XyzTuple(*shapes.GetCentroid(label)),
        probability=probability,
        diameter_mm=2 * shapes.GetEquivalentSphericalRadius(label),
        volume_mm3=shapes.GetPhysicalSize(label),
        first_slice=box[0].start + index.start,
        last_slice=box[0].start + index.stop - 1,
    )


def sphere_volume(diameter_mm: float) -> float:
    return math.pi / 6 * diameter_mm**3
