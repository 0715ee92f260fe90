"""Volume: a scan in axial order, whatever its file's, with its geometry and its context slices."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from p2ch13.config import HU_MAX, HU_MIN
from p2ch13.util.boxes import BoxMask, make_box, starts_of, stops_of
from p2ch13.util.coordinates import AxialOrder, IrcTuple, Scalar, XyzTuple, irc2xyz, xyz2irc
from p2ch13.util.errors import InputError
from p2ch13.volumes.chest import check_scan
from p2ch13.volumes.files import ScanSource, read_ahead, read_header, read_voxels
from p2ch13.volumes.lungs import find_lungs

Scan = TypeVar("Scan", bound="Volume")


class Volume:
    """One scan in axial order: slices from feet to head, rows to the back, columns to the left (LPS).

    The constructor reads the header only; `hu` reads the pages of the file that are accessed.

    Args:
        source: the scan's file; a folder or zip archive with a DICOM series, one of its files, or the series; an image
            of SimpleITK or nibabel.
        series_uid: selects a series of the folder, None the largest; of a file, its UID in place of the file's name.
    Attributes: `header`, with the geometry as stored; `series_uid`; `shape_irc` (slices, rows, cols), `origin_xyz`,
        `vx_size_xyz` (mm) and `direction` (3x3) in axial order, see `p2ch13.util.coordinates`.
    Raises: InputError, naming the file, if it cannot be read as a scan.
    """

    def __init__(self, source: ScanSource, series_uid: str | None = None) -> None:
        header = self.header = read_header(source, series_uid)
        self.series_uid = header.series_uid
        order = self._order = AxialOrder.of(header.direction)
        columns = [2 - axis for axis in reversed(order.axes)]  # of the stored direction that run along x, y, z
        signs = [-1 if flip else 1 for flip in reversed(order.backwards)]
        index, row, col = (header.shape_irc[axis] for axis in order.axes)
        self.shape_irc = index, row, col
        self.vx_size_xyz = header.vx_size_xyz[columns]
        self.direction = header.direction[:, columns] * signs
        first_irc = [0, 0, 0]  # the stored voxel that is (0, 0, 0) in axial order
        for axis, flip in zip(order.axes, order.backwards, strict=True):
            first_irc[axis] = header.shape_irc[axis] - 1 if flip else 0
        self.origin_xyz = np.array(irc2xyz(first_irc, header.origin_xyz, header.vx_size_xyz, header.direction))

    @cached_property
    def hu(self) -> NDArray[np.int16]:
        """(index, row, col) in HU, not clipped. Raises: InputError if these values are no HU of a chest."""
        check_scan(self.header, self.voxels)
        return self.voxels

    @cached_property
    def voxels(self) -> NDArray[np.int16]:
        """(index, row, col), of any meaning: a view of the stored voxels, or a copy if their axes are others."""
        voxels = self._order.to_axial(read_voxels(self.header))
        # Each axial slice of a sagittal or coronal file would be read from all of its pages.
        return voxels if self._has_stored_slices else np.ascontiguousarray(voxels)

    @cached_property
    def lungs(self) -> NDArray[np.bool_] | None:
        """(index, row, col), see `find_lungs`; None if no lung is found."""
        return find_lungs(self.hu, self.vx_size_xyz)

    def with_hu(self: Scan, hu: NDArray[np.int16]) -> Scan:
        """Return this scan with other voxels, (index, row, col), axial, in the same geometry."""
        other = self._without_lungs()
        other.hu = hu
        return other

    def thickened(self: Scan, count: int) -> Scan:
        """Return this scan as slices `count` times as thick show it: the means of adjacent ones; it keeps its header.

        Slices at its upper end that are too few for one more are left out.
        """
        other = self._without_lungs()
        slice_count = self.shape_irc[0] // count
        other.shape_irc = slice_count, *self.shape_irc[1:]
        other.vx_size_xyz = self.vx_size_xyz * (1, 1, count)
        other.origin_xyz = np.array(self.to_xyz(((count - 1) / 2, 0, 0)))
        groups = (self.hu[first : first + count] for first in range(0, slice_count * count, count))
        other.hu = np.stack([group.mean(axis=0).round().astype(np.int16) for group in groups])
        return other

    def _without_lungs(self: Scan) -> Scan:
        """Copy it for other voxels, in which the lungs are elsewhere."""
        other = copy.copy(self)
        other.__dict__.pop("lungs", None)
        return other

    @property
    def _has_stored_slices(self) -> bool:
        return self._order.axes == (0, 1, 2)

    def as_stored(self, voxels: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return a view of an array (index, row, col), shaped like `hu`, in the order of the scan's file."""
        return self._order.to_stored(voxels)

    def place_stored(self, part: BoxMask) -> BoxMask:
        """Turn a part of a mask, given in the order of the scan's file, into axial order."""
        starts, stops = (ends[list(self._order.axes)] for ends in (starts_of(part.box), stops_of(part.box)))
        flipped, shape = np.array(self._order.backwards), np.array(self.shape_irc)
        box = make_box(np.where(flipped, shape - stops, starts), np.where(flipped, shape - starts, stops))
        return BoxMask(box, self._order.to_axial(part.mask))

    def locate(self, point_xyz: Sequence[float]) -> IrcTuple:
        """Find the voxel of a point in mm, patient coordinates. Raises: InputError if it lies outside the scan."""
        irc = self.to_irc(point_xyz)
        if not all(0 <= value < size for value, size in zip(irc, self.shape_irc, strict=True)):
            at = ", ".join(f"{value:.1f}" for value in point_xyz)
            raise InputError(
                f"a nodule or candidate at ({at}) mm would be voxel {tuple(irc)}, outside the scan's "
                f"{self.shape_irc}; correct or remove its row in the CSV file",
                path=self.header.path,
            )
        return irc

    def to_irc(self, point_xyz: Sequence[float]) -> IrcTuple:
        """Find the voxel that contains a point in mm, patient coordinates; it may lie outside the scan."""
        return xyz2irc(point_xyz, self.origin_xyz, self.vx_size_xyz, self.direction)

    def to_xyz(self, irc: Sequence[float]) -> XyzTuple:
        """Convert a voxel to mm, patient coordinates."""
        return irc2xyz(irc, self.origin_xyz, self.vx_size_xyz, self.direction)

    def context_slices(
        self,
        slices: Sequence[int],
        count: int,
        spacing_mm: float = 0.0,
        rows: slice = slice(None),
        cols: slice = slice(None),
    ) -> NDArray[np.int16]:
        """Cut slices, each with its context slices: what the network sees, in training, validation and detection.

        Args: slices: indexes; count, spacing_mm: see `context_indexes`; rows, cols: a window.
        Returns: (slice, 2 * count + 1, row, col), a copy, HU clipped to -1000..1000.
        """
        indexes = np.array([self.context_indexes(slice_ndx, count, spacing_mm) for slice_ndx in slices])
        needed, places = np.unique(indexes, return_inverse=True)
        # One slice at a time, so that a memory map is read in place instead of through an index array.
        slab = np.stack([self.hu[slice_ndx, rows, cols] for slice_ndx in needed])
        slab = slab.astype(np.int16, copy=False)  # of big-endian files
        return slab.clip(HU_MIN, HU_MAX, out=slab)[places.reshape(indexes.shape)]

    def context_indexes(self, slice_ndx: int, count: int, spacing_mm: float = 0.0) -> list[int]:
        """Find the indexes of a slice and `count` context slices on either side; the scan's end slices repeat.

        Args: spacing_mm: distance between them along the patient's z axis, rounded to whole slices; 0: adjacent slices.
        """
        slice_mm = self.vx_size_xyz[2] * self.direction[2, 2]
        step = max(1, round(spacing_mm / slice_mm))
        last = self.shape_irc[0] - 1
        return [min(max(slice_ndx + step * place, 0), last) for place in range(-count, count + 1)]

    def read_ahead(self, first: int, last: int) -> None:
        """Have the system read slices `first` to `last` before they are used page by page."""
        if self._has_stored_slices:
            end = self.shape_irc[0] - 1
            read_ahead(self.header, *((end - last, end - first) if self._order.backwards[0] else (first, last)))
