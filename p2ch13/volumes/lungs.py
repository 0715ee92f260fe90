"""The lung field: where in a scan the lungs are, found by how dense things are and how they hang together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

GRID_MM = 2.0  # lungs are looked for in every so many voxels only
PADDING_HU = -1500  # what is below was never scanned
AIR_HU = -400  # border between what holds air (lung, airways, bowel, the room) and tissue
GAS_HU = -950  # what is less dense on average is air alone, not lung
THIN_MM = 2.0  # by which tissue is opened from all sides: a table's shell goes, the chest wall stays
BRANCH_MM = 2.0  # by which what holds air is cut back: airways and stomach then hang apart from lung
CLOSING_MM = 10.0  # radius up to which nodules at the pleura and vessels at the hilum are bridged
MAX_HOLE_MM2 = 3000.0  # in a slice; the heart, between two lungs that touch, is larger
MIN_LUNG_MM2 = 1000.0  # in a slice, on average; less is no lung
MIN_SHARE = 0.02  # of the largest piece of lung; what is smaller is a bubble

Mask = NDArray[np.bool_]  # (index, row, col)


def find_lungs(hu: NDArray[np.int16], vx_size_xyz: ArrayLike) -> Mask | None:
    """Mark both lungs and what lies in them: vessels and nodules, those at their surface too.

    Lung is what holds air inside the body, without airways and bowel gas; these are told from lung by their mean
    density. The mask has the steps of the coarse grid on which all of it is done.

    Args:
        hu: (index, row, col), axial slices; a few of them will do.
        vx_size_xyz: the voxel's size, mm.
    Returns: bool array shaped like `hu`; None if there is nothing like a lung.
    """
    vx_size_irc = np.asarray(vx_size_xyz, dtype=float)[::-1]
    steps = [max(1, round(GRID_MM / size)) for size in vx_size_irc]
    grid_hu = downsample(hu, steps)
    pixel_mm2 = float(np.prod((vx_size_irc * steps)[1:]))
    pixel_mm = math.sqrt(pixel_mm2)

    def to_pixels(distance_mm: float) -> int:
        return round(distance_mm / pixel_mm)

    inside = find_inside(grid_hu, to_pixels(THIN_MM))
    lungs = keep_large(inside & ~find_gas(grid_hu, inside, to_pixels(BRANCH_MM)))
    if lungs.sum() * pixel_mm2 < MIN_LUNG_MM2 * len(lungs):
        return None
    lungs = fill_holes(lungs, round(MAX_HOLE_MM2 / pixel_mm2))
    return enlarge(close(lungs, to_pixels(CLOSING_MM)), steps, hu.shape)


def downsample(hu: NDArray[np.int16], steps: Sequence[int]) -> NDArray[np.int16]:
    """The middle voxel of every so many along each axis."""
    index, rows, cols = (
        np.minimum(np.arange(0, size, step) + step // 2, size - 1) for size, step in zip(hu.shape, steps, strict=True)
    )
    return np.stack([hu[ndx][rows][:, cols] for ndx in index])  # slice by slice, so that no more is copied


def find_inside(grid_hu: NDArray[np.int16], thin: int) -> Mask:
    """What holds air and is in the body: has some of it in front and behind, at most places in what hangs together.

    To the left and right a narrow picture may have cut off the chest wall. What was never scanned then is its wall.
    """
    holds_air = (grid_hu > PADDING_HU) & (grid_hu < AIR_HU)
    has_walls = between(find_body(grid_hu >= AIR_HU, thin))
    labels = find_components(close(holds_air, thin))
    mostly_walled = np.bincount(labels.ravel(), weights=has_walls.ravel()) > count_voxels(labels) / 2
    inside: Mask = holds_air & (has_walls | mostly_walled[labels])
    return inside


def find_body(is_tissue: Mask, thin: int) -> Mask:
    """The largest thing that is thicker than a table's shell."""
    labels = find_components(dilate(erode(is_tissue, thin), thin))
    body: Mask = is_tissue & (labels == count_voxels(labels).argmax())
    return body


def between(body: Mask) -> Mask:
    """What has body in front of it and behind."""
    return accumulate(body) & accumulate(body[:, ::-1])[:, ::-1]


def accumulate(body: Mask) -> Mask:
    return np.logical_or.accumulate(body, axis=1)


def find_gas(grid_hu: NDArray[np.int16], inside: Mask, branch: int) -> Mask:
    """Trachea, large bronchi, stomach, bowel: what hangs apart once cut back, and is as thin as air."""
    labels = find_components(erode(inside, branch))
    sums = np.bincount(labels.ravel(), weights=grid_hu.ravel())
    is_gas = sums < GAS_HU * count_voxels(labels)
    is_gas[0] = False
    return inside & dilate(is_gas[labels], branch + 1)


def keep_large(mask: Mask) -> Mask:
    """Without the pieces that are small beside the largest one."""
    labels = find_components(mask)
    counts = count_voxels(labels)
    kept: Mask = mask & (counts >= MIN_SHARE * counts.max())[labels]
    return kept


def fill_holes(mask: Mask, max_pixels: int) -> Mask:
    """With what is enclosed in its slice, if it is small enough."""
    filled = mask.copy()
    for slice_mask in filled:
        labels = find_components(~slice_mask)
        is_hole = count_voxels(labels) <= max_pixels
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            is_hole[edge] = False
        slice_mask |= is_hole[labels] & ~slice_mask
    return filled


def close(mask: Mask, radius: int) -> Mask:
    return erode(dilate(mask, radius), radius)


def erode(mask: Mask, radius: int) -> Mask:
    """By so many pixels in each slice. Beyond the slice's edge it goes on as it is there."""
    return ~dilate(~mask, radius)


def dilate(mask: Mask, radius: int) -> Mask:
    """By so many pixels in each slice: crosses and squares by turns make an octagon."""
    for step in range(radius):
        rows = mask.copy()
        rows[:, 1:] |= mask[:, :-1]
        rows[:, :-1] |= mask[:, 1:]
        across = mask if step % 2 == 0 else rows
        mask = rows.copy()
        mask[:, :, 1:] |= across[:, :, :-1]
        mask[:, :, :-1] |= across[:, :, 1:]
    return mask


def find_components(mask: Mask) -> NDArray[np.uint32]:
    """Number what hangs together by faces: 1, 2, ...; 0 outside the mask."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    labels: NDArray[np.uint32] = sitk.GetArrayFromImage(sitk.ConnectedComponent(image))
    return labels


def count_voxels(labels: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Of each component; [0], the rest, counts as none."""
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    return counts


def enlarge(mask: Mask, steps: Sequence[int], shape: tuple[int, ...]) -> Mask:
    """From the grid back to all voxels."""
    index_step, row_step, col_step = steps
    enlarged = np.empty(shape, dtype=bool)
    for ndx, slice_mask in enumerate(mask):
        rows_and_cols = slice_mask.repeat(row_step, axis=0)[: shape[1]].repeat(col_step, axis=1)[:, : shape[2]]
        enlarged[ndx * index_step : (ndx + 1) * index_step] = rows_and_cols
    return enlarged
