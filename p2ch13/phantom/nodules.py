"""Lung nodules: solid, part-solid or ground glass, round, lobed or spiky, alone, on a vessel or on the pleura."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2ch13.phantom.anatomy import Chest
from p2ch13.phantom.fields import Floats, WaveField, coverage, draw_waves
from p2ch13.phantom.painting import Grid, splat
from p2ch13.phantom.vessels import Branches

MIN_DIAMETER_MM, MAX_DIAMETER_MM = 3.2, 30.0
SITES = ("isolated", "vessel", "pleura")
TEXTURES = ("solid", "part-solid", "ground-glass")


@dataclass(frozen=True)
class Nodule:
    """One nodule; all lengths in mm, all positions in the chest's frame."""

    center_xyz: Floats  # (3,)
    diameter_mm: float
    stretch_xyz: Floats  # (3,) relative half axes, their product is 1
    texture: str
    hu: float  # of the solid part; of ground glass where there is none
    glass_hu: float
    edge_mm: float
    outline: WaveField  # lobes, in units of the radius, over the unit sphere
    grain: WaveField
    spikes: Floats  # (spike, 4) direction and length in mm
    calcified: bool
    cavity: float  # radius of a hole relative to the nodule's, 0 for none
    malignancy: tuple[int, ...]  # what four readers would say, 1..5


def draw_diameter(rng: np.random.Generator) -> float:
    """A diameter distributed as in LUNA16: median 6.4 mm, a quarter above 9.7 mm, a tenth above 15.5 mm."""
    return float(min(MIN_DIAMETER_MM + np.exp(rng.normal(1.2, 0.95)), MAX_DIAMETER_MM))


def draw_nodule(rng: np.random.Generator, center_xyz: Floats, diameter_mm: float) -> Nodule:
    """A nodule of a given size and place."""
    texture = str(rng.choice(TEXTURES, p=[0.74, 0.12, 0.14] if diameter_mm > 5 else [0.9, 0.02, 0.08]))
    stretch = np.exp(rng.normal(0, 0.13, 3))
    spiky = texture != "ground-glass" and rng.random() < np.clip((diameter_mm - 3) / 14, 0.05, 0.8)
    spike_count = int(rng.integers(6, 22)) if spiky else 0
    directions = rng.normal(size=(spike_count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True) + 1e-6
    lengths = diameter_mm * rng.uniform(0.15, 0.6, (spike_count, 1)) + 1
    calcified = texture == "solid" and not spiky and rng.random() < 0.12
    suspicion = 1.6 + diameter_mm / 9 + 0.8 * spiky - 1.5 * calcified
    return Nodule(
        center_xyz=center_xyz,
        diameter_mm=diameter_mm,
        stretch_xyz=(stretch / np.prod(stretch) ** (1 / 3)).astype(np.float32),
        texture=texture,
        hu=float(rng.uniform(300, 900) if calcified else rng.normal(25, 35)),
        glass_hu=float(rng.uniform(-590, -380)),
        edge_mm=float(rng.uniform(0.7, 1.4) if texture == "solid" else rng.uniform(1.5, 3.0)),
        outline=draw_waves(rng, 0.6, 3.0, float(rng.uniform(0.06, 0.2)), 24),
        grain=draw_waves(rng, 1.5, 8, 1.0, 40),
        spikes=np.hstack([directions, lengths]).astype(np.float32),
        calcified=calcified,
        cavity=float(rng.uniform(0.3, 0.5)) if texture == "solid" and diameter_mm > 12 and rng.random() < 0.08 else 0.0,
        malignancy=tuple(int(v) for v in np.clip(np.rint(suspicion + rng.normal(0, 0.7, 4)), 1, 5)),
    )


def paint_nodule(hu: Floats, grid: Grid, nodule: Nodule, rng: np.random.Generator) -> None:
    """Put a nodule into a volume of HU (slice, row, col); what is denser there, a vessel or a rib, stays."""
    radius = nodule.diameter_mm / 2
    spike_reach = float(nodule.spikes[:, 3].max(initial=0))
    reach = (1.6 * radius + spike_reach + 2 * nodule.edge_mm) * np.ones(3, np.float32)
    box = grid.box(nodule.center_xyz - reach, nodule.center_xyz + reach)
    part = hu[box]
    if part.size == 0:
        return
    planes, count = grid.planes(box[0])
    x, y, z = (
        axis - middle for axis, middle in zip((grid.x[box[2]], grid.y[box[1]], planes), nodule.center_xyz, strict=True)
    )
    offsets = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], axis=-1)  # (plane, row, col, xyz)
    shape = offsets.shape[:3]
    away = np.linalg.norm(offsets / nodule.stretch_xyz, axis=-1)
    unit = (offsets / np.maximum(np.linalg.norm(offsets, axis=-1, keepdims=True), 1e-3)).reshape(-1, 3)
    distance = away - radius * (1 + nodule.outline(*unit.T).reshape(shape))
    body = coverage(distance, nodule.edge_mm)
    core = coverage(away - 0.5 * radius, 2.0) if nodule.texture == "part-solid" else np.ones(1, np.float32)

    def by_slice(values: Floats) -> Floats:
        return np.asarray(values.reshape(-1, count, *shape[1:]).mean(axis=1), np.float32)

    filled = by_slice(body)
    grain = by_slice(nodule.grain(*offsets.reshape(-1, 3).T).reshape(shape))
    if nodule.texture == "ground-glass":
        target = nodule.glass_hu + 45 * grain
    else:
        solid = by_slice(core * np.ones(shape, np.float32))
        target = solid * (nodule.hu + 15 * grain) + (1 - solid) * (nodule.glass_hu + 45 * grain)
    if len(nodule.spikes) and nodule.texture != "ground-glass":
        filled = np.maximum(filled, np.minimum(_spikes(grid, nodule, rng, part.shape, box), 1))
    if nodule.cavity:
        hole = by_slice(coverage(distance + (1 - nodule.cavity) * radius, 1.0))
        target = target + hole * (-900 - target)
    np.maximum(part, part + filled * (target - part), out=part)


def _spikes(
    grid: Grid, nodule: Nodule, rng: np.random.Generator, shape: tuple[int, ...], box: tuple[slice, slice, slice]
) -> Floats:
    """Share of each voxel of a box that the spikes fill: thin strands that taper away from the nodule."""
    volume = np.zeros(shape, np.float32)
    if min(shape) < 2:
        return volume
    part = grid.part(box)
    step_mm = 0.3
    for *direction, length in nodule.spikes:
        reach = np.arange(0.8 * nodule.diameter_mm / 2, nodule.diameter_mm / 2 + length, step_mm)
        bent = np.cumsum(rng.normal(0, 0.05, (len(reach), 3)), axis=0)
        points = nodule.center_xyz + reach[:, None] * np.array(direction) + bent
        taper = 0.6 * (1 - np.linspace(0, 1, len(reach))) + 0.15
        splat(volume, part, points.astype(np.float32), np.pi * taper**2 * step_mm)
    return volume


def choose_sites(
    rng: np.random.Generator, chest: Chest, grid: Grid, vessels: Branches, diameters: list[float]
) -> list[Floats]:
    """A centre (3,) for each nodule, in the lung of this scan, apart from each other."""
    centers: list[Floats] = []
    for diameter in diameters:
        site = str(rng.choice(SITES, p=[0.45, 0.3, 0.25]))
        pool = vessels.end[vessels.radius > 0.5] if site == "vessel" else grid.draw_places(rng, 8000)
        pool = pool[grid.contains(pool, -1.0)]
        if site == "vessel":
            pool = pool[rng.permutation(len(pool))[:4000]] + rng.normal(0, 0.2 * diameter, (min(len(pool), 4000), 3))
            pool = pool[grid.contains(pool, -1.0)].astype(np.float32)
        depth = chest.lung_depth(*pool.T)
        nearest, farthest = (0.2, 0.5) if site == "pleura" else (0.65, np.inf)  # from the pleura, in diameters
        fits = (depth > nearest * diameter) & (depth < farthest * diameter)
        for center in centers:
            fits &= np.linalg.norm(pool - center, axis=1) > 35
        chosen = pool[fits] if fits.any() else pool[np.argsort(-depth)[:1]]
        centers.append(chosen[int(rng.integers(len(chosen)))])
    return centers
