"""Shapes to paint whose outlines are known, and voxels around them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from p2ch13.labels.lidc_shapes import MAX_DISTANCE, SHAPE_REACH, SHAPE_SIZE, UNITS_PER_RADIUS, NoduleShape
from p2ch13.training.painting import PaintedNodule

GRID = np.linspace(-SHAPE_REACH, SHAPE_REACH, SHAPE_SIZE)
# Between the grid's last point inside a radius and the first one outside, where a step's interpolation is 0.
STEP_RADIUS = (GRID[GRID <= 1].max() + GRID[GRID > 1].min()) / 2


def make_shape(distance: np.ndarray, diameter_mm: float = 10.0) -> NoduleShape:
    units = (distance * UNITS_PER_RADIUS).round().clip(-MAX_DISTANCE, MAX_DISTANCE).astype(np.int8)
    return NoduleShape("donor", diameter_mm, 5.0, 5.0, 1.0, 1.0, 6.0, units)


def make_ball(diameter_mm: float = 10.0) -> NoduleShape:
    """A ball of one radius."""
    z, y, x = np.meshgrid(GRID, GRID, GRID, indexing="ij")
    return make_shape(np.sqrt(z**2 + y**2 + x**2) - 1, diameter_mm)


def make_cube() -> NoduleShape:
    """A cube whose half side is STEP_RADIUS radii, with a step that leaves lobes no room."""
    reach = np.abs(np.stack(np.meshgrid(GRID, GRID, GRID, indexing="ij"))).max(axis=0)
    return make_shape(np.where(reach <= 1, -2.0, 2.0))


def fill_with(
    shape: NoduleShape,
    radius_mm: float,
    core: float = 1.0,
    solid_hu: float = 0.0,
    glass_hu: float = -500.0,
    grain_hu: float = 0.0,
) -> PaintedNodule:
    """An upright nodule, as large along all axes."""
    transform = np.eye(3) / radius_mm
    return PaintedNodule(shape, 2 * radius_mm, transform, glass_hu, solid_hu, core, grain_hu)


def make_axes(
    shape_irc: Sequence[int], vx_size_irc: Sequence[float], offset_mm: Sequence[float] = (0, 0, 0)
) -> list[np.ndarray]:
    """Positions of slices, rows and cols, relative to their middle, which lies between two if their number is even."""
    return [
        (np.arange(count) - (count - 1) / 2) * size + offset
        for count, size, offset in zip(shape_irc, vx_size_irc, offset_mm, strict=True)
    ]
