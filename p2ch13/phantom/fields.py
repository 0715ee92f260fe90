"""Random smooth fields and signed distances, defined at every point of space.

All shapes and textures are functions of position, independent of slice spacing and pixel size. Distances are in mm,
negative inside a shape. `x`, `y` and `z` broadcast: lists of points, or one slice as a row, a column and a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Coordinate = Any  # a float, or a float array that broadcasts with the other two coordinates


@dataclass(frozen=True)
class WaveField:
    """A smooth random field: a sum of plane waves in random directions."""

    frequency_xyz: Floats  # (wave, 3) radians per mm
    phase: Floats  # (wave,)
    amplitude: float  # of each wave

    def __call__(self, x: Coordinate, y: Coordinate, z: Coordinate) -> Floats:
        """Evaluate at points (shape of `x`), or on a slice: `x` (1, col), `y` (row, 1), `z` a number -> (row, col)."""
        if np.ndim(x) == 1:
            points = np.stack(np.broadcast_arrays(x, y, z), axis=-1).astype(np.float32)
            return np.asarray(self.amplitude * np.cos(points @ self.frequency_xyz.T + self.phase).sum(-1), np.float32)
        # cos(a + b) = cos a cos b - sin a sin b makes a slice a product of two thin matrices.
        along_x = self.frequency_xyz[:, :1] * x
        along_y = y * self.frequency_xyz[:, 1] + (self.frequency_xyz[:, 2] * np.float32(z) + self.phase)
        by_row = np.concatenate([np.cos(along_y), -np.sin(along_y)], axis=1)
        by_col = np.concatenate([np.cos(along_x), np.sin(along_x)], axis=0)
        return np.asarray(np.float32(self.amplitude) * (by_row @ by_col), np.float32)


def draw_waves(
    rng: np.random.Generator, shortest_mm: float, longest_mm: float, deviation: float, wave_count: int = 24
) -> WaveField:
    """Draw a field with wavelengths in the given band and the given standard deviation."""
    direction = rng.normal(size=(wave_count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    wavelength = np.exp(rng.uniform(np.log(shortest_mm), np.log(longest_mm), (wave_count, 1)))
    return WaveField(
        frequency_xyz=(2 * np.pi / wavelength * direction).astype(np.float32),
        phase=rng.uniform(0, 2 * np.pi, wave_count).astype(np.float32),
        amplitude=deviation * float(np.sqrt(2 / wave_count)),
    )


def coverage(distance: Floats, edge_mm: float) -> Floats:
    """Compute the share 0..1 of a voxel inside a shape whose edge is `edge_mm` wide."""
    return np.asarray(np.clip(0.5 - distance / np.float32(edge_mm), 0, 1), np.float32)


def ellipse_distance(dx: Coordinate, dy: Coordinate, half_width: Coordinate, half_depth: Coordinate) -> Floats:
    """Compute the distance to an ellipse around the origin, to first order (exact on the ellipse)."""
    level = np.sqrt((dx / half_width) ** 2 + (dy / half_depth) ** 2)
    slope = np.sqrt((dx / half_width**2) ** 2 + (dy / half_depth**2) ** 2)
    return np.asarray(level * (level - 1) / np.maximum(slope, 1e-6), np.float32)


def capsule_distance(x: Coordinate, y: Coordinate, z: Coordinate, start: Any, end: Any) -> Floats:
    """Compute the distance to a round rod; `start` and `end` are (x, y, z, radius), with a linear change of radius."""
    axis = [end[i] - start[i] for i in range(3)]
    dx, dy, dz = x - start[0], y - start[1], z - start[2]
    along = np.clip((dx * axis[0] + dy * axis[1] + dz * axis[2]) / max(sum(a * a for a in axis), 1e-6), 0, 1)
    away = np.sqrt((dx - along * axis[0]) ** 2 + (dy - along * axis[1]) ** 2 + (dz - along * axis[2]) ** 2)
    return np.asarray(away - (start[3] + along * (end[3] - start[3])), np.float32)


def smooth_union(first: Floats, second: Floats, fillet_mm: float) -> Floats:
    """Compute the distance to the union of two shapes, with a fillet where they meet."""
    share = np.clip(0.5 + 0.5 * (second - first) / fillet_mm, 0, 1)
    return np.asarray(second * (1 - share) + first * share - fillet_mm * share * (1 - share), np.float32)
