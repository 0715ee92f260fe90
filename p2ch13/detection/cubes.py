"""Cubes around findings: what the second stage sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from p2ch13.network.second_stage import CHANNEL_COUNT, CUBE_HU, CUBE_LOGIT, CUBE_SIZE, CUBE_SPACINGS_MM
from p2ch13.util.boxes import Box

# The samples' weights along an axis: first voxel, (sample, voxel). Voxels outside the array have none.
AxisWeights = tuple[int, NDArray[np.float32]]


def cut_cubes(
    hu: NDArray[np.int16],
    logits: NDArray[np.floating[Any]],
    vx_size_irc: ArrayLike,
    center_irc: ArrayLike,
) -> NDArray[np.float32]:
    """Cut the cubes of `CUBE_SPACINGS_MM` around points.

    A cube's voxel is the mean, over its extent, of the trilinear interpolation between the array's voxels: thin slices
    and small pixels are averaged, thick slices interpolated. Beyond the array, HU repeats its edge, and logits are the
    lowest. Along each axis this is a matrix product; SciPy interpolates at points alone, without the mean.

    Args:
        hu: (index, row, col).
        logits: the first stage's, of the same shape; -inf where it has not searched.
        vx_size_irc: mm, (3,).
        center_irc: voxels, (point, 3), not rounded.
    Returns: (point, scale, channel, 32, 32, 32), HU and logits, each scaled to -1..1.
    """
    centers, vx_size = np.asarray(center_irc, dtype=float).reshape(-1, 3), np.asarray(vx_size_irc, dtype=float)
    shape = (len(centers), len(CUBE_SPACINGS_MM), CHANNEL_COUNT, *[CUBE_SIZE] * 3)
    cubes = np.empty(shape, dtype=np.float32)
    for cube, center in zip(cubes, centers, strict=True):
        for channels, spacing_mm in zip(cube, CUBE_SPACINGS_MM, strict=True):
            axes = list(zip(center.tolist(), (spacing_mm / vx_size).tolist(), hu.shape, strict=True))
            channels[0] = sample(hu, [weigh(*axis, repeats_edge=True) for axis in axes], scale_hu)
            channels[1] = sample(logits, [weigh(*axis, repeats_edge=False) for axis in axes], scale_logits) - 1
    return cubes


def scale_hu(window: NDArray[Any]) -> NDArray[np.float32]:
    """Clip and scale HU to -1..1."""
    low, high = CUBE_HU
    scaled: NDArray[np.float32] = window.clip(low, high).astype(np.float32) * np.float32(2 / (high - low))
    return scaled - (high + low) / (high - low)


def scale_logits(window: NDArray[Any]) -> NDArray[np.float32]:
    """Clip and scale logits to 0..2: 0, the lowest, is what lies outside."""
    logits = window.astype(np.float32)  # NumPy clips float16 slowly
    scaled: NDArray[np.float32] = logits.clip(-CUBE_LOGIT, CUBE_LOGIT, out=logits) / np.float32(CUBE_LOGIT)
    return scaled + 1


def weigh(center: float, spacing: float, size: int, repeats_edge: bool) -> AxisWeights:
    """Compute the weights of an axis's voxels in the cube's samples, see `cut_cubes`.

    Args: center, spacing: of the samples, in voxels; size: voxels of the axis; repeats_edge: add the weights beyond an
        end to the end's voxel, else leave them out.
    """
    positions = center + (np.arange(CUBE_SIZE) - (CUBE_SIZE - 1) / 2) * spacing
    reach = spacing / 2 + 1
    voxels = np.arange(int(np.floor(positions[0] - reach)), int(np.ceil(positions[-1] + reach)) + 1)
    offsets = positions[:, np.newaxis] - voxels
    weights = (integrate_hat(offsets + spacing / 2) - integrate_hat(offsets - spacing / 2)) / spacing
    first, last = np.clip(voxels[[0, -1]], 0, size - 1).tolist()
    is_inside = (voxels >= first) & (voxels <= last)
    inside = weights[:, is_inside]
    if not inside.shape[1]:  # all samples are beyond the array
        inside = np.zeros((CUBE_SIZE, 1))
    if repeats_edge:
        inside[:, 0] += weights[:, voxels < first].sum(axis=1)
        inside[:, -1] += weights[:, voxels > last].sum(axis=1)
    return first, inside.astype(np.float32)


def integrate_hat(x: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Integrate linear interpolation's weight, max(1 - |x|, 0), from minus infinity to x."""
    x = x.clip(-1, 1)
    return np.where(x < 0, (1 + x) ** 2 / 2, 1 - (1 - x) ** 2 / 2)


def sample(
    array: NDArray[Any], axes: list[AxisWeights], scale: Callable[[NDArray[Any]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Sample an array at a cube's voxels: (index, row, col) -> (32, 32, 32)."""
    window: Box = tuple(slice(first, first + weights.shape[1]) for first, weights in axes)  # type: ignore[assignment]
    by_index, by_row, by_col = (weights for _, weights in axes)
    in_plane = by_row @ (scale(array[window]) @ by_col.T)  # (index, 32, 32)
    cube: NDArray[np.float32] = np.tensordot(by_index, in_plane, axes=1)
    return cube
