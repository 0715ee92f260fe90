"""Ct: one scan, lazily read, with its geometry, its nodule mask and its crops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2ch13.candidates import CandidateInfoTuple
from p2ch13.config import HU_MAX, HU_MIN, MASK_THRESHOLD_HU
from p2ch13.scans import read_ahead, read_header, read_voxels
from util.coordinates import IrcTuple, xyz2irc
from util.errors import InputError

FIRST_RADIUS = 2  # voxels from which a nodule's box starts to grow, as in the book

Box = tuple[slice, slice, slice]  # index, row, col


class Ct:
    """One CT scan and the nodules that were annotated in it.

    Opening one reads the header only; `hu` touches the pages of the file that are asked for.

    Args:
        path: the scan's header file, or a folder with a DICOM series.
        nodules: the scan's annotated nodules.
        series_uid: which series of the folder; None takes the largest.
    Attributes: `series_uid`; `origin_xyz`, `vx_size_xyz` (mm) and `direction` (3x3), see `util.coordinates`;
        `shape_irc` (slices, rows, cols).
    Raises: InputError, naming the file, if it cannot be read as a scan.
    """

    def __init__(self, path: Path, nodules: Sequence[CandidateInfoTuple] = (), series_uid: str | None = None) -> None:
        self.header = read_header(path, series_uid)
        self.series_uid = self.header.series_uid
        self.nodules = tuple(nodules)
        self.shape_irc = self.header.shape_irc
        self.origin_xyz = self.header.origin_xyz
        self.vx_size_xyz = self.header.vx_size_xyz
        self.direction = self.header.direction

    @cached_property
    def hu(self) -> NDArray[np.int16]:
        """(index, row, col) in HU, as the scanner wrote them: beyond -1000..1000 too."""
        return read_voxels(self.header)

    def build_annotation_mask(
        self, nodules: Sequence[CandidateInfoTuple], threshold_hu: float = MASK_THRESHOLD_HU
    ) -> NDArray[np.bool_]:
        """Mark the tissue of each annotated nodule.

        Annotations give a centre and a diameter but no outline. A box grows from each centre, one axis at a time, until
        one of its ends meets lung; what lies in a box and is denser than lung is nodule. An end that comes to the
        scan's border stays there while the other one goes on, so that a nodule at the border is marked whole.

        Args:
            nodules: candidates of this scan that are nodules; `center_xyz` in mm, patient coordinates.
            threshold_hu: border between lung and tissue, in HU.
        Returns: bool array (index, row, col), shaped like `self.hu`.
        Raises: InputError, naming the scan, if a centre lies outside it.
        Source: the book, 13.5.3.
        """
        whole_scan: Box = (slice(0, self.shape_irc[0]), slice(0, self.shape_irc[1]), slice(0, self.shape_irc[2]))
        return self._mask_in(whole_scan, self._find_boxes(nodules, threshold_hu), threshold_hu)

    @property
    def positive_mask(self) -> NDArray[np.bool_]:
        """The mask of the scan's own nodules: (index, row, col), as large as the scan. Made anew on every call."""
        return self.build_annotation_mask(self.nodules)

    @cached_property
    def positive_indexes(self) -> list[int]:
        """The slices that hold nodule, ascending."""
        return sorted(
            {
                ndx
                for index, rows, cols in self._nodule_boxes
                for ndx in range(index.start, index.stop)
                if (self.hu[ndx, rows, cols] > MASK_THRESHOLD_HU).any()
            }
        )

    def get_raw_candidate(
        self, center_xyz: Sequence[float], width_irc: tuple[int, int, int]
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_], IrcTuple]:
        """Cut a window out of the scan and its mask.

        The window is moved inward where it would reach over the scan's edge, so that its middle is not always the
        centre. Along an axis on which the scan is smaller than the window, the edge's voxels are repeated.

        Args:
            center_xyz: mm, patient coordinates.
            width_irc: the window's slices, rows and cols.
        Returns: HU (int16) and mask (bool), both shaped `width_irc`, and the centre's voxel.
        Raises: InputError, naming the scan, if the centre lies outside it.
        """
        center_irc = self.locate(center_xyz)
        starts = [
            min(max(center - width // 2, 0), size - width) if size >= width else center - width // 2
            for center, width, size in zip(center_irc, width_irc, self.shape_irc, strict=True)
        ]
        index, rows, cols = (
            slice(max(start, 0), min(start + width, size))
            for start, width, size in zip(starts, width_irc, self.shape_irc, strict=True)
        )
        padding = [
            (taken.start - start, start + width - taken.stop)
            for start, width, taken in zip(starts, width_irc, (index, rows, cols), strict=True)
        ]
        ct_chunk = self.hu[index, rows, cols].astype(np.int16)
        pos_chunk = self._mask_in((index, rows, cols), self._nodule_boxes, MASK_THRESHOLD_HU)
        return np.pad(ct_chunk, padding, mode="edge"), np.pad(pos_chunk, padding, mode="edge"), center_irc

    def get_slice(self, slice_ndx: int, context_slices_count: int) -> NDArray[np.int16]:
        """A slice between its neighbours: (2 * context_slices_count + 1, row, col), HU clipped to -1000..1000.

        Beyond the first and the last slice these are repeated.
        """
        neighbours = np.arange(slice_ndx - context_slices_count, slice_ndx + context_slices_count + 1)
        neighbours = neighbours.clip(0, self.shape_irc[0] - 1)
        read_ahead(self.header, int(neighbours[0]), int(neighbours[-1]))
        # One slice at a time, so that a memory map is read in place and not through an index array.
        return np.stack([self.hu[ndx].clip(HU_MIN, HU_MAX) for ndx in neighbours]).astype(np.int16, copy=False)

    def get_slice_mask(self, slice_ndx: int) -> NDArray[np.bool_]:
        """The nodule mask of one slice: (row, col)."""
        _, rows, cols = self.shape_irc
        window = (slice(slice_ndx, slice_ndx + 1), slice(0, rows), slice(0, cols))
        mask: NDArray[np.bool_] = self._mask_in(window, self._nodule_boxes, MASK_THRESHOLD_HU)[0]
        return mask

    def locate(self, point_xyz: Sequence[float]) -> IrcTuple:
        """The voxel of a point in mm, patient coordinates. Raises: InputError if it lies outside the scan."""
        irc = xyz2irc(point_xyz, self.origin_xyz, self.vx_size_xyz, self.direction)
        if not all(0 <= value < size for value, size in zip(irc, self.shape_irc, strict=True)):
            at = ", ".join(f"{value:.1f}" for value in point_xyz)
            raise InputError(
                f"{self.header.path}: a nodule at ({at}) mm would be voxel {tuple(irc)}, outside the scan's "
                f"{self.shape_irc}; correct or remove its row in the annotations"
            )
        return irc

    @cached_property
    def _nodule_boxes(self) -> list[Box]:
        return self._find_boxes(self.nodules, MASK_THRESHOLD_HU)

    def _find_boxes(self, nodules: Sequence[CandidateInfoTuple], threshold_hu: float) -> list[Box]:
        boxes: list[Box] = []
        for nodule in nodules:
            center_irc = self.locate(nodule.center_xyz)
            radii = [self._find_radius(center_irc, axis, threshold_hu) for axis in range(3)]
            index, row, col = (
                slice(max(center - radius, 0), min(center + radius + 1, size))
                for center, radius, size in zip(center_irc, radii, self.shape_irc, strict=True)
            )
            boxes.append((index, row, col))
        return boxes

    def _find_radius(self, center_irc: IrcTuple, axis: int, threshold_hu: float) -> int:
        """How far the two ends go out from the centre along one axis until one meets lung, or both the border.

        Voxels are looked up one by one: a line through all slices would touch a page of the file in each of them.
        """
        center, last = center_irc[axis], self.shape_irc[axis] - 1
        low, high = list(center_irc), list(center_irc)
        radius = FIRST_RADIUS
        while center - radius > 0 or center + radius < last:
            low[axis], high[axis] = max(center - radius, 0), min(center + radius, last)
            if self.hu[tuple(low)] <= threshold_hu or self.hu[tuple(high)] <= threshold_hu:
                break
            radius += 1
        return radius

    def _mask_in(self, window: Box, boxes: Sequence[Box], threshold_hu: float) -> NDArray[np.bool_]:
        """The part of the mask that lies in `window`; only voxels in the boxes are looked at."""
        mask = np.zeros([axis.stop - axis.start for axis in window], dtype=bool)
        for box in boxes:
            common = [
                slice(max(mine.start, theirs.start), min(mine.stop, theirs.stop))
                for mine, theirs in zip(window, box, strict=True)
            ]
            if any(axis.start >= axis.stop for axis in common):
                continue
            inside = tuple(
                slice(axis.start - origin.start, axis.stop - origin.start)
                for axis, origin in zip(common, window, strict=True)
            )
            mask[inside] |= self.hu[tuple(common)] > threshold_hu
        return mask
