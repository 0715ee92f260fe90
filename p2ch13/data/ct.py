"""Ct: one scan, lazily read, with its geometry, its nodule mask and its crops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from p2ch13.labels.box import BOOK_RULE, BoxRule
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.regions import LabelRule, MaskRegion, Scan
from p2ch13.util.boxes import Box, inside, intersect, make_box, shape_of
from p2ch13.util.coordinates import IrcTuple
from p2ch13.volumes.files import ScanSource


class Ct(Scan):
    """One CT scan in axial order, and its annotated nodules; see `Volume` for its geometry.

    Args:
        source: the scan's file, its DICOM series, or an image, see `Volume`.
        nodules: the scan's annotated nodules.
        rule: marks the nodules; the book's box by default.
        series_uid: see `Volume`.
    Raises: InputError, naming the file, if it cannot be read as a scan.
    """

    def __init__(
        self,
        source: ScanSource,
        nodules: Sequence[CandidateInfoTuple] = (),
        rule: LabelRule = BOOK_RULE,
        series_uid: str | None = None,
    ) -> None:
        super().__init__(source, nodules, rule, series_uid)

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
        Returns: HU (int16) clipped to -1000..1000 and mask (bool), both shaped `width_irc`, and the center's voxel.
        Raises: InputError, naming the scan, if the center lies outside it.
        """
        center_irc = self.locate(center_xyz)
        slice_count, *plane_widths = width_irc
        starts = np.subtract(center_irc[1:], np.array(plane_widths) // 2)
        stops = starts + plane_widths
        low, high = np.maximum(starts, 0), np.minimum(stops, self.shape_irc[1:])
        _, rows, cols = make_box((0, *low), (1, *high))
        context = slice_count // 2, slice_spacing_mm
        (ct_chunk,) = self.context_slices([center_irc.index], *context, rows, cols)[:, :slice_count]
        slices = self.context_indexes(center_irc.index, *context)[:slice_count]
        pos_chunk = np.concatenate([self._mask_in((slice(ndx, ndx + 1), rows, cols), self.parts) for ndx in slices])
        padding = [(0, 0), *zip(low - starts, stops - high, strict=True)]
        return np.pad(ct_chunk, padding, mode="edge"), np.pad(pos_chunk, padding, mode="edge"), center_irc

    def get_slice(self, slice_ndx: int, context_slices_count: int, slice_spacing_mm: float = 0.0) -> NDArray[np.int16]:
        """Read a slice and its context: (2 * context_slices_count + 1, row, col), HU clipped to -1000..1000."""
        slices = self.context_indexes(slice_ndx, context_slices_count, slice_spacing_mm)
        self.read_ahead(slices[0], slices[-1])
        ct_slices: NDArray[np.int16] = self.context_slices([slice_ndx], context_slices_count, slice_spacing_mm)[0]
        return ct_slices

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
