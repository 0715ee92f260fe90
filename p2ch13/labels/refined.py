"""Nodule masks without the vessels and chest wall that the book's box includes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from p2ch13.config import REFINED_THRESHOLD_HU
from p2ch13.labels.box import grow_box
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.regions import LabelRule, MaskRegion, Scan, as_region, ball_in, box_around, find_nearest, offsets
from p2ch13.util.boxes import Box, BoxMask, enclose, inside, intersect, pad_box, split_components, widen
from p2ch13.util.coordinates import IrcTuple

WALL = 1.25  # nodule radii, plus half a voxel: tissue that contains a ball of this radius is chest wall
REFINED_VERSION = 2  # raised with every change of the rule, so that cached masks are recomputed
LUNG_AROUND_MM = 3.0  # beyond a nodule's diameter, where the HU of the surrounding lung are sampled
CENTER_REACH = 1  # voxels between an annotated center and its nodule after the opening
THICK_VOXEL_MM = 2.0  # along such an axis a nodule may be as thin as a vessel: no opening

Mask = NDArray[np.bool_]  # (index, row, col)


@dataclass(frozen=True)
class RefinedRule(LabelRule):
    """Mark the component at the center after opening, within the annotated radius, chest wall removed.

    - Radius: nothing beyond the annotated radius plus a voxel is marked; within that last voxel only what the book's
      box contains as well.
    - Threshold: -600 HU, or for a faint nodule, such as ground glass, halfway between its HU and those of the lung.
    - Chest wall: tissue that is thicker than the nodule. The book's box goes through it from the pleura.
    - Opening: removes structures under 3 voxels, such as attached vessels, and single voxels of the nodule's surface,
      which are put back. If nothing of the nodule is left, the component is kept as it was.
    """

    threshold_hu: float = REFINED_THRESHOLD_HU

    def key(self, nodules: Sequence[CandidateInfoTuple]) -> tuple[float, list[Any]]:
        diameters_mm = [diameter_mm for _, diameter_mm in sorted((n.center_xyz, n.diameter_mm) for n in nodules)]
        return self.threshold_hu, ["refined", REFINED_VERSION, WALL, diameters_mm]

    def mark_nodule(self, scan: Scan, nodule: CandidateInfoTuple) -> MaskRegion:
        center_irc, radius_mm = scan.locate(nodule.center_xyz), nodule.diameter_mm / 2
        vx_size_irc = scan.vx_size_xyz[::-1]
        threshold_hu = self.find_threshold(scan, center_irc, radius_mm)
        box = find_box(scan, center_irc, radius_mm, threshold_hu)
        tissue = BoxMask(box, find_tissue(scan, center_irc, radius_mm, box, threshold_hu))
        whole = find_nearest(split_components(tissue, fully_connected=False), center_irc, vx_size_irc)
        if whole is None:
            return as_region(tissue)
        whole = widen(whole, box)
        cross = make_cross(vx_size_irc)
        opened = BoxMask(box, open_by_cross(whole.mask, cross))
        core = find_nearest(split_components(opened, fully_connected=False), center_irc, vx_size_irc)
        # The core may be a wall that touches the nodule.
        if core is None or np.abs(offsets(core, center_irc)).max(axis=1).min() > CENTER_REACH:
            return as_region(whole)
        return as_region(BoxMask(box, ndimage.binary_dilation(widen(core, box).mask, cross) & whole.mask))

    def find_threshold(self, scan: Scan, center_irc: IrcTuple, radius_mm: float) -> float:
        """Find the threshold: the rule's, or for a faint nodule halfway between its HU and the surrounding lung's.

        A nodule's HU are those that the densest third of its ball exceeds, since the ball may contain lung or a cavity.
        The threshold is at least the 90th percentile of the surrounding lung, so that noise is not marked.
        """
        vx_size_irc = scan.vx_size_xyz[::-1]
        voxel_mm = float(vx_size_irc.max())
        around_mm = 2 * radius_mm + voxel_mm + LUNG_AROUND_MM
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


REFINED_RULE = RefinedRule()


def find_box(scan: Scan, center_irc: IrcTuple, radius_mm: float, threshold_hu: float) -> Box:
    """Limit the book's box along each axis to at least the annotated radius and at most a voxel more.

    In a cavitary nodule, or beside a denser vessel, the book's box is smaller than the nodule.
    """
    largest = box_around(scan, center_irc, radius_mm + float(scan.vx_size_xyz.max()))
    grown = enclose([grow_box(scan, center_irc, threshold_hu), box_around(scan, center_irc, radius_mm)])
    return intersect(largest, grown) or largest  # both contain the center


def find_tissue(scan: Scan, center_irc: IrcTuple, radius_mm: float, box: Box, threshold_hu: float) -> Mask:
    """Mark tissue within the radius, without the chest wall unless that removes everything near the center."""
    vx_size_irc = scan.vx_size_xyz[::-1]
    voxel_mm = float(vx_size_irc.max())
    tissue: Mask = scan.hu[box] > threshold_hu
    tissue &= ball_in(box, center_irc, radius_mm + voxel_mm, vx_size_irc)
    off_wall = tissue & ~find_wall(scan, box, WALL * radius_mm + voxel_mm / 2, threshold_hu)
    is_central = ball_in(box, center_irc, radius_mm / 2 + voxel_mm, vx_size_irc)
    return off_wall if (off_wall & is_central).any() else tissue


def find_wall(scan: Scan, box: Box, radius_mm: float, threshold_hu: float) -> Mask:
    """Mark the voxels of a box that belong to tissue into which a ball of this radius fits."""
    vx_size_irc = scan.vx_size_xyz[::-1]
    margin = np.ceil(2 * radius_mm / vx_size_irc).astype(int)  # so that balls are complete that reach into the box
    around = pad_box(box, margin, scan.shape_irc)
    return open_by_ball(scan.hu[around] > threshold_hu, radius_mm, vx_size_irc)[inside(box, around)]


def make_cross(vx_size_irc: NDArray[np.float64]) -> Mask:
    """Return a voxel with its neighbors over faces, except along the axes of thick voxels."""
    radii = (vx_size_irc < THICK_VOXEL_MM).astype(int)
    cross: Mask = ndimage.generate_binary_structure(3, 1)[tuple(slice(1 - radius, 2 + radius) for radius in radii)]
    return cross


def open_by_cross(mask: Mask, cross: Mask) -> Mask:
    """Open a mask; voxels beyond the array count as part of it, where `ndimage.binary_opening` would erode."""
    opened: Mask = ndimage.binary_dilation(ndimage.binary_erosion(mask, cross, border_value=1), cross)
    return opened


def open_by_ball(mask: Mask, radius_mm: float, vx_size_irc: NDArray[np.float64]) -> Mask:
    """Open a mask with a ball, voxels beyond the array being part of it; the time does not depend on the radius."""
    centers = mask if mask.all() else distance_to(~mask, vx_size_irc) > radius_mm
    return distance_to(centers, vx_size_irc) <= radius_mm if centers.any() else centers


def distance_to(mask: Mask, vx_size_irc: NDArray[np.float64]) -> NDArray[np.float32]:
    """Compute the distance in mm from each voxel's center to that of the nearest voxel of a mask that is not empty.

    In a box of 40 x 100 x 100 voxels, `ndimage.distance_transform_edt` takes 1.3 times as long as SimpleITK.
    """
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(vx_size_irc[::-1].tolist())
    signed = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return sitk.GetArrayFromImage(signed).clip(min=0)  # negative in the mask
