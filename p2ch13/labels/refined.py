"""Nodule masks without the vessels and the chest wall that the book's box takes along."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ch13.config import REFINED_THRESHOLD_HU
from p2ch13.labels.box import grow_box
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.regions import (
    MaskRegion,
    Scan,
    as_region,
    ball_in,
    box_around,
    find_nearest,
    offsets,
)
from p2ch13.util.boxes import Box, BoxMask, enclose, inside, make_box, split_components, starts_of, stops_of, widen
from p2ch13.util.morphology import dilate_by_cross, open_by_ball, open_by_cross

WALL = 1.25  # times a nodule's radius, and half a voxel: tissue that a ball of this radius fits into is no nodule
REFINED_VERSION = 2  # raised when the refined rule changes, so that cached masks are recomputed
LUNG_AROUND_MM = 3.0  # beyond a nodule's diameter: where the HU of the lung around it are taken
CENTER_REACH = 1  # voxels from an annotated centre within which its nodule must be, after an opening
THICK_VOXEL_MM = 2.0  # along an axis with such voxels a nodule may be as thin as a vessel


@dataclass(frozen=True)
class RefinedRule:
    """What is near a nodule's center, denser than lung, no wall, and connected with the center after an opening.

    Near is what is no further away than the annotated radius and a voxel: nothing beyond is ever marked. Of that voxel
    it is what lies in the box, too, that the book grows from the center.
    Denser than lung is what is above -600 HU, or for a faint nodule, such as ground glass, what is nearer to its own HU
    than to those of the lung around it.
    Wall is tissue, the chest's and others, that is thicker than the nodule could be: a box that begins at the pleura
    goes on through it.
    The opening takes away what is thinner than 3 voxels, as vessels are that leave the nodule, and single voxels of the
    nodule's surface, which are put back. Where it leaves nothing of the nodule, this is kept as it was.
    """

    threshold_hu: float = REFINED_THRESHOLD_HU

    def key(self, nodules: Sequence[CandidateInfoTuple]) -> tuple[float, list[Any]]:
        diameters_mm = [diameter_mm for _, diameter_mm in sorted((n.center_xyz, n.diameter_mm) for n in nodules)]
        return self.threshold_hu, ["refined", REFINED_VERSION, WALL, diameters_mm]

    def mark_scan(self, scan: Scan) -> list[MaskRegion]:
        return self.mark_nodules(scan, scan.nodules)

    def mark_nodules(self, scan: Scan, nodules: Iterable[CandidateInfoTuple]) -> list[MaskRegion]:
        return [self.mark_nodule(scan, nodule) for nodule in nodules]

    def mark_seen(self, scan: Scan) -> list[MaskRegion]:
        return scan.parts

    def mark_nodule(self, scan: Scan, nodule: CandidateInfoTuple) -> MaskRegion:
        center_irc = scan.locate(nodule.center_xyz)
        vx_size_irc = scan.header.vx_size_xyz[::-1]
        threshold_hu = self.find_threshold(scan, nodule)
        box = find_box(scan, nodule, threshold_hu)
        tissue = BoxMask(box, self.find_tissue(scan, nodule, box, threshold_hu))
        whole = find_nearest(split_components(tissue, fully_connected=False), center_irc, vx_size_irc)
        if whole is None:
            return as_region(tissue)
        whole = widen(whole, box)
        opened = BoxMask(box, open_by_cross(whole.mask, opening_radii(vx_size_irc)))
        core = find_nearest(split_components(opened, fully_connected=False), center_irc, vx_size_irc)
        # What is left may be of a wall that the nodule touches.
        if core is None or np.abs(offsets(core, center_irc)).max(axis=1).min() > CENTER_REACH:
            return as_region(whole)
        return as_region(BoxMask(box, dilate_by_cross(widen(core, box).mask, opening_radii(vx_size_irc)) & whole.mask))

    def find_threshold(self, scan: Scan, nodule: CandidateInfoTuple) -> float:
        """Find the border between a nodule and lung: the rule's, or for a faint nodule halfway to the lung around it.

        A nodule's HU are what the denser third of its ball exceeds: the ball may hold some lung, or a cavity. The
        border is not so low that much of the lung around would be above it, as where nothing is to be seen but noise.
        """
        center_irc, vx_size_irc = scan.locate(nodule.center_xyz), scan.header.vx_size_xyz[::-1]
        radius_mm, voxel_mm = nodule.diameter_mm / 2, float(vx_size_irc.max())
        around_mm = nodule.diameter_mm + voxel_mm + LUNG_AROUND_MM
        box = box_around(scan, center_irc, around_mm)
        hu = scan.hu[box]
        ball, near, around = (
            ball_in(box, center_irc, reach_mm, vx_size_irc) for reach_mm in (radius_mm, radius_mm + voxel_mm, around_mm)
        )
        lung = hu[around & ~near & (hu < self.threshold_hu)]
        if not lung.size:
            return self.threshold_hu
        halfway_hu = float(np.median(lung) + np.quantile(hu[ball], 2 / 3)) / 2
        return min(self.threshold_hu, max(halfway_hu, float(np.quantile(lung, 0.9))))

    def find_tissue(self, scan: Scan, nodule: CandidateInfoTuple, box: Box, threshold_hu: float) -> NDArray[np.bool_]:
        """What is near and, unless then nothing is left about the center, off the wall."""
        center_irc, vx_size_irc = scan.locate(nodule.center_xyz), scan.header.vx_size_xyz[::-1]
        radius_mm, voxel_mm = nodule.diameter_mm / 2, float(vx_size_irc.max())
        tissue: NDArray[np.bool_] = scan.hu[box] > threshold_hu
        tissue &= ball_in(box, center_irc, radius_mm + voxel_mm, vx_size_irc)
        off_wall = tissue & ~find_wall(scan, box, WALL * radius_mm + voxel_mm / 2, threshold_hu)
        is_central = ball_in(box, center_irc, radius_mm / 2 + voxel_mm, vx_size_irc)
        return off_wall if (off_wall & is_central).any() else tissue


REFINED_RULE = RefinedRule()


def find_box(scan: Scan, nodule: CandidateInfoTuple, threshold_hu: float) -> Box:
    """The book's box, but along each axis at least the annotated radius and at most a voxel beyond it.

    In a hollow nodule, or beside a denser vessel, the book's box stays smaller than the nodule.
    """
    center_irc, voxel_mm = scan.locate(nodule.center_xyz), float(scan.header.vx_size_xyz.max())
    radius_mm = nodule.diameter_mm / 2
    largest = box_around(scan, center_irc, radius_mm + voxel_mm)
    grown = enclose([grow_box(scan, center_irc, threshold_hu), box_around(scan, center_irc, radius_mm)])
    return make_box(np.maximum(starts_of(largest), starts_of(grown)), np.minimum(stops_of(largest), stops_of(grown)))


def opening_radii(vx_size_irc: NDArray[np.float64]) -> list[int]:
    """Voxels along each axis: 1, but none where they are thick."""
    return [int(size < THICK_VOXEL_MM) for size in vx_size_irc.tolist()]


def find_wall(scan: Scan, box: Box, radius_mm: float, threshold_hu: float) -> NDArray[np.bool_]:
    """Which voxels of a box are part of tissue so thick that a ball of this radius fits into it."""
    vx_size_irc = scan.header.vx_size_xyz[::-1]
    margin = np.ceil(2 * radius_mm / vx_size_irc).astype(int)  # all of every ball that reaches into the box
    around = make_box(np.maximum(starts_of(box) - margin, 0), np.minimum(stops_of(box) + margin, scan.header.shape_irc))
    return open_by_ball(scan.hu[around] > threshold_hu, radius_mm, vx_size_irc)[inside(box, around)]
