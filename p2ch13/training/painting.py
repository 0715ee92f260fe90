"""Paint a nodule into any lung: a shape, a texture, the scan's own blur and noise, and the exact mask."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from p2ch13.config import HU_MAX, HU_MIN
from p2ch13.labels.lidc_shapes import SHAPE_REACH, SHAPE_SIZE, UNITS_PER_RADIUS, NoduleShape
from p2ch13.util.boxes import Box, make_box

LEAST_PLANES, PLANE_MM = 3, 1.25  # at which a slice is sampled, and most that they are apart
LEAST_IN_LUNG = 0.5  # of a nodule; of less the wall hides what it is
LEAST_SHARE = 0.5  # of what a nodule fills of its fullest voxel, to be marked in the mask
GRAIN_MM = (0.8, 2.5)  # deviation of the Gaussians that make coarse and fine grain
# Of LIDC's shapes few are not solid, and of screening's nodules about a fifth: each needs enough examples.
TEXTURES, TEXTURE_ODDS = ("solid", "part-solid", "ground-glass"), (0.66, 0.17, 0.17)
CORES = (0.3, 0.75)  # depth that the solid part of a part-solid nodule has, in its depth
CALCIFIED_SHARE = 0.05
MARGIN_MM, WIDEST_MARGIN = (0.3, 1.6), 0.35  # from outline to full density; at most so many radii
STRETCH, TILT = 0.12, 0.35  # deviations of the logarithm of the axes' lengths, and of the tilt in radians
LOBE_FIELDS, LOBE_VOXELS = 32, 5.0  # kept, since to make one takes as long as to paint; their Gaussian's deviation
LOBES = 0.08  # deviation of the outline's distance, in radii

Axis = NDArray[np.float64]  # positions in mm


@dataclass(frozen=True)
class ScannerLook:
    """What a scanner makes of a nodule."""

    point_spread_mm: float  # standard deviation in plane
    noise_hu: float


@dataclass(frozen=True)
class PaintedNodule:
    """One nodule to paint.

    Attributes:
        transform: (3, 3), from mm (z, y, x) to radii of the shape.
        glass_hu: of its ground glass; solid_hu: of its solid part; core: share of the depth that this part has, 0 to 1;
            grain_hu: deviation of both.
        margin_mm: depth at which it has its full density: readers draw an outline where a nodule begins to be seen.
    """

    shape: NoduleShape
    diameter_mm: float
    transform: NDArray[np.float64]
    glass_hu: float
    solid_hu: float
    core: float
    grain_hu: float
    margin_mm: float = 0.0

    @property
    def reach_mm(self) -> NDArray[np.float64]:
        """How far the shape's grid reaches from the center along z, y and x, in mm."""
        corners: NDArray[np.float64] = SHAPE_REACH * np.abs(np.linalg.inv(self.transform)).sum(axis=1)
        return corners


class PaintedVoxels(NamedTuple):
    """What was painted. Attributes: mask: (index, row, col); diameter_mm: of the nodule without what the wall hides."""

    mask: NDArray[np.bool_]
    diameter_mm: float


def draw_nodule(rng: np.random.Generator, shape: NoduleShape, diameter_mm: float) -> PaintedNodule:
    """Draw how a shape is turned and stretched, and what it is filled with, by its texture's rating."""
    turn = Rotation.from_euler("zyx", [rng.uniform(0, 2 * math.pi), *rng.normal(0, TILT, 2)]).as_matrix()
    mirrored = np.diag(rng.choice([-1.0, 1.0], 3))
    stretch = np.exp(rng.normal(0, STRETCH, 3))
    stretch /= np.prod(stretch) ** (1 / 3)
    radius_mm = diameter_mm / 2
    transform = mirrored @ turn[::-1, ::-1] @ np.diag(1 / (stretch * radius_mm))
    texture = rng.choice(TEXTURES, p=TEXTURE_ODDS)
    core = {"solid": 1.0, "part-solid": float(rng.uniform(*CORES)), "ground-glass": 0.0}[str(texture)]
    calcified = core == 1 and rng.random() < CALCIFIED_SHARE
    return PaintedNodule(
        shape,
        diameter_mm,
        transform,
        glass_hu=float(rng.uniform(-700, -380) if core == 0 else rng.uniform(-620, -300)),
        solid_hu=float(rng.uniform(200, 600) if calcified else rng.normal(10, 50)),
        core=core,
        grain_hu=float(rng.uniform(10, 70)),
        margin_mm=min(float(rng.uniform(*MARGIN_MM)), WIDEST_MARGIN * radius_mm),
    )


def paint_nodule(
    hu: NDArray[np.int16],
    axes_mm: Sequence[Axis],
    nodule: PaintedNodule,
    look: ScannerLook,
    wall: NDArray[np.bool_],
    vx_size_irc: NDArray[np.float64],
    rng: np.random.Generator,
) -> PaintedVoxels:
    """Paint a nodule into a window of a scan.

    Denser voxels, of vessels and chest wall, stay. The mask has the voxels that the nodule fills to at least a half,
    before the scanner's blur, whatever its texture, with the vessels in it and without the chest wall. If its slices
    are so thick that it fills none of their voxels, the mask has those that it fills at least half as much as any.

    Args:
        hu: (index, row, col), changed in place.
        axes_mm: positions of its slices, rows and cols, relative to the nodule's center.
        wall: the same shape: voxels of chest wall and mediastinum.
        vx_size_irc: mm; slices may be further apart than they are thick, or repeat at the scan's ends.
    Returns: the mask, shaped as `hu`, and the nodule's size; the mask is empty, and nothing is painted, if it lies
        outside the window or mostly in the wall.
    """
    nothing = PaintedVoxels(np.zeros(hu.shape, dtype=bool), 0.0)
    _, first, repeats = np.unique(axes_mm[0], return_index=True, return_inverse=True)
    if len(first) < len(hu):  # a slice that repeats is painted once: its noise repeats, too
        slices = hu[first]
        painted = paint_nodule(slices, (axes_mm[0][first], *axes_mm[1:]), nodule, look, wall[first], vx_size_irc, rng)
        hu[:] = slices[repeats]
        return painted._replace(mask=painted.mask[repeats])
    box = find_box(axes_mm, nodule.reach_mm + vx_size_irc / 2)  # of thick slices, a part is nearer than their middle
    if hu[box].size == 0:
        return nothing
    near = [axis[part] for axis, part in zip(axes_mm, box, strict=True)]
    filled, density, core = fill_voxels(near, nodule, vx_size_irc, rng)
    filled_outside_wall = np.where(wall[box], 0, filled)
    if filled_outside_wall.sum() <= LEAST_IN_LUNG * filled.sum():
        return nothing
    tissue = nodule.glass_hu + core * (nodule.solid_hu - nodule.glass_hu)
    tissue += nodule.grain_hu * draw_grain(filled.shape, vx_size_irc, rng)
    blur = look.point_spread_mm / vx_size_irc[2]
    seen = ndimage.gaussian_filter(density, (0, blur, blur))
    content = np.divide(ndimage.gaussian_filter(density * tissue, (0, blur, blur)), seen, where=seen > 0.01, out=tissue)
    noise = look.noise_hu * draw_noise(filled.shape, blur, rng)
    before = hu[box].astype(np.float32)
    painted = before + seen * (content + noise - before)
    hu[box] = np.where(content > before, painted, before).round().clip(HU_MIN, HU_MAX)
    mask = np.zeros(hu.shape, dtype=bool)
    mask[box] = filled_outside_wall >= LEAST_SHARE * filled_outside_wall.max()
    share = float(filled_outside_wall.sum() / filled.sum())
    return PaintedVoxels(mask, nodule.diameter_mm * float(np.cbrt(share)))


def find_box(axes_mm: Sequence[Axis], reach_mm: NDArray[np.float64]) -> Box:
    """Find the voxels within reach of the position 0; the box may be empty."""
    inside = [np.flatnonzero(np.abs(axis) <= reach) for axis, reach in zip(axes_mm, reach_mm, strict=True)]
    starts = [int(ndxs[0]) if len(ndxs) else 0 for ndxs in inside]
    return make_box(starts, [start + len(ndxs) for start, ndxs in zip(starts, inside, strict=True)])


def fill_voxels(
    axes_mm: Sequence[Axis], nodule: PaintedNodule, vx_size_irc: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Compute the share of each voxel within the outline, its density, and its solid share: (index, row, col), 0..1."""
    z, y, x = axes_mm
    plane_count = max(LEAST_PLANES, math.ceil(vx_size_irc[0] / PLANE_MM))
    offsets = (np.arange(plane_count) - (plane_count - 1) / 2) * vx_size_irc[0] / plane_count
    planes = (z[:, None] + offsets).ravel()
    points = np.stack(np.meshgrid(planes, y, x, indexing="ij"))
    radii = np.tensordot(nodule.transform, points, axes=1)
    places = (radii / SHAPE_REACH + 1) * (SHAPE_SIZE - 1) / 2
    lobes = make_lobes()
    grid = nodule.shape.distance.astype(np.float32) / UNITS_PER_RADIUS
    grid += np.roll(lobes[rng.integers(len(lobes))], rng.integers(0, SHAPE_SIZE, 3), axis=(0, 1, 2))
    distance = ndimage.map_coordinates(grid, places, order=1, mode="constant", cval=1.0)
    radius_mm = nodule.diameter_mm / 2
    edge, margin = vx_size_irc[2] / radius_mm, nodule.margin_mm / radius_mm  # a voxel's, in radii

    def share(inside: NDArray[np.float64], width: float = edge) -> NDArray[np.float32]:
        by_plane = np.clip(0.5 + inside / width, 0, 1).reshape(len(z), plane_count, len(y), len(x))
        return by_plane.mean(axis=1, dtype=np.float32)  # type: ignore[no-any-return]

    filled, density = share(-distance), share(-distance - margin / 2, max(margin, edge))
    if nodule.core in (0, 1):
        return filled, density, np.full(filled.shape, nodule.core, np.float32)
    return filled, density, share((1 - nodule.core) * grid.min() - distance)


@functools.cache
def make_lobes() -> NDArray[np.float32]:
    """Make fields of distances, in radii, that change a shape's outline; they repeat at the grid's ends."""
    rng = np.random.default_rng(0)
    grid = (SHAPE_SIZE,) * 3
    return np.stack([LOBES * smooth_noise(rng, grid, LOBE_VOXELS) for _ in range(LOBE_FIELDS)]).astype(np.float32)


def draw_grain(
    shape: tuple[int, ...], vx_size_irc: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw coarse and fine grain of deviation 1: (index, row, col)."""
    fine, coarse = (smooth_noise(rng, shape, size / vx_size_irc) for size in GRAIN_MM)
    grain: NDArray[np.float32] = (fine + coarse) / np.float32(math.sqrt(2))
    return grain


def draw_noise(shape: tuple[int, ...], blur: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a scanner's noise of deviation 1, each slice for itself: (index, row, col)."""
    return smooth_noise(rng, shape, (0, 0.7 * blur, 0.7 * blur))


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], deviations: Any) -> NDArray[np.float32]:
    """Draw white noise, blur it by a Gaussian of so many voxels, and give it back a deviation of 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), deviations, mode="wrap")
    of_axes = np.broadcast_to(np.asarray(deviations, dtype=float), len(shape))
    scaled: NDArray[np.float32] = noise / np.float32(math.prod(map(blurred_deviation, of_axes.tolist())))
    return scaled


@functools.cache
def blurred_deviation(blur: float) -> float:
    """Compute the deviation of white noise, 1 before, that a Gaussian of so many voxels has blurred along an axis.

    The continuous Gaussian's, 1 / sqrt(2 sqrt(pi) blur), is too small by up to a tenth for half a voxel.
    """
    if blur == 0:
        return 1.0
    impulse = np.zeros(2 * math.ceil(5 * blur) + 3)
    impulse[len(impulse) // 2] = 1
    return float(np.linalg.norm(ndimage.gaussian_filter1d(impulse, blur)))
