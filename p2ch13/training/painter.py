"""Windows of backgrounds, with painted nodules and without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from p2ch13.config import TRAINING_CROP_SIZE
from p2ch13.labels.lidc_shapes import NoduleShape
from p2ch13.phantom.nodules import draw_diameter
from p2ch13.training.backgrounds import Background
from p2ch13.training.painting import PaintedVoxels, draw_nodule, paint_nodule

SIZE_RANGE_MM = (3.0, 35.0)
EVEN_SHARE = 0.5  # of diameters drawn evenly over their logarithm; the others are those of LUNA16's nodules
LIKE_SIZED = 1.3  # factor between the diameters of a shape's donor and of what is painted
LEAST_LIKE_SIZED = 20
LEAST_CONTRAST_DETAIL = 1200.0  # HU * mm, of contrast and diameter: small nodules are seen by a high contrast alone
LEAST_CONTRAST_NOISE = 3.0  # deviations of the noise
LEAST_WIDTH = 0.5  # of the diameter: a thin rim at the wall is taken for a part of it
ACROSS_SLICES = 0.45  # of the diameter, from a nodule's center to the slice that is segmented
TRIES = 20  # places, until one can be used
MAX_SHIFT = 16  # pixels from a window's middle to what it shows


class Window(NamedTuple):
    """A window of a background, painted or not."""

    background: Background
    slice_ndx: int  # of the middle slice
    hu: NDArray[np.int16]  # (7, row, col)
    mask: NDArray[np.bool_]  # (row, col), of the middle slice


class Painter:
    """Draws new nodules and paints them. Args: shapes: at least one."""

    def __init__(self, shapes: Sequence[NoduleShape]) -> None:
        self.shapes = sorted(shapes, key=lambda shape: shape.diameter_mm)
        self.diameters_mm = np.array([shape.diameter_mm for shape in self.shapes])

    def choose_shape(self, rng: np.random.Generator, diameter_mm: float) -> NoduleShape:
        """Choose a shape of about this size: small nodules are rounder than large ones."""
        first, last = np.searchsorted(self.diameters_mm, [diameter_mm / LIKE_SIZED, diameter_mm * LIKE_SIZED])
        if last - first < LEAST_LIKE_SIZED:
            first = max(0, min(first, len(self.shapes) - LEAST_LIKE_SIZED))
            last = max(last, first + LEAST_LIKE_SIZED)
        return self.shapes[int(rng.integers(first, min(last, len(self.shapes))))]

    def paint_window(self, background: Background, rng: np.random.Generator) -> tuple[Window, Window] | None:
        """Paint a nodule into a window of a lung, see `Background.draw_center`.

        Returns: the window with it, and the same without it; None if no nodule can be seen after some tries.
        """
        for _ in range(TRIES):
            diameter_mm = draw_size(rng)
            center = background.draw_center(rng, diameter_mm)
            if center is None:
                continue
            reach = ACROSS_SLICES * diameter_mm / background.vx_size_irc[0]
            index = int(np.clip(round(center[0] + rng.uniform(-reach, reach)), 0, len(background.hu) - 1))
            shift = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, 2)
            row, col = background.window_at(*(center[1:] + shift))
            without = cut_window(background, index, row, col)
            size = without.hu.shape[1]
            if background.shows_lesion(index, row, col, size):
                continue
            slices, rows, cols = background.context(index), row + np.arange(size), col + np.arange(size)
            axes_mm = measure_axes((slices, rows, cols), center, background.vx_size_irc)
            wall = background.wall[slices, row : row + size, col : col + size]
            hu = without.hu.copy()
            nodule = draw_nodule(rng, self.choose_shape(rng, diameter_mm), diameter_mm)
            painted = paint_nodule(hu, axes_mm, nodule, background.look, wall, background.vx_size_irc, rng)
            if is_visible(without.hu, hu, painted, background):
                return Window(background, index, hu, painted.mask[len(hu) // 2]), without
        return None


def measure_axes(
    ndxs: Sequence[NDArray[np.int64]], center_irc: NDArray[np.float64], vx_size_irc: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Return the positions of slices, rows and cols in mm, relative to a center in voxels."""
    return [(axis - middle) * size for axis, middle, size in zip(ndxs, center_irc, vx_size_irc, strict=True)]


def draw_size(rng: np.random.Generator) -> float:
    """Draw a diameter in mm."""
    if rng.random() < EVEN_SHARE:
        return float(np.exp(rng.uniform(*np.log(SIZE_RANGE_MM))))
    return draw_diameter(rng)


def is_visible(
    before: NDArray[np.int16], after: NDArray[np.int16], painted: PaintedVoxels, background: Background
) -> bool:
    """Whether a painted nodule stands out from what was there, so that a reader would see it.

    It must be no rim of the wall, by its width in plane. Its contrast, on average over its mask, is compared with the
    noise of this average, and with what a nodule of its size needs: the smaller a detail, the higher the contrast from
    which on it is seen.

    Source: Rose (1948), The sensitivity performance of the human eye on an absolute scale.
    """
    mask, diameter_mm = painted
    if not mask.any() or find_width(mask, float(background.vx_size_irc[2])) < LEAST_WIDTH * diameter_mm:
        return False
    contrast_hu = float((after[mask].astype(np.float32) - before[mask]).mean())
    noise_of_mean_hu = background.look.noise_hu / math.sqrt(np.count_nonzero(mask))
    return contrast_hu * diameter_mm > LEAST_CONTRAST_DETAIL and contrast_hu > LEAST_CONTRAST_NOISE * noise_of_mean_hu


def find_width(mask: NDArray[np.bool_], pixel_mm: float) -> float:
    """Find the width of the broadest place of a mask (index, row, col) in a slice, in mm."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    depths = [ndimage.distance_transform_edt(each).max() for each in padded if each.any()]
    return float(2 * max(depths) - 1) * pixel_mm


def cut_window(background: Background, index: int, row: int, col: int) -> Window:
    """Cut the window of a slice, from this row and col on, without nodule."""
    rows, cols = slice(row, row + TRAINING_CROP_SIZE), slice(col, col + TRAINING_CROP_SIZE)
    hu = background.hu[background.context(index), rows, cols]
    return Window(background, index, hu, np.zeros(hu.shape[1:], dtype=bool))
