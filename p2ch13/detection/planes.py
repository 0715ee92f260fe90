"""Planes through a finding: windows of an axial, a coronal and a sagittal slice at true aspect ratio, with contours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from p2ch13.data.ct import Ct
from p2ch13.detection.contours import find_contours
from p2ch13.detection.measure import Axes
from p2ch13.detection.pictures import as_gray
from p2ch13.util.boxes import Box

LEAST_MM, MARGIN = 50.0, 1.5  # sides of a window: at least so long, and so many times the finding
EDGE = 2  # voxels around a window that its interpolation reads
AXIAL, CORONAL, SAGITTAL = PLANES = ("axial", "coronal", "sagittal")
# Axes of an array (index, row, col) that cross each plane, and that run down and to the right in it.
PLANE_AXES = {AXIAL: (0, 1, 2), CORONAL: (1, 0, 2), SAGITTAL: (2, 0, 1)}
ENDS = {  # of a picture as radiologists hang it: top, right, bottom, left; the patient's sides, head (H) and feet (F)
    AXIAL: ("A", "L", "P", "R"),
    CORONAL: ("H", "L", "F", "R"),
    SAGITTAL: ("H", "P", "F", "A"),
}

Line = NDArray[np.float64]  # (point, 2), x and y in pixels of a picture, whose left upper corner is (0, 0)
Gray = NDArray[np.uint8]  # (row, col)


class Plane(NamedTuple):
    """A square window of a plane through a scan, as it is shown: head or front up, the patient's right on the left.

    Attributes:
        name: one of `PLANES`.
        slice_ndx: of the slice, row or col that it shows.
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


def cut_planes(ct: Ct, labels: NDArray[np.int32], number: int, box: Box, axes: Axes, pixel_count: int) -> list[Plane]:
    """Cut the three planes of a finding: axial where its longest diameter is, the others where they show most of it.

    Args:
        labels: (index, row, col), the finding's number of each voxel.
        box: of the finding's voxels.
        pixel_count: of each side of a window.
    """
    is_finding = labels[box] == number
    rows, cols = is_finding.sum(axis=(0, 2)), is_finding.sum(axis=(0, 1))
    places = (axes.slice_ndx, box[1].start + int(rows.argmax()), box[2].start + int(cols.argmax()))
    return [
        Window.around(box, ct, name, slice_ndx, pixel_count).show(ct, labels, number, axes)
        for name, slice_ndx in zip(PLANES, places, strict=True)
    ]


class Window(NamedTuple):
    """Where a picture lies in a plane of an array: corners of voxels have whole coordinates.

    Attributes:
        first: its corner, down and to the right in the array.
        scale: voxels per pixel, in the same directions.
    """

    name: str
    slice_ndx: int
    first: tuple[float, float]
    scale: tuple[float, float]
    pixel_count: int
    side_mm: float

    @classmethod
    def around(cls, box: Box, ct: Ct, name: str, slice_ndx: int, pixel_count: int) -> Window:
        """Choose the window around a box of voxels; it is the same in all planes."""
        sizes_mm = ct.vx_size_xyz[::-1].tolist()
        extents_mm = [(axis.stop - axis.start) * size for axis, size in zip(box, sizes_mm, strict=True)]
        side_mm = max(LEAST_MM, MARGIN * max(extents_mm))
        down, right = ((box[axis], side_mm / sizes_mm[axis]) for axis in PLANE_AXES[name][1:])
        first = [(axis.start + axis.stop - count) / 2 for axis, count in (down, right)]
        scale = (down[1] / pixel_count, right[1] / pixel_count)
        return cls(name, slice_ndx, (first[0], first[1]), scale, pixel_count, side_mm)

    @property
    def is_upside_down(self) -> bool:
        """Slices are counted from the feet, and the head is shown on top."""
        return self.name != AXIAL

    def cut(self, voxels: NDArray[Any]) -> tuple[NDArray[Any], tuple[int, int]]:
        """Cut the part of an array (index, row, col) that the window shows; return its first voxel too."""
        plane = voxels.transpose(PLANE_AXES[self.name])[self.slice_ndx]
        first, last = np.array(self.first), np.array(self.first) + np.array(self.scale) * self.pixel_count
        starts = np.maximum(np.floor(first).astype(int) - EDGE, 0).tolist()
        stops = (np.ceil(last).astype(int) + EDGE).tolist()
        return plane[starts[0] : stops[0], starts[1] : stops[1]], (starts[0], starts[1])

    def show(self, ct: Ct, labels: NDArray[np.int32], number: int, axes: Axes) -> Plane:
        found, starts = self.cut(labels)
        diameters = (axes.long, axes.short) if self.name == AXIAL else ()
        return Plane(
            self.name,
            self.slice_ndx,
            self.resample(ct.hu),
            self.side_mm / self.pixel_count,
            self.trace(found == number, starts),
            self.trace((found > 0) & (found != number), starts),
            [self.to_pixels(np.array(diameter.ends_rowcol) + 0.5) for diameter in diameters],
        )

    def resample(self, hu: NDArray[np.int16]) -> Gray:
        """Interpolate the window's pixels; beyond the scan they are black."""
        part, starts = self.cut(hu)
        first = np.array(self.first) - starts  # in the part
        last = first + np.array(self.scale) * self.pixel_count
        before = np.maximum(np.ceil(-first), 0).astype(int)
        after = np.maximum(np.ceil(last) - part.shape, 0).astype(int)
        padded = np.pad(as_gray(part), np.stack([before, after], axis=1))
        (top, left), (bottom, right) = (first + before).tolist(), (last + before).tolist()
        size = (self.pixel_count, self.pixel_count)
        shown = PillowImage.fromarray(padded).resize(
            size, PillowImage.Resampling.BICUBIC, box=(left, top, right, bottom)
        )
        gray = np.asarray(shown)
        return gray[::-1] if self.is_upside_down else gray

    def trace(self, mask: NDArray[np.bool_], starts: Sequence[int]) -> list[Line]:
        """Find the contours of a mask (row, col) that `cut` returned."""
        if not mask.any():
            return []
        return [self.to_pixels(line + starts + 0.5) for line in find_contours(mask)]  # from centers to corners

    def to_pixels(self, points: NDArray[np.float64]) -> Line:
        """Convert points in the plane, down and to the right, to x and y in the picture."""
        pixels = (points - self.first) / self.scale
        if self.is_upside_down:
            pixels[:, 0] = self.pixel_count - pixels[:, 0]
        return pixels[:, ::-1]
