"""Boxes of voxels, and masks that are no larger than a box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]  # index, row, col; each with a start and a stop


class BoxMask(NamedTuple):
    """A mask in a box; there is nothing outside."""

    box: Box
    mask: NDArray[np.bool_]  # (index, row, col), shaped like the box


def make_box(starts: Iterable[int], stops: Iterable[int]) -> Box:
    index, row, col = (slice(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True))
    return index, row, col


def starts_of(box: Box) -> NDArray[np.int64]:
    return np.array([axis.start for axis in box], dtype=np.int64)


def stops_of(box: Box) -> NDArray[np.int64]:
    return np.array([axis.stop for axis in box], dtype=np.int64)


def shape_of(box: Box) -> tuple[int, int, int]:
    index, row, col = (axis.stop - axis.start for axis in box)
    return index, row, col


def intersect(one: Box, other: Box) -> Box | None:
    """What two boxes have in common; None if that is nothing."""
    common = make_box(np.maximum(starts_of(one), starts_of(other)), np.minimum(stops_of(one), stops_of(other)))
    return common if min(shape_of(common)) > 0 else None


def enclose(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of these."""
    return make_box(np.min([starts_of(box) for box in boxes], axis=0), np.max([stops_of(box) for box in boxes], axis=0))


def inside(box: Box, outer: Box) -> Box:
    """A box as it is counted from the first voxel of one that holds it: where it lies in that one's array."""
    return make_box(starts_of(box) - starts_of(outer), stops_of(box) - starts_of(outer))


def widen(part: BoxMask, outer: Box) -> BoxMask:
    """The same mask in a box that holds its own."""
    mask = np.zeros(shape_of(outer), dtype=bool)
    mask[inside(part.box, outer)] = part.mask
    return BoxMask(outer, mask)


def merge_touching(boxes: Iterable[Box]) -> list[Box]:
    """Boxes that hold all of these, so that no voxel of one is a neighbour, even by a corner, of another's."""
    merged: list[Box] = []
    for box in boxes:
        while touching := [other for other in merged if touch(box, other)]:
            merged = [other for other in merged if other not in touching]
            box = enclose([box, *touching])
        merged.append(box)
    return merged


def touch(one: Box, other: Box) -> bool:
    return all(a.start <= b.stop and b.start <= a.stop for a, b in zip(one, other, strict=True))


def split_components(whole: BoxMask, fully_connected: bool) -> list[BoxMask]:
    """Each connected component in the smallest box that holds it. `fully_connected`: over edges and corners too."""
    labels_image = sitk.ConnectedComponent(sitk.GetImageFromArray(whole.mask.astype(np.uint8)), fully_connected)
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(labels_image)
    labels = sitk.GetArrayViewFromImage(labels_image)
    components = []
    for label in shapes.GetLabels():
        bounds = shapes.GetBoundingBox(label)  # x, y, z of the first voxel; then the size
        starts, sizes = np.array(bounds[2::-1]), np.array(bounds[:2:-1])
        first = starts + starts_of(whole.box)
        mask = labels[make_box(starts, starts + sizes)] == label
        components.append(BoxMask(make_box(first, first + sizes), mask))
    return components
