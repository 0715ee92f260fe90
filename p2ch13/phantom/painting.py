"""Paint lines, rods and blobs into a volume as the share of each voxel that they fill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2ch13.phantom.fields import Floats, capsule_distance, coverage

MAX_SUBSLICE_MM = 1.25  # shapes in thicker slices are averaged over several planes

Box = tuple[slice, slice, slice]  # of voxels: slice, row, col


@dataclass(frozen=True)
class Grid:
    """The voxel centers of a scan in the patient's chest, in mm."""

    x: Floats  # (col,)
    y: Floats  # (row,)
    z: Floats  # (slice,)

    @property
    def spacing_xyz(self) -> Floats:
        """Voxel size in mm."""
        return np.array([axis[1] - axis[0] for axis in (self.x, self.y, self.z)], np.float32)

    @property
    def origin_xyz(self) -> Floats:
        """Center of the first voxel in mm."""
        return np.array([self.x[0], self.y[0], self.z[0]], np.float32)

    @property
    def last_xyz(self) -> Floats:
        """Center of the last voxel in mm."""
        return np.array([self.x[-1], self.y[-1], self.z[-1]], np.float32)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slice, row, col)."""
        return len(self.z), len(self.y), len(self.x)

    def contains(self, points: Floats, margin_mm: float = 0) -> np.ndarray:
        """Return which points (n, 3) in mm lie inside the scan: bool (n,)."""
        low, high = self.origin_xyz - margin_mm, self.last_xyz + margin_mm
        return np.asarray(((points >= low) & (points <= high)).all(axis=1))

    def sample_negatives(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw random points (count, 3) in mm in the scan."""
        return rng.uniform(self.origin_xyz, self.last_xyz, (count, 3)).astype(np.float32)

    def box(self, low_xyz: Floats, high_xyz: Floats) -> Box:
        """Find the voxels (slice, row, col) between two corners in mm, clipped to the scan; may be empty."""
        first = np.floor((low_xyz - self.origin_xyz) / self.spacing_xyz).astype(int)
        last = np.ceil((high_xyz - self.origin_xyz) / self.spacing_xyz).astype(int) + 1
        x, y, z = (slice(max(a, 0), max(b, 0)) for a, b in zip(first, last, strict=True))
        return z, y, x

    def part(self, box: Box) -> Grid:
        """Return the grid of some voxels (slice, row, col); at least two along each axis."""
        return Grid(self.x[box[2]], self.y[box[1]], self.z[box[0]])

    def planes(self, slices: slice) -> tuple[Floats, int]:
        """Return the heights to sample within slices, and their number per slice."""
        thickness = float(self.spacing_xyz[2])
        count = int(np.ceil(thickness / MAX_SUBSLICE_MM))
        offsets = ((np.arange(count) + 0.5) / count - 0.5) * thickness
        return (self.z[slices, None] + offsets.astype(np.float32)).ravel(), count


def splat(volume: Floats, grid: Grid, points: Floats, mm3: Floats) -> None:
    """Add small amounts of matter, `mm3` (n,) at `points` (n, 3), each distributed to the eight voxels around it."""
    spacing = grid.spacing_xyz
    position = ((points - grid.origin_xyz) / spacing)[:, ::-1]  # (n, 3) as slice, row, col
    inside = ((position >= 0) & (position < np.array(grid.shape) - 1)).all(axis=1)
    position, share = position[inside], (mm3[inside] / spacing.prod()).astype(np.float32)
    corner = position.astype(np.int64)
    upper = (position - corner).astype(np.float32)
    flat = volume.reshape(-1)
    _, rows, cols = grid.shape
    for dz, dy, dx in np.ndindex(2, 2, 2):
        weight = share.copy()
        for axis, step in enumerate((dz, dy, dx)):
            weight *= upper[:, axis] if step else 1 - upper[:, axis]
        np.add.at(flat, ((corner[:, 0] + dz) * rows + corner[:, 1] + dy) * cols + corner[:, 2] + dx, weight)


def paint_rod(volume: Floats, grid: Grid, start: Floats, end: Floats) -> None:
    """Raise `volume` (slice, row, col) to the share of each voxel inside a rod; ends are (x, y, z, radius) in mm."""
    reach = max(start[3], end[3]) + grid.spacing_xyz
    box = grid.box(np.minimum(start[:3], end[:3]) - reach, np.maximum(start[:3], end[:3]) + reach)
    part = volume[box]
    if part.size == 0:
        return
    planes, count = grid.planes(box[0])
    distance = capsule_distance(grid.x[box[2]], grid.y[box[1], None], planes[:, None, None], start, end)
    filled = coverage(distance, float(grid.spacing_xyz[0]))
    np.maximum(part, filled.reshape(-1, count, *part.shape[1:]).mean(axis=1), out=part)
