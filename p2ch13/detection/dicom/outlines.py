"""Outlines of a mask as polygons: lines between pixels inside and outside, with holes joined to them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from scipy import ndimage

from p2ch13.detection.dicom.source import Source, SourceImage

# Where a line passes from an outer pixel to an inner one: nearly halfway. Programs that round points to pixels then get
# those of the mask, and others the area of its pixels.
LEVEL = 0.51
Points = NDArray[np.float64]  # (point, 2): row and col; the centers of pixels are whole numbers

Outlines = dict[int, list[tuple[SourceImage, Points]]]  # of each finding, by its number


def outline_findings(source: Source, labels: NDArray[np.int32]) -> Outlines:
    """Find the outlines of each finding, in the planes of the series' images.

    Args: labels: (index, row, col), as stored; the finding's number of each voxel, 0 for none.
    """
    outlines: Outlines = {}
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is not None:
            index, row, col = box
            first = np.array([row.start, col.start])
            masks = zip(source.images[index], labels[box] == number, strict=True)
            outlines[number] = [(image, outline + first) for image, mask in masks for outline in find_outlines(mask)]
    return outlines


def find_outlines(mask: NDArray[np.bool_]) -> list[Points]:
    """Find the polygons around the components of a mask (row, col), whose last point is to be joined to the first.

    They pass between pixels inside and outside: the centers of exactly the mask's pixels lie in them. A hole is joined
    to the polygon around it by a channel of no width (keyhole technique).

    Source: DICOM PS3.3, C.8.8.6.3, representing inner and outer contours.
    """
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    first = np.array([rows[0], cols[0]]) - 1  # of the box with a margin of a pixel
    box = np.pad(mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1], 1)
    generator = contour_generator(z=box.astype(np.float64), fill_type=FillType.OuterOffset)
    outlines = []
    for points, offsets in zip(*generator.filled(LEVEL, 2.0), strict=True):
        rings = [drop_straight(points[start : end - 1, ::-1]) for start, end in pairwise(offsets)]
        outline, *holes = rings
        for hole in holes:
            outline = join(outline, hole)
        outlines.append(outline + first)
    return outlines


def drop_straight(ring: Points) -> Points:
    """Drop the points between two in the same direction."""
    to_next = np.roll(ring, -1, axis=0) - ring
    from_last = np.roll(to_next, 1, axis=0)
    turns = from_last[:, 0] * to_next[:, 1] - from_last[:, 1] * to_next[:, 0]
    return ring[abs(turns) > 1e-9]


def join(outline: Points, hole: Points) -> Points:
    """Join a hole, from its first point, to the polygon around it: the shortest channel through no pixel's center.

    A center on the channel would be on the border of the polygon, which some programs count as outside.
    """
    nearest_first = np.argsort(np.linalg.norm(outline - hole[0], axis=1))
    at = next((at for at in nearest_first if not passes_center(outline[at], hole[0])), nearest_first[0])
    return np.concatenate([outline[: at + 1], hole, hole[:1], outline[at:]])


def passes_center(start: Points, end: Points) -> bool:
    """Tell whether the line between two points, each nearly halfway between two pixels, passes a pixel's center."""
    first, last = (np.rint(2 * point).astype(int) for point in (start, end))  # in half pixels
    step_count = math.gcd(*(last - first).tolist())
    steps = first + np.outer(np.arange(step_count + 1), (last - first) // step_count)
    return bool((steps % 2 == 0).all(axis=1).any())
