"""How findings differ in size and shape from the nodules that they overlap."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from p2ch13.util.boxes import Box, enclose

FACES = ndimage.generate_binary_structure(3, 1)


class ShapeScore(NamedTuple):
    """Scores of the voxels of all findings that overlap a nodule; NaN if none does."""

    volume_error: float = math.nan  # (findings - nodule) / nodule, of their volumes
    surface_distance_mm: float = math.nan  # mean symmetric surface distance


def score_shape(
    nodule: NDArray[np.bool_],
    labels: NDArray[np.integer[Any]],
    boxes: list[Box | None],
    vx_size_irc: NDArray[np.float64],
) -> ShapeScore:
    """Compare a nodule with the findings that overlap it.

    Args:
        nodule: mask (index, row, col).
        labels: number of the finding of each voxel, (index, row, col); 0 for none.
        boxes: of each label from 1 on, see `ndimage.find_objects`.
    """
    overlapping = np.unique(labels[nodule])
    numbers = overlapping[overlapping > 0]
    if not len(numbers):
        return ShapeScore()
    (own_box,) = ndimage.find_objects(nodule.view(np.uint8))
    box = enclose([own_box, *(each for number in numbers if (each := boxes[number - 1]) is not None)])
    found = np.isin(labels[box], numbers)
    own = nodule[box]
    counts = np.count_nonzero(found), np.count_nonzero(own)
    return ShapeScore(counts[0] / counts[1] - 1, find_surface_distance(found, own, vx_size_irc))


def find_surface_distance(one: NDArray[np.bool_], other: NDArray[np.bool_], vx_size_irc: NDArray[np.float64]) -> float:
    """Compute the mean distance in mm from each voxel at the surface of either mask to the surface of the other.

    A voxel is at the surface if one of its six neighbors is outside the mask. SimpleITK has the mean distance of the
    voxels of one mask from those of another, which is 0 inside.

    Args: masks (index, row, col), neither empty; outside the array both are.
    """
    surfaces = [mask & ~ndimage.binary_erosion(mask, FACES) for mask in (one, other)]
    distances = [
        ndimage.distance_transform_edt(~surface, sampling=vx_size_irc)[of]
        for surface, of in zip(surfaces, reversed(surfaces), strict=True)
    ]
    return float(np.concatenate(distances).mean())
