"""Estimate a scanner's blur and noise from a scan itself."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

REACH_MM = 3.0  # from the lungs' border, within which its edge lies
LEAST_HEIGHT_HU = 700  # of an edge from lung to chest wall
BONE_HU = 400
UPRIGHT_HU = 150  # most that an upright edge changes from the slice below to the slice above
LEAST_EDGES = 30  # for a percentile
EDGE_PERCENTILE = 25  # edges that are not quite upright look blurred; noise makes a few look sharp
SLICES_LOOKED_AT = 20
USUAL_POINT_SPREAD_MM, USUAL_NOISE_HU = 0.5, 25.0  # where nothing can be measured
LEAST_POINT_SPREAD_MM = 0.2
TISSUE_HU = (-50, 150)  # muscle and blood, with and without contrast
EVEN_HU = (-200, 400)  # range of patches of tissue without an edge
PATCH = 5  # pixels across, for the noise

Mask = NDArray[np.bool_]  # (index, row, col)


def estimate_point_spread(hu: NDArray[np.int16], lungs: Mask, pixel_mm: float) -> float:
    """Estimate the standard deviation of the in-plane point spread, in mm, from the lungs' border.

    An edge of height h that a Gaussian of deviation s blurs has a gradient of at most h / (s * sqrt(2 pi)).

    Args: hu, lungs: (index, row, col).
    """
    found = [
        find_edge_widths(hu, lungs, ndx, pixel_mm)
        for ndx in spread(1, len(hu) - 1, SLICES_LOOKED_AT)
        if lungs[ndx].any()
    ]
    widths = np.concatenate(found) if found else np.empty(0)
    if len(widths) < LEAST_EDGES:
        return USUAL_POINT_SPREAD_MM
    width = float(np.percentile(widths, EDGE_PERCENTILE))
    # The difference of the pixels on either side is the gradient's mean over two pixels.
    return math.sqrt(max(width**2 - pixel_mm**2 / 3, LEAST_POINT_SPREAD_MM**2))


def find_edge_widths(hu: NDArray[np.int16], lungs: Mask, ndx: int, pixel_mm: float) -> NDArray[np.float64]:
    """Find the upright edges between lung and chest wall in a slice, and their Gaussians' deviations in mm: (edge,)."""
    reach = max(2, round(REACH_MM / pixel_mm))
    size = 2 * reach + 1
    rim = ndimage.binary_dilation(lungs[ndx], iterations=reach) & ~ndimage.binary_erosion(lungs[ndx], iterations=reach)
    pixels = hu[ndx].astype(np.float32)
    gradient = np.hypot(*np.gradient(pixels, pixel_mm))
    height = ndimage.maximum_filter(pixels, size) - ndimage.minimum_filter(pixels, size)
    is_upright = np.abs(hu[ndx + 1].astype(np.float32) - hu[ndx - 1]) < UPRIGHT_HU
    is_edge = rim & is_upright & (height > LEAST_HEIGHT_HU) & (ndimage.maximum_filter(pixels, size) < BONE_HU)
    is_edge &= gradient == ndimage.maximum_filter(gradient, size)
    widths: NDArray[np.float64] = height[is_edge] / (gradient[is_edge].astype(np.float64) * math.sqrt(2 * math.pi))
    return widths


def estimate_noise(hu: NDArray[np.int16]) -> float:
    """Estimate the standard deviation of the noise, in HU: the median over small even patches of soft tissue.

    Args: hu: (index, row, col).
    """
    rows, cols = (size // PATCH for size in hu.shape[1:])
    found = []
    for ndx in spread(0, len(hu), SLICES_LOOKED_AT):
        patches = hu[ndx, : rows * PATCH, : cols * PATCH].reshape(rows, PATCH, cols, PATCH)
        mean = patches.mean(axis=(1, 3))
        is_even = (patches.min(axis=(1, 3)) > EVEN_HU[0]) & (patches.max(axis=(1, 3)) < EVEN_HU[1])
        is_tissue = (mean > TISSUE_HU[0]) & (mean < TISSUE_HU[1])
        found.append(patches.std(axis=(1, 3))[is_even & is_tissue])
    deviations = np.concatenate(found)
    return float(np.median(deviations)) if len(deviations) else USUAL_NOISE_HU


def spread(start: int, stop: int, count: int) -> Iterator[int]:
    """Yield at most `count` numbers from `start` to `stop`, evenly spread."""
    yield from range(start, stop, max(1, -(-(stop - start) // count)))
