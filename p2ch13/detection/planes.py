"""Planes through a finding: windows of an axial, a coronal and a sagittal slice at true aspect ratio, with contours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from p2ch13.data.ct import Ct
from p2ch13.detection.contours import find_contours
from p2ch13.detection.measure import Axes
from p2ch13.util.boxes import Box

LUNG_WINDOW_HU = (-1350.0, 150.0)  # black and white: level -600, width 1500
LEAST_MM, MARGIN = 50.0, 1.5  # sides of a window: at least so long, and so many times the finding
AXIAL, CORONAL, SAGITTAL = PLANES = ("axial", "coronal", "sagittal")
PLANE_AXES = {AXIAL: (0, 1, 2), CORONAL: (1, 0, 2), SAGITTAL: (2, 0, 1)}  # of an array: across, down, to the right
ENDS = {  # of a picture as radiologists hang it: top, right, bottom, left; the patient's sides, head (H) and feet (F)
    AXIAL: ("A", "L", "P", "R"),
    CORONAL: ("H", "L", "F", "R"),
    SAGITTAL: ("H", "P", "F", "A"),
}

Line = NDArray[np.float64]  # (point, 2), x and y in pixels of a picture; its left upper corner is (0, 0)
Gray = NDArray[np.uint8]  # (row, col)


class Plane(NamedTuple):
    """A square window of a plane through a scan, as it is shown: head or front up, the patient's right on the left.

    Attributes:
        name: one of `PLANES`.
        slice_ndx: its index along the axis that it crosses: of the slice, row or col.
        gray: in the lung window, black beyond the scan.
        mm_per_pixel: of `gray`, in both directions.
        contours: of the finding; others: of other findings in the window.
        diameters: the long and the short axis, in the axial plane.
    """

    name: str
    slice_ndx: int
    gray: Gray
    mm_per_pixel: float
    contours: list[Line]
    others: list[Line]
    diameters: list[Line]


def as_gray(hu: NDArray[np.int16] | NDArray[np.float32]) -> Gray:
    """Show HU in the lung window."""
    black, white = LUNG_WINDOW_HU
    return ((hu - black) * (255 / (white - black))).clip(0, 255).round().astype(np.uint8)


def cut_planes(
    ct: Ct, labels: NDArray[np.int32], number: int, box: Box, axes: Axes, pixel_count: int
) -> list[Plane]:
    """Cut the three planes of a finding: axial where its longest diameter is, the others where they show most of it.

    Args:
        labels: (index, row, col), the finding's number of each voxel.
        box: of the finding's voxels.
        pixel_count: of each side of a window.
    """
    is_finding = labels[box] == number
    size_irc = ct.vx_size_xyz[::-1]
    side_mm = max(LEAST_MM, MARGIN * max(s * (axis.stop - axis.start) for s, axis in zip(size_irc, box, strict=True)))
    center_irc = [(axis.start + axis.stop) / 2 for axis in box]  # between the voxels' corners
    largest = [axis.start + int(is_finding.sum(axis=others).argmax()) for axis, others in zip(box, OTHERS, strict=True)]
    planes = []
    for name, slice_ndx in zip(PLANES, (axes.slice_ndx, *largest[1:]), strict=True):
        window = Window.of(name, slice_ndx, center_irc, size_irc, side_mm, pixel_count)
        planes.append(window.show(ct, labels, number, axes))
    return planes


OTHERS = ((1, 2), (0, 2), (0, 1))  # axes that cross each axis


class Window(NamedTuple):
    """Where a picture lies in a plane. Corners of voxels have whole coordinates, down and to the right in the array."""

    name: str
    slice_ndx: int
    first: tuple[float, float]
    scale: tuple[float, float]  # voxels per pixel
    pixel_count: int
    side_mm: float

    @classmethod
    def of(
        cls,
        name: str,
        slice_ndx: int,
        center_irc: Sequence[float],
        size_irc: Sequence[float],
        side_mm: float,
        pixel_count: int,
    ) -> Window:
        _, down, right = PLANE_AXES[name]
        extents = side_mm / size_irc[down], side_mm / size_irc[right]
        first = center_irc[down] - extents[0] / 2, center_irc[right] - extents[1] / 2
        return cls(name, slice_ndx, first, (extents[0] / pixel_count, extents[1] / pixel_count), pixel_count, side_mm)

    @property
    def is_upside_down(self) -> bool:
        """Slices are counted from the feet, and the head is shown on top."""
        return self.name != AXIAL

    def cut(self, voxels: NDArray[np.generic]) -> tuple[NDArray[np.generic], tuple[int, int]]:
        """Cut the part of an array (index, row, col) that the window shows; return its first voxel too."""
        across, down, right = PLANE_AXES[self.name]
        plane = np.moveaxis(voxels, (across, down, right), (0, 1, 2))[self.slice_ndx]
        starts = [max(0, int(np.floor(first)) - EDGE) for first in self.first]
        stops = [
            int(np.ceil(first + scale * self.pixel_count)) + EDGE
            for first, scale in zip(self.first, self.scale, strict=True)
        ]
        return plane[starts[0] : stops[0], starts[1] : stops[1]], (starts[0], starts[1])

    def show(self, ct: Ct, labels: NDArray[np.int32], number: int, axes: Axes) -> Plane:
        found, starts = self.cut(labels)
        diameters = [axes.long, axes.short] if self.name == AXIAL else []
        return Plane(
            self.name,
            self.slice_ndx,
            self.resample(ct),
            self.side_mm / self.pixel_count,
            self.trace(found == number, starts),
            [line for other in np.unique(found) if other not in (0, number) for line in self.trace(found == other, starts)],
            [self.to_pixels(np.array(diameter.ends_rowcol) + 0.5) for diameter in diameters],
        )

    def resample(self, ct: Ct) -> Gray:
        """Interpolate the window's pixels; beyond the scan they are black."""
        hu, starts = self.cut(ct.hu)
        image = PillowImage.fromarray(as_gray(hu))
        (first_row, first_col), (row_scale, col_scale) = self.first, self.scale
        placed = (col_scale, 0, first_col - starts[1], 0, row_scale, first_row - starts[0])
        size = (self.pixel_count, self.pixel_count)
        shown = np.asarray(image.transform(size, PillowImage.Transform.AFFINE, placed, PillowImage.Resampling.BICUBIC))
        return shown[::-1] if self.is_upside_down else shown

    def trace(self, mask: NDArray[np.bool_], starts: tuple[int, int]) -> list[Line]:
        """Find the contours of a mask (row, col) that was cut by `cut`."""
        if not mask.any():
            return []
        return [self.to_pixels(line + starts + 0.5) for line in find_contours(mask)]  # from centers to corners

    def to_pixels(self, points: NDArray[np.float64]) -> Line:
        """Convert points in the plane, down and to the right, to x and y in the picture."""
        pixels = (points - self.first) / self.scale
        if self.is_upside_down:
            pixels[:, 0] = self.pixel_count - pixels[:, 0]
        return pixels[:, ::-1]


EDGE = 2  # voxels around a window that its interpolation reads
