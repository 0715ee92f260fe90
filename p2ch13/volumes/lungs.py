"""Lung mask by thresholding and connected components."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from p2ch13.util.coordinates import Scalar

GRID_MM = 2.0  # spacing of the voxels that are looked at
PADDING_HU = -1500  # scanners mark pixels outside their field of view with less
AIR_HU = -400  # border between tissue and what contains air: lung, airways, bowel, the room
GAS_HU = -950  # a component with a lower mean is air without lung tissue
THIN_MM = 2.0  # radius that opens tissue: removes a table's shell, keeps the chest wall
BRANCH_MM = 2.0  # radius that separates airways and stomach from lung
CLOSING_MM = 10.0  # radius that closes nodules at the pleura and vessels at the hilum
MAX_HOLE_MM2 = 3000.0  # in a slice; the heart, between two lungs that touch, is larger
MIN_LUNG_MM2 = 1000.0  # mean area per slice; less is no lung
MIN_SHARE = 0.02  # of the largest lung component's volume; smaller ones are bubbles
FACES_IN_SLICE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]

Mask = NDArray[np.bool_]  # (index, row, col)


def find_lungs(hu: NDArray[np.int16], vx_size_xyz: ArrayLike) -> Mask | None:
    """Mark both lungs, including vessels and nodules in them and at their surface.

    Lung is what contains air inside the body, except airways and bowel gas, which have a lower mean density. Everything
    is computed on a grid of `GRID_MM`, whose steps are visible in the mask.

    Args:
        hu: (index, row, col), axial slices; a few are enough.
        vx_size_xyz: mm.
    Returns: bool array shaped like `hu`; None if no lung is found.
    """
    vx_size_irc = np.asarray(vx_size_xyz, dtype=float)[::-1]
    steps = [max(1, round(GRID_MM / size)) for size in vx_size_irc]
    grid_hu = downsample(hu, steps)
    pixel_mm2 = float(np.prod((vx_size_irc * steps)[1:]))
    thin, branch, closing = (round(radius_mm / math.sqrt(pixel_mm2)) for radius_mm in (THIN_MM, BRANCH_MM, CLOSING_MM))
    inside = find_inside(grid_hu, thin)
    lungs = keep_large(inside & ~find_gas(grid_hu, inside, branch))
    if lungs.sum() * pixel_mm2 < MIN_LUNG_MM2 * len(lungs):
        return None
    lungs = fill_holes(lungs, round(MAX_HOLE_MM2 / pixel_mm2))
    return enlarge(close(lungs, closing), steps, hu.shape)


def downsample(voxels: NDArray[Scalar], steps: Sequence[int]) -> NDArray[Scalar]:
    """Take the middle voxel of each step along each axis."""
    index, rows, cols = (
        np.minimum(np.arange(0, size, step) + step // 2, size - 1)
        for size, step in zip(voxels.shape, steps, strict=True)
    )
    return np.stack([voxels[ndx][rows][:, cols] for ndx in index])  # slice by slice, so that no more is copied


def find_inside(grid_hu: NDArray[np.int16], thin: int) -> Mask:
    """Mark air inside the body: components of which most voxels have body in front of them and behind.

    A narrow field of view may cut off the chest wall on the left and right; there its border acts as the wall.
    """
    has_air = (grid_hu > PADDING_HU) & (grid_hu < AIR_HU)
    has_walls = between(find_body(grid_hu >= AIR_HU, thin))
    labels, counts = label_components(close(has_air, thin))
    mostly_walled = np.bincount(labels.ravel(), weights=has_walls.ravel()) > counts / 2
    inside: Mask = has_air & (has_walls | mostly_walled[labels])
    return inside


def find_body(is_tissue: Mask, thin: int) -> Mask:
    """Mark the largest component of tissue that is thicker than a table's shell."""
    labels, counts = label_components(dilate(erode(is_tissue, thin), thin))
    body: Mask = is_tissue & (labels == counts.argmax())
    return body


def between(body: Mask) -> Mask:
    """Mark voxels that have body in front of them and behind."""
    accumulate = np.logical_or.accumulate
    return accumulate(body, axis=1) & accumulate(body[:, ::-1], axis=1)[:, ::-1]


def find_gas(grid_hu: NDArray[np.int16], inside: Mask, branch: int) -> Mask:
    """Mark airways and bowel gas: components that separate after erosion and have the mean density of air."""
    labels, counts = label_components(erode(inside, branch))
    sums = np.bincount(labels.ravel(), weights=grid_hu.ravel())
    is_gas = sums < GAS_HU * counts
    is_gas[0] = False
    return inside & dilate(is_gas[labels], branch + 1)


def keep_large(mask: Mask) -> Mask:
    """Remove components that are small compared with the largest one."""
    labels, counts = label_components(mask)
    kept: Mask = mask & (counts >= MIN_SHARE * counts.max())[labels]
    return kept


def fill_holes(mask: Mask, max_pixels: int) -> Mask:
    """Fill holes of at most `max_pixels` in each slice; `ndimage.binary_fill_holes` knows no limit."""
    labels, counts = label_components(~mask, FACES_IN_SLICE)
    is_hole = counts <= max_pixels
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        is_hole[edge] = False
    return mask | is_hole[labels]


def close(mask: Mask, radius: int) -> Mask:
    return erode(dilate(mask, radius), radius)


def erode(mask: Mask, radius: int) -> Mask:
    """Erode each slice with an octagon; pixels beyond the slice's border repeat those at the border."""
    return ~dilate(~mask, radius)


def dilate(mask: Mask, radius: int) -> Mask:
    """Dilate each slice with an octagon of this radius in pixels, made of crosses and squares by turns.

    `ndimage.binary_dilation` gives the same mask in 2 to 5 times the time.
    """
    for step in range(radius):
        rows = mask.copy()
        rows[:, 1:] |= mask[:, :-1]
        rows[:, :-1] |= mask[:, 1:]
        across = mask if step % 2 == 0 else rows
        mask = rows.copy()
        mask[:, :, 1:] |= across[:, :, :-1]
        mask[:, :, :-1] |= across[:, :, 1:]
    return mask


def label_components(mask: Mask, structure: Mask | None = None) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Label connected components 1, 2, ..., and count the voxels of each; both are 0 outside the mask.

    Voxels that share a face are connected, unless `structure` says otherwise.
    """
    labels, _ = ndimage.label(mask, structure)
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    return labels, counts


def enlarge(mask: Mask, steps: Sequence[int], shape: tuple[int, ...]) -> Mask:
    """Repeat the grid's voxels to fill the scan's shape."""
    for axis in (2, 1, 0):  # the last one first, where copying is slowest
        mask = mask.take(np.arange(shape[axis]) // steps[axis], axis)
    return mask
