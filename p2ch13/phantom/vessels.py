"""Trees of arteries, veins and airways that fill the lungs, finer towards the pleura.

A tree grows toward its target points: they are split in two along their longest direction, a branch goes part of the
way to each half, and so on until each point has its own twig. The radius of a vessel that feeds n twigs is
proportional to n^(1/3.2), close to Murray's law (1/3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2ch13.phantom.anatomy import Chest
from p2ch13.phantom.fields import Floats
from p2ch13.phantom.painting import Grid, paint_rod, splat

TWIGS_PER_LITER = 1700  # of one tree
TWIG_RADIUS_MM = 0.4
RADIUS_EXPONENT = 1 / 3.2
LARGEST_RADIUS_MM = 6.0
ALONG_DISCOUNT = 0.85  # weight of a group's length relative to its width in a split
UNEVENNESS = 0.8  # distance of a split from the group's middle, in deviations
STRAIGHTNESS = 1.0  # weight of a branch's heading relative to the direction of its targets
PLEURA_GAP_MM = 2.5  # vessels nearer to pleura and fissures are too small to be seen
SMALLEST_PAIRED_MM = 1.9  # radius of the smallest artery whose bronchus can be seen
PLUGGED_SHARE = 0.02  # of the bronchi, filled with mucus
ADVANCE = 0.68  # length of a branch relative to the distance of its targets
EARLIER_FORKS = 0.075  # decrease of `ADVANCE` with each e-fold of twigs
TAPER = 0.25  # of the radius, along a branch
PIECES = 3  # straight rods for a curved branch
LUNG_BOX = ((0, 145), (-95, 115), (-190, 105))  # ends of the left lung along x, y and z, standard chest
HILA = {  # standard chest: start of each lung's tree
    ("artery", -1): (-42, 20, -22),
    ("artery", 1): (46, 28, -14),
    ("vein", -1): (-38, 14, -48),
    ("vein", 1): (40, 16, -44),
}


@dataclass(frozen=True)
class Branches:
    """Curved branches: each runs from `start` to `end`, leaving in the direction of `control` (quadratic Bezier)."""

    start: Floats  # (branch, 3) mm
    control: Floats  # (branch, 3) mm
    end: Floats  # (branch, 3) mm
    radius: Floats  # (branch,) mm

    def point(self, t: Floats, of: np.ndarray) -> Floats:
        """Return points (n, 3) at parameters `t` (n,) of the branches with indexes `of` (n,)."""
        t = t[:, None]
        a, b, c = self.start[of], self.control[of], self.end[of]
        return np.asarray((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c, np.float32)

    def select(self, keep: np.ndarray) -> Branches:
        """Select branches by a mask or by indexes."""
        return Branches(self.start[keep], self.control[keep], self.end[keep], self.radius[keep])


def join(parts: list[Branches]) -> Branches:
    """Concatenate the branches of several trees."""
    return Branches(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("start", "control", "end", "radius"))
    )


def draw_targets(rng: np.random.Generator, chest: Chest, side: int) -> Floats:
    """Draw random ends (n, 3) of twigs in one lung (-1 right, 1 left)."""
    cell_mm = 100 / TWIGS_PER_LITER ** (1 / 3)
    axes = np.meshgrid(*(np.arange(low, high, cell_mm) for low, high in LUNG_BOX))
    cells = np.stack(axes, axis=-1).reshape(-1, 3)
    places = cells + rng.uniform(0, cell_mm, cells.shape)  # more uniform than points drawn one by one
    points = (places * [side, 1, 1] * chest.scale_xyz).astype(np.float32)
    oblique, horizontal = chest.fissure_distances(*points.T)
    clear = (np.abs(oblique) > PLEURA_GAP_MM) & ((side > 0) | (oblique > 0) | (np.abs(horizontal) > PLEURA_GAP_MM))
    return points[clear & (chest.lung_depth(*points.T) > PLEURA_GAP_MM)]


def grow_tree(rng: np.random.Generator, root: Floats, targets: Floats, lobe: np.ndarray) -> Branches:
    """Grow branches from `root` (3,) to each target (n, 3); targets of one `lobe` (n,) share a trunk."""
    levels: list[Branches] = []
    _, group = np.unique(lobe, return_inverse=True)
    start = np.repeat(root[None].astype(np.float32), group.max(initial=0) + 1, axis=0)
    heading = np.zeros_like(start)  # the first branches leave straight
    while len(targets):
        count = np.bincount(group)
        center = _group_mean(targets, group, count)
        level = _grow_level(rng, start, heading, center, count)
        levels.append(level)
        half = _split(rng, targets - center[group], group, count, center - root)
        unfinished = count[group] > 1
        targets = targets[unfinished]
        keys, group = np.unique((2 * group + half)[unfinished], return_inverse=True)
        start = level.end[keys // 2]
        heading = (level.end - level.control)[keys // 2]
    return join(levels)


def _group_mean(values: Floats, group: np.ndarray, count: np.ndarray) -> Floats:
    sums = [np.bincount(group, values[:, axis], len(count)) for axis in range(3)]
    return np.asarray(np.stack(sums, axis=1) / count[:, None], np.float32)


def _grow_level(
    rng: np.random.Generator, start: Floats, heading: Floats, center: Floats, count: np.ndarray
) -> Branches:
    """Make a branch from each `start` toward the mean of its targets; a last twig reaches its target."""
    onward = heading / (np.linalg.norm(heading, axis=1, keepdims=True) + 1e-6)
    distance = np.linalg.norm(center - start, axis=1, keepdims=True)
    course = (center - start) / (distance + 1e-6)
    agreement = np.maximum((course * onward).sum(axis=1, keepdims=True), 0)
    leaving = agreement * onward + (1 - agreement) * course  # reaches targets to the side without a loop
    course += STRAIGHTNESS * agreement * onward
    course /= np.linalg.norm(course, axis=1, keepdims=True) + 1e-6
    last = (count == 1)[:, None]
    advance = np.maximum(ADVANCE - EARLIER_FORKS * np.log(count), 0.08)[:, None] * rng.uniform(0.7, 1.3, last.shape)
    end = np.where(last, center, start + advance * distance * course)
    length = np.linalg.norm(end - start, axis=1, keepdims=True)
    wander = rng.normal(0, 0.04, start.shape) * length
    straight = np.linalg.norm(heading, axis=1, keepdims=True) == 0
    control = np.where(straight, (start + end) / 2, start + 0.33 * length * leaving) + wander
    radius = np.minimum(TWIG_RADIUS_MM * count**RADIUS_EXPONENT, LARGEST_RADIUS_MM)
    return Branches(start, *(part.astype(np.float32) for part in (control, end, radius)))


def _split(
    rng: np.random.Generator, offsets: Floats, group: np.ndarray, count: np.ndarray, outward: Floats
) -> np.ndarray:
    """Split each group in two, unevenly, mostly across its direction from the hilum -> 0 or 1 for each target.

    Halves side by side make branches continue at an acute angle and fan out from the hilum, as vessels do.
    """
    onward = (outward / (np.linalg.norm(outward, axis=1, keepdims=True) + 1e-6))[group]
    sideways = offsets - ALONG_DISCOUNT * (offsets * onward).sum(axis=1, keepdims=True) * onward
    spread = np.zeros((len(count), 3, 3))
    for i, j in np.ndindex(3, 3):
        spread[:, i, j] = np.bincount(group, sideways[:, i] * sideways[:, j], len(count))
    variance, axes = np.linalg.eigh(spread)
    direction = axes[:, :, 2] + rng.normal(0, 0.2, (len(count), 3))
    threshold = rng.normal(0, UNEVENNESS, len(count)) * np.sqrt(variance[:, 2] / count)
    return np.asarray((sideways * direction[group]).sum(axis=1) > np.where(count > 3, threshold, 0)[group])


def grow_vessels(rng: np.random.Generator, chest: Chest, kind: str) -> Branches:
    """Grow the arteries or veins (kind "artery" or "vein") of both lungs."""
    trees = []
    for side in (-1, 1):
        targets = draw_targets(rng, chest, side)
        root = np.array(HILA[kind, side]) * chest.scale_xyz
        trees.append(grow_tree(rng, root, targets, chest.lobe(*targets.T)))
    return join(trees)


def paint_branches(volume: Floats, grid: Grid, branches: Branches, thickest_line_mm: float) -> None:
    """Raise `volume` (slice, row, col) to the share of each voxel inside the branches.

    Branches with a radius below `thickest_line_mm` are drawn as lines of matter, which the scanner's blur makes round.
    """
    length = np.linalg.norm(branches.end - branches.start, axis=1)
    near = grid.contains((branches.start + branches.end) / 2, float(length.max(initial=0)) / 2 + LARGEST_RADIUS_MM)
    thin = branches.radius < thickest_line_mm
    _splat_lines(volume, grid, branches.select(thin & near), length[thin & near])
    np.minimum(volume, 1, out=volume)
    thick = branches.select(~thin & near)
    for piece in range(PIECES):
        ends = []
        for t in (piece / PIECES, (piece + 1) / PIECES):
            every = np.arange(len(thick.radius))
            tapered = thick.radius * (1 + TAPER * (0.5 - t))
            ends.append(np.column_stack([thick.point(np.full(len(every), t), every), tapered]))
        for start, end in zip(*ends, strict=True):
            paint_rod(volume, grid, start, end)


def _splat_lines(volume: Floats, grid: Grid, branches: Branches, length: Floats) -> None:
    step_mm = 0.6 * float(grid.spacing_xyz.min())
    samples = np.ceil(length / step_mm).astype(int) + 1
    of = np.repeat(np.arange(len(samples)), samples)
    number = np.arange(len(of)) - np.repeat(np.cumsum(samples) - samples, samples)
    points = branches.point(((number + 0.5) / samples[of]).astype(np.float32), of)
    splat(volume, grid, points, np.pi * branches.radius[of] ** 2 * (length / samples)[of])


def airways_along(rng: np.random.Generator, arteries: Branches) -> tuple[Branches, Branches]:
    """Make bronchi beside the larger arteries, as walls and as the air inside; a few are filled with mucus."""
    large = arteries.select(arteries.radius > SMALLEST_PAIRED_MM)
    outer = 0.85 * np.minimum(large.radius, 4.5)
    aside = np.cross(large.end - large.start, np.array([0.3, 0.2, 1.0]))  # any fixed direction keeps neighbors in line
    aside /= np.linalg.norm(aside, axis=1, keepdims=True) + 1e-6
    shift = (aside * (large.radius + 0.9 * outer)[:, None]).astype(np.float32)
    bronchi = Branches(large.start + shift, large.control + shift, large.end + shift, outer)
    inner = outer - np.maximum(0.17 * outer, 0.4)
    clear = rng.random(len(outer)) > PLUGGED_SHARE
    return bronchi, Branches(bronchi.start, bronchi.control, bronchi.end, inner).select(clear)
