"""Ct: one scan, lazily read, with its geometry, its nodule mask and its crops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2ch13.config import HU_MAX, HU_MIN
from p2ch13.labels.box import BOOK_RULE, BoxRule
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.regions import LabelRule, MaskRegion, Scan
from p2ch13.util.boxes import Box, inside, intersect, make_box, shape_of
from p2ch13.util.coordinates import IrcTuple
from p2ch13.volumes.files import read_ahead


class Ct(Scan):
    """One CT scan and its annotated nodules.

    The constructor reads the header only; `hu` reads the pages of the file that are accessed.

    Args:
        path: the scan's header file, or a folder with a DICOM series.
        nodules: the scan's annotated nodules.
        rule: marks the nodules; the book's box by default.
        series_uid: selects a series of the folder; None: the largest.
    Attributes: `series_uid`; `origin_xyz`, `vx_size_xyz` (mm) and `direction` (3x3), see `p2ch13.util.coordinates`;
        `shape_irc` (slices, rows, cols).
    Raises: InputError, naming the file, if it cannot be read as a scan.
    """

    def __init__(
        self,
        path: Path,
        nodules: Sequence[CandidateInfoTuple] = (),
        rule: LabelRule = BOOK_RULE,
        series_uid: str | None = None,
    ) -> None:
        super().__init__(path, nodules, rule, series_uid)
        self.series_uid = self.header.series_uid
        self.shape_irc = self.header.shape_irc
        self.origin_xyz = self.header.origin_xyz
        self.vx_size_xyz = self.header.vx_size_xyz
        self.direction = self.header.direction

    def build_annotation_mask(
        self, nodules: Sequence[CandidateInfoTuple], threshold_hu: float | None = None
    ) -> NDArray[np.bool_]:
        """Mark the tissue of each annotated nodule.

        Annotations give a center and a diameter but no outline; the rules of `p2ch13.labels` find one. A center in
        nothing but lung marks nothing.

        Args:
            nodules: annotated nodules of this scan; `center_xyz` in mm, patient coordinates.
            threshold_hu: replaces the scan's rule by the book's, with this border between lung and soft tissue.
        Returns: bool array (index, row, col), shaped like `self.hu`.
        Raises: InputError, naming the scan, if a center lies outside it; the rule's own errors.
        """
        rule = self.rule if threshold_hu is None else BoxRule(threshold_hu)
        return self._mask_in(self._whole, rule.mark_nodules(self, nodules))

    @property
    def positive_mask(self) -> NDArray[np.bool_]:
        """The mask of all nodules: (index, row, col), as large as the scan; computed on every call."""
        return self._mask_in(self._whole, self.parts)

    @cached_property
    def positive_indexes(self) -> list[int]:
        """The indexes of the nodule slices, ascending."""
        return sorted(
            {
                ndx
                for part in self.parts
                for ndx in range(part.box[0].start, part.box[0].stop)
                if part.mark((slice(ndx, ndx + 1), *part.box[1:])).any()
            }
        )

    def get_raw_candidate(
        self, center_xyz: Sequence[float], width_irc: tuple[int, int, int], slice_spacing_mm: float = 0.0
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_], IrcTuple]:
        """Cut a window out of the scan and its mask.

        The window's middle, voxel `width // 2`, is the center. Beyond the scan's edges the edge voxels are repeated, in
        the image and in the mask alike.

        Args:
            center_xyz: mm, patient coordinates.
            width_irc: the window's slices, rows and cols.
            slice_spacing_mm: spacing of the window's slices, see `context_indexes`.
        Returns: HU (int16) and mask (bool), both shaped `width_irc`, and the center's voxel.
        Raises: InputError, naming the scan, if the center lies outside it.
        """
        center_irc = self.locate(center_xyz)
        slice_count, *plane_widths = width_irc
        slices = self.context_indexes(center_irc.index, slice_count // 2, slice_spacing_mm)[:slice_count]
        starts = np.subtract(center_irc[1:], np.array(plane_widths) // 2)
        stops = starts + plane_widths
        low, high = np.maximum(starts, 0), np.minimum(stops, self.shape_irc[1:])
        windows = [make_box((ndx, *low), (ndx + 1, *high)) for ndx in slices]
        ct_chunk = cut_slab(self.hu, slices, *windows[0][1:])
        pos_chunk = np.concatenate([self._mask_in(window, self.parts) for window in windows])
        padding = [(0, 0), *zip(low - starts, stops - high, strict=True)]
        return np.pad(ct_chunk, padding, mode="edge"), np.pad(pos_chunk, padding, mode="edge"), center_irc

    def get_slice(self, slice_ndx: int, context_slices_count: int, slice_spacing_mm: float = 0.0) -> NDArray[np.int16]:
        """Read a slice and its context: (2 * context_slices_count + 1, row, col), HU clipped to -1000..1000."""
        slices = self.context_indexes(slice_ndx, context_slices_count, slice_spacing_mm)
        read_ahead(self.header, slices[0], slices[-1])
        slab = cut_slab(self.hu, slices)
        return slab.clip(HU_MIN, HU_MAX, out=slab)

    def context_indexes(self, slice_ndx: int, count: int, spacing_mm: float = 0.0) -> list[int]:
        """Find the indexes of a slice and `count` context slices on either side; the scan's end slices repeat.

        Args: spacing_mm: distance between them, rounded to whole slices; 0: adjacent slices.
        """
        step = find_slice_step(self.vx_size_xyz[2], spacing_mm)
        return repeat_ends(range(slice_ndx - step * count, slice_ndx + step * count + 1, step), self.shape_irc[0])

    def get_slice_mask(self, slice_ndx: int) -> NDArray[np.bool_]:
        """Compute the nodule mask of one slice: (row, col)."""
        mask: NDArray[np.bool_] = self._mask_in((slice(slice_ndx, slice_ndx + 1), *self._whole[1:]), self.parts)[0]
        return mask

    @property
    def _whole(self) -> Box:
        return make_box((0, 0, 0), self.shape_irc)

    def _mask_in(self, window: Box, parts: Sequence[MaskRegion]) -> NDArray[np.bool_]:
        """Compute the mask in a window; only the parts that reach into it are evaluated."""
        mask = np.zeros(shape_of(window), dtype=bool)
        for part in parts:
            if common := intersect(window, part.box):
                mask[inside(common, window)] |= part.mark(common)
        return mask


def find_slice_step(slice_mm: float, spacing_mm: float) -> int:
    """Round a spacing to whole slices, at least one."""
    return max(1, round(spacing_mm / slice_mm))


def repeat_ends(slices: range, slice_count: int) -> list[int]:
    """Replace indexes beyond a scan's ends by its first and last slice."""
    return [min(max(ndx, 0), slice_count - 1) for ndx in slices]


def cut_slab(
    hu: NDArray[np.int16], slices: Sequence[int], rows: slice = slice(None), cols: slice = slice(None)
) -> NDArray[np.int16]:
    """Copy a window of slices, (slice, row, col): the context of training crops, validation slices and detection.

    One slice at a time, so that a memory map is read in place instead of through an index array.
    """
    return np.stack([hu[ndx, rows, cols] for ndx in slices]).astype(np.int16, copy=False)
