"""Boxes of voxels, and masks stored within their bounding box."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LARGE = 2**22  # voxels: a mask of more is split by blocks first
BLOCK = 8

Box = tuple[slice, slice, slice]  # index, row, col; each with a start and a stop


class BoxMask(NamedTuple):
    """A mask that is empty outside its box."""

    box: Box
    mask: NDArray[np.bool_]  # (index, row, col), shaped like the box


def make_box(starts: Iterable[int], stops: Iterable[int]) -> Box:
    index, row, col = (slice(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True))
    return index, row, col


def box_of(voxel: Sequence[int]) -> Box:
    """Return the box of a single voxel."""
    return make_box(voxel, np.add(voxel, 1))


def starts_of(box: Box) -> NDArray[np.int64]:
    return np.array([axis.start for axis in box], dtype=np.int64)


def stops_of(box: Box) -> NDArray[np.int64]:
    return np.array([axis.stop for axis in box], dtype=np.int64)


def shape_of(box: Box) -> tuple[int, int, int]:
    index, row, col = (axis.stop - axis.start for axis in box)
    return index, row, col


def intersect(one: Box, other: Box) -> Box | None:
    """Return the intersection of two boxes; None if it is empty."""
    common = make_box(np.maximum(starts_of(one), starts_of(other)), np.minimum(stops_of(one), stops_of(other)))
    return common if min(shape_of(common)) > 0 else None


def enclose(boxes: Sequence[Box]) -> Box:
    """Return the smallest box that contains all given boxes."""
    return make_box(np.min([starts_of(box) for box in boxes], axis=0), np.max([stops_of(box) for box in boxes], axis=0))


def inside(box: Box, outer: Box) -> Box:
    """Express a box relative to the first voxel of a box that contains it, to index that one's array."""
    return make_box(starts_of(box) - starts_of(outer), stops_of(box) - starts_of(outer))


def pad_box(box: Box, margin: int | Sequence[int] | NDArray[Any], shape: Sequence[int]) -> Box:
    """Extend a box by a margin of voxels along each axis, within an array's shape."""
    return make_box(np.maximum(starts_of(box) - margin, 0), np.minimum(stops_of(box) + margin, shape))


def widen(part: BoxMask, outer: Box) -> BoxMask:
    """Copy a mask into a box that contains its own."""
    mask = np.zeros(shape_of(outer), dtype=bool)
    mask[inside(part.box, outer)] = part.mask
    return BoxMask(outer, mask)


def merge_touching(boxes: Iterable[Box]) -> list[Box]:
    """Merge boxes until no voxel of one is a neighbor of another's, by a face, an edge or a corner."""
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
    """Split a mask into its connected components, each in its bounding box.

    Args: fully_connected: count voxels that share an edge or a corner as connected, besides those that share a face.
    """
    regions = [whole] if whole.mask.size < LARGE else split_coarsely(whole)
    parts = chain.from_iterable(label_components(region, fully_connected) for region in regions)
    return sorted(parts, key=first_voxel)


def label_components(whole: BoxMask, fully_connected: bool) -> Iterator[BoxMask]:
    structure = ndimage.generate_binary_structure(3, 3 if fully_connected else 1)
    try:
        labels, _ = ndimage.label(whole.mask, structure, output=np.uint16)
    except RuntimeError:  # more components than that counts
        labels, _ = ndimage.label(whole.mask, structure)
    first = starts_of(whole.box)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        yield BoxMask(make_box(first + starts_of(box), first + stops_of(box)), labels[box] == label)


def first_voxel(part: BoxMask) -> tuple[int, ...]:
    """Find the first voxel of a mask, in the order of memory."""
    return tuple(np.add(starts_of(part.box), np.unravel_index(part.mask.argmax(), part.mask.shape)).tolist())


def split_coarsely(whole: BoxMask) -> Iterator[BoxMask]:
    """Split a mask into regions that no component crosses, each in a box of blocks.

    They are what is connected if each block of `BLOCK` voxels along each axis is one voxel. A few regions that are
    labeled one after the other take far less memory than labels of a whole scan, and less time.
    """
    blocks = whole.mask
    for axis, size in enumerate(whole.mask.shape):
        blocks = np.logical_or.reduceat(blocks, np.arange(0, size, BLOCK), axis=axis)
    for region in label_components(BoxMask(make_box((0, 0, 0), blocks.shape), blocks), fully_connected=True):
        starts = BLOCK * starts_of(region.box)
        box = make_box(starts, np.minimum(BLOCK * stops_of(region.box), whole.mask.shape))
        index, row, col = shape_of(box)
        own = region.mask.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)[:index, :row, :col]
        first = starts_of(whole.box)
        yield BoxMask(make_box(first + starts_of(box), first + stops_of(box)), whole.mask[box] & own)
