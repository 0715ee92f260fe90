"""Structures that resemble nodules and that no reader annotates: scars, specks, calcified lymph nodes."""

from __future__ import annotations

import numpy as np

from p2ch13.phantom.anatomy import Chest
from p2ch13.phantom.fields import Floats
from p2ch13.phantom.painting import Grid, paint_rod, splat
from p2ch13.phantom.vessels import HILA

MAX_SCARS, MAX_SPECKS, MAX_LYMPH_NODES = 4, 10, 5
SCAR_STEP_MM = 0.4
SPECK_RADIUS_MM = (0.5, 1.0)  # below the 3 mm from which readers annotate


def draw_lung_places(
    rng: np.random.Generator, chest: Chest, grid: Grid, nearest_mm: float, farthest_mm: float
) -> Floats:
    """Draw random points (n, 3) of the scan within a range of depth in the lung."""
    places = grid.sample_negatives(rng, 6000)
    depth = chest.lung_depth(*places.T)
    return places[(depth > nearest_mm) & (depth < farthest_mm)]


def paint_scars(volume: Floats, grid: Grid, chest: Chest, rng: np.random.Generator) -> None:
    """Add thin bands from the pleura into the lung to a volume of voxel shares (slice, row, col)."""
    starts = draw_lung_places(rng, chest, grid, 0, 3)[: int(rng.integers(0, MAX_SCARS + 1))]
    for start in starts:
        length, width, thickness = rng.uniform(10, 45), rng.uniform(4, 25), rng.uniform(0.4, 1.6)
        inward = np.array([0, 20, start[2]]) - start + rng.normal(0, 30, 3)
        inward /= np.linalg.norm(inward)
        across = np.cross(inward, rng.normal(size=3))
        across /= np.linalg.norm(across)
        normal = np.cross(inward, across)
        u, v = np.meshgrid(np.arange(-3, length, SCAR_STEP_MM), np.arange(-width / 2, width / 2, SCAR_STEP_MM))
        taper = np.clip(1 - u / length, 0, 1) * np.clip(2 - 4 * np.abs(v) / width, 0, 1)
        lift = 1.5 * np.sin(u / rng.uniform(6, 14)) + 0.8 * np.sin(v / rng.uniform(3, 8))
        points = start + u[..., None] * inward + v[..., None] * across + lift[..., None] * normal
        mm3 = SCAR_STEP_MM**2 * thickness * taper
        splat(volume, grid, points.reshape(-1, 3).astype(np.float32), mm3.ravel())


def paint_specks(volume: Floats, grid: Grid, chest: Chest, rng: np.random.Generator) -> None:
    """Add grains too small to be annotated to a volume of voxel shares (slice, row, col)."""
    for place in draw_lung_places(rng, chest, grid, 2, 90)[: int(rng.integers(0, MAX_SPECKS + 1))]:
        grain = np.append(place, rng.uniform(*SPECK_RADIUS_MM))
        paint_rod(volume, grid, grain, grain)


def paint_lymph_nodes(hu: Floats, grid: Grid, chest: Chest, rng: np.random.Generator) -> None:
    """Add calcified lymph nodes at the hila and beside the trachea to a volume of HU (slice, row, col)."""
    if rng.random() < 0.5:
        return
    for _ in range(int(rng.integers(1, MAX_LYMPH_NODES + 1))):
        side = int(rng.choice([-1, 1]))
        place = np.array(HILA["artery", side]) * [rng.uniform(0.3, 0.9), 1, 1] + rng.normal(0, [4, 6, 14])
        place = place * chest.scale_xyz
        if chest.lung_depth(*place[:, None].astype(np.float32))[0] > -1:
            continue
        radius = rng.uniform(1.2, 4)
        end = np.append(place + rng.normal(0, 1.5, 3), 0.6 * radius)
        calcium = float(rng.uniform(250, 900))
        box = grid.box(place - radius - 6, place + radius + 6)
        if min(hu[box].shape) > 1:
            filled = np.zeros(hu[box].shape, np.float32)
            paint_rod(filled, grid.part(box), np.append(place, radius), end)
            hu[box] += filled * (calcium - hu[box])
