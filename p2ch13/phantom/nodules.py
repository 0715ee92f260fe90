"""Lung nodules: solid, part-solid or ground glass; round, lobulated or spiculated; alone, at vessels or the pleura."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from p2ch13.phantom.anatomy import Chest
from p2ch13.phantom.fields import Floats, WaveField, coverage, draw_waves
from p2ch13.phantom.painting import Box, Grid, splat
from p2ch13.phantom.vessels import Branches

MIN_DIAMETER_MM, MAX_DIAMETER_MM = 3.2, 32.0
SITES, SITE_ODDS = ("isolated", "vessel", "pleura", "fissure"), (0.34, 0.3, 0.28, 0.08)
APART_MM = 25.0  # between the centers of two nodules
PLACES = 8000  # points tried for a nodule
SPIKE_STEP_MM = 0.3
CAVITY_HU = -900
CENTER_HU = -650  # minimum in the scan at an annotated center
LEAST_SHARE = 0.5  # of a voxel that a nodule fills, to be marked in the mask
TEXTURES = ("solid", "part-solid", "ground-glass")


@dataclass(frozen=True)
class Nodule:
    """One nodule; lengths in mm, positions in the chest's frame."""

    center_xyz: Floats  # (3,)
    diameter_mm: float
    stretch_xyz: Floats  # (3,) relative half axes, their product is 1
    texture: str
    solid_hu: float
    glass_hu: float  # of ground glass: lung with some air left
    edge_mm: float
    outline: WaveField  # lobes, in units of the radius, over the unit sphere
    grain: WaveField
    spikes: Floats  # (spike, 4) direction and length in mm
    cavity: float  # radius of a hole relative to the nodule's, 0 for none
    malignancy: tuple[int, ...]  # ratings of four readers, 1..5


def draw_diameter(rng: np.random.Generator) -> float:
    """Draw a diameter as in LUNA16: median 6.4 mm, a quarter above 9.7 mm, a tenth above 15.5 mm."""
    return float(min(MIN_DIAMETER_MM + np.exp(rng.normal(1.2, 0.95)), MAX_DIAMETER_MM))


def draw_nodule(rng: np.random.Generator, center_xyz: Floats, diameter_mm: float) -> Nodule:
    """Draw a nodule of a given size and position."""
    texture = str(rng.choice(TEXTURES, p=[0.76, 0.11, 0.13] if diameter_mm > 5 else [0.9, 0.02, 0.08]))
    stretch = np.exp(rng.normal(0, 0.13, 3))
    spiky = texture != "ground-glass" and rng.random() < np.clip((diameter_mm - 3) / 14, 0.05, 0.8)
    spike_count = int(rng.integers(6, 22)) if spiky else 0
    directions = rng.normal(size=(spike_count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True) + 1e-6
    lengths = diameter_mm * rng.uniform(0.15, 0.6, (spike_count, 1)) + 1
    calcified = texture == "solid" and not spiky and rng.random() < 0.12
    hollow = texture == "solid" and diameter_mm > 12 and rng.random() < 0.06
    suspicion = 1.6 + diameter_mm / 9 + 0.8 * spiky - 1.5 * calcified
    return Nodule(
        center_xyz=center_xyz,
        diameter_mm=diameter_mm,
        stretch_xyz=(stretch / np.prod(stretch) ** (1 / 3)).astype(np.float32),
        texture=texture,
        solid_hu=float(rng.uniform(300, 900) if calcified else rng.normal(25, 35)),
        glass_hu=float(rng.uniform(-590, -380)),
        edge_mm=float(rng.uniform(0.7, 1.4) if texture == "solid" else rng.uniform(1.5, 3.0)),
        outline=draw_waves(rng, 0.5, 3.0, float(rng.uniform(0.04, 0.14)), 32),
        grain=draw_waves(rng, 1.5, 8, 1.0, 40),
        spikes=np.hstack([directions, lengths]).astype(np.float32),
        cavity=float(rng.uniform(0.3, 0.5)) if hollow else 0.0,
        malignancy=tuple(int(v) for v in np.clip(np.rint(suspicion + rng.normal(0, 0.7, 4)), 1, 5)),
    )


def paint_nodule(hu: Floats, grid: Grid, nodule: Nodule, rng: np.random.Generator) -> tuple[Box, Floats]:
    """Add a nodule to a volume of HU (slice, row, col); denser voxels, of vessels and ribs, stay.

    Returns: the voxels around the nodule, and the share 0..1 of each that lies inside its outline or a spicule.
    """
    radius = nodule.diameter_mm / 2
    reach = 1.6 * radius + float(nodule.spikes[:, 3].max(initial=0)) + 2 * nodule.edge_mm
    box = grid.box(nodule.center_xyz - reach, nodule.center_xyz + reach)
    part = hu[box]
    if part.size == 0:
        return box, np.zeros(part.shape, np.float32)
    planes, count = grid.planes(box[0])
    z, y, x = np.meshgrid(planes, grid.y[box[1]], grid.x[box[2]], indexing="ij")
    offsets = np.stack([x, y, z], axis=-1) - nodule.center_xyz  # (plane, row, col, xyz)
    away = np.linalg.norm(offsets / nodule.stretch_xyz, axis=-1)
    on_sphere = offsets / np.maximum(np.linalg.norm(offsets, axis=-1, keepdims=True), 1e-3)
    distance = away - radius * (1 + _values(nodule.outline, on_sphere))

    def by_slice(values: Floats) -> Floats:
        return np.asarray(values.reshape(-1, count, *part.shape[1:]).mean(axis=1), np.float32)

    filled = by_slice(coverage(distance, nodule.edge_mm))
    tissue = by_slice(_tissue_hu(nodule, away, _values(nodule.grain, offsets)))
    if len(nodule.spikes) and min(part.shape) > 1:
        filled = np.maximum(filled, np.minimum(_spikes(grid.part(box), nodule, rng), 1))
    np.maximum(part, part + filled * (tissue - part), out=part)
    return box, filled


def mark_nodule(filled: Floats, grid: Grid, chest: Chest, nodule: Nodule) -> npt.NDArray[np.bool_]:
    """Mark the voxels of a painted nodule: those in the lung that it fills to at least a half.

    It counts whole, whatever its texture: ground glass, a cavity, the broad parts of spicules, and vessels that run
    through it. Chest wall and mediastinum, which hide the part of a nodule that reaches into them, do not count. If no
    voxel is half full, as may happen in thick slices, the fullest one is marked, of several the nearest to the center.

    Args:
        filled: share 0..1 of each voxel that the nodule fills (slice, row, col), before the scanner's blur and noise.
        grid: the same voxels.
    Returns: bool (slice, row, col), with at least one voxel marked.
    """
    z, y, x = (axis.ravel() for axis in np.meshgrid(grid.z, grid.y, grid.x, indexing="ij"))
    share = np.where(chest.lung_depth(x, y, z) > 0, filled.ravel(), 0)
    mask = share >= LEAST_SHARE
    if not mask.any():
        away = np.linalg.norm(np.stack([x, y, z], axis=-1) - nodule.center_xyz, axis=-1)
        mask[np.lexsort((away, -share))[0]] = True
    return mask.reshape(filled.shape)


def _values(field: WaveField, points: Floats) -> Floats:
    """Evaluate a field at points (..., 3) -> (...)."""
    return field(*points.reshape(-1, 3).T).reshape(points.shape[:-1])


def _tissue_hu(nodule: Nodule, away: Floats, grain: Floats) -> Floats:
    """Compute a nodule's HU: ground glass, solid tissue, or one around the other, with or without a cavity."""
    glass = nodule.glass_hu + 45 * grain
    if nodule.texture == "ground-glass":
        return np.asarray(glass)
    radius = nodule.diameter_mm / 2
    solid = coverage(away - 0.5 * radius, 2.0) if nodule.texture == "part-solid" else np.ones_like(away)
    hu = glass + solid * (nodule.solid_hu + 15 * grain - glass)
    if nodule.cavity:
        hu += coverage(away - nodule.cavity * radius, 1.0) * (CAVITY_HU - hu)
    return np.asarray(hu)


def _spikes(grid: Grid, nodule: Nodule, rng: np.random.Generator) -> Floats:
    """Compute the share of each voxel filled by spicules, which taper away from the nodule."""
    volume = np.zeros(grid.shape, np.float32)
    for *direction, length in nodule.spikes:
        radius = nodule.diameter_mm / 2
        reach = np.arange(0.8 * radius, radius + length, SPIKE_STEP_MM)
        bend = np.cumsum(rng.normal(0, 0.05, (len(reach), 3)), axis=0)
        points = nodule.center_xyz + reach[:, None] * np.array(direction) + bend
        thickness = np.linspace(0.75, 0.15, len(reach))  # radius in mm
        splat(volume, grid, points.astype(np.float32), np.pi * thickness**2 * SPIKE_STEP_MM)
    return volume


def center_on_tissue(hu: np.ndarray, grid: Grid, nodule: Nodule) -> Nodule:
    """Move the nodule's annotated center to the nearest voxel that appears as tissue in the scan.

    Noise, thick slices and the air in ground glass may hide a center; a mask grown from it would be empty.
    """
    reach = np.maximum(nodule.diameter_mm / 4, grid.spacing_xyz)
    box = grid.box(nodule.center_xyz - reach, nodule.center_xyz + reach)
    places = np.stack(np.meshgrid(grid.z[box[0]], grid.y[box[1]], grid.x[box[2]], indexing="ij"), axis=-1)[..., ::-1]
    away = np.linalg.norm(places - nodule.center_xyz, axis=-1)
    at_center, tissue = np.unravel_index(away.argmin(), away.shape), hu[box] > CENTER_HU
    if tissue[at_center]:
        return nodule
    chosen = np.where(tissue, away, np.inf).argmin() if tissue.any() else hu[box].argmax()
    return replace(nodule, center_xyz=places.reshape(-1, 3)[chosen])


def choose_sites(
    rng: np.random.Generator, chest: Chest, grid: Grid, vessels: Branches, diameters: list[float]
) -> list[Floats]:
    """Draw a center (3,) for each nodule, in the scan's lung and at a distance from the others."""
    places = grid.sample_negatives(rng, PLACES)
    depths = chest.lung_depth(*places.T)
    oblique, _ = chest.fissure_distances(*places.T)
    forks = vessels.end[(vessels.radius > 0.5) & grid.contains(vessels.end)]
    centers: list[Floats] = []
    for diameter in diameters:
        site = str(rng.choice(SITES, p=SITE_ODDS))
        pool, depth = places, depths
        if site == "vessel" and len(forks):
            pool = forks[rng.integers(len(forks), size=PLACES)] + rng.normal(0, 0.2 * diameter, (PLACES, 3))
            pool = pool[grid.contains(pool)].astype(np.float32)
            depth = chest.lung_depth(*pool.T)
        nearest, farthest = (0.2, 0.5) if site == "pleura" else (0.65, np.inf)  # from the pleura, in diameters
        fits = (depth > nearest * diameter) & (depth < farthest * diameter)
        if site == "fissure":
            fits &= np.abs(oblique) < 0.3 * diameter
        for center in centers:
            fits &= np.linalg.norm(pool - center, axis=1) > APART_MM
        # A scan with too little lung: use the middle of the lung.
        centers.append(pool[rng.choice(np.flatnonzero(fits))] if fits.any() else places[np.argmax(depths)])
    return centers
