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
    """One CT scan and the nodules that were annotated in it.

    Opening one reads the header only; `hu` touches the pages of the file that are asked for.

    Args:
        path: the scan's header file, or a folder with a DICOM series.
        nodules: the scan's annotated nodules.
        rule: how nodules are marked; the book's box if none is named.
        series_uid: which series of the folder; None takes the largest.
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

        Annotations give a center and a diameter but no outline; `p2ch13.labels` has the rules that find one. Where
        none is found, as at a place with only lung, nothing is marked.

        Args:
            nodules: candidates of this scan that are nodules; `center_xyz` in mm, patient coordinates.
            threshold_hu: take the book's rule, with this border between lung and tissue, and not the scan's own.
        Returns: bool array (index, row, col), shaped like `self.hu`.
        Raises: InputError, naming the scan, if a centre lies outside it, or what the rule itself raises.
        """
        rule = self.rule if threshold_hu is None else BoxRule(threshold_hu)
        return self._mask_in(self._whole, rule.mark_nodules(self, nodules))

    @property
    def positive_mask(self) -> NDArray[np.bool_]:
        """The mask of all that is nodule: (index, row, col), as large as the scan. Made anew on every call."""
        return self._mask_in(self._whole, self.parts)

    @cached_property
    def positive_indexes(self) -> list[int]:
        """The slices that hold nodule, ascending."""
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

        The window's middle, voxel `width // 2`, is always the center. Where the window reaches over the scan's edge,
        the edge's voxels are repeated, slices as in `get_slice` and rows and cols likewise; the mask repeats with its
        voxels, so that image and mask say the same.

        Args:
            center_xyz: mm, patient coordinates.
            width_irc: the window's slices, rows and cols.
            slice_spacing_mm: of the window's slices, see `context_indexes`.
        Returns: HU (int16) and mask (bool), both shaped `width_irc`, and the center's voxel.
        Raises: InputError, naming the scan, if the center lies outside it.
        """
        center_irc = self.locate(center_xyz)
        slice_count, *plane_widths = width_irc
        slices = self.context_indexes(center_irc.index, slice_count // 2, slice_spacing_mm)[:slice_count].tolist()
        starts = np.subtract(center_irc[1:], np.array(plane_widths) // 2)
        stops = starts + plane_widths
        low, high = np.maximum(starts, 0), np.minimum(stops, self.shape_irc[1:])
        windows = [make_box((ndx, *low), (ndx + 1, *high)) for ndx in slices]
        ct_chunk = np.concatenate([self.hu[window] for window in windows]).astype(np.int16)
        pos_chunk = np.concatenate([self._mask_in(window, self.parts) for window in windows])
        padding = [(0, 0), *zip(low - starts, stops - high, strict=True)]
        return np.pad(ct_chunk, padding, mode="edge"), np.pad(pos_chunk, padding, mode="edge"), center_irc

    def get_slice(self, slice_ndx: int, context_slices_count: int, slice_spacing_mm: float = 0.0) -> NDArray[np.int16]:
        """A slice between its neighbours: (2 * context_slices_count + 1, row, col), HU clipped to -1000..1000."""
        neighbours = self.context_indexes(slice_ndx, context_slices_count, slice_spacing_mm)
        read_ahead(self.header, int(neighbours[0]), int(neighbours[-1]))
        # One slice at a time, so that a memory map is read in place and not through an index array.
        return np.stack([self.hu[ndx].clip(HU_MIN, HU_MAX) for ndx in neighbours]).astype(np.int16, copy=False)

    def context_indexes(self, slice_ndx: int, count: int, distance_mm: float = 0.0) -> NDArray[np.int64]:
        """Indexes of a slice between `count` others on either side; beyond the scan's ends these are repeated.

        Args: distance_mm: from one to the next, as near as whole slices come to it; 0 takes every slice.
        """
        step = find_slice_step(self.vx_size_xyz[2], distance_mm)
        return (slice_ndx + step * np.arange(-count, count + 1)).clip(0, self.shape_irc[0] - 1)

    def get_slice_mask(self, slice_ndx: int) -> NDArray[np.bool_]:
        """The nodule mask of one slice: (row, col)."""
        mask: NDArray[np.bool_] = self._mask_in((slice(slice_ndx, slice_ndx + 1), *self._whole[1:]), self.parts)[0]
        return mask

    @property
    def _whole(self) -> Box:
        return make_box((0, 0, 0), self.shape_irc)

    def _mask_in(self, window: Box, parts: Sequence[MaskRegion]) -> NDArray[np.bool_]:
        """The part of the mask that lies in `window`; only what parts have in it is looked at."""
        mask = np.zeros(shape_of(window), dtype=bool)
        for part in parts:
            if common := intersect(window, part.box):
                mask[inside(common, window)] |= part.mark(common)
        return mask


def find_slice_step(slice_mm: float, distance_mm: float) -> int:
    """How many slices further on the one is that comes nearest to a distance; at least the next one."""
    return max(1, round(distance_mm / slice_mm))
