"""The scan that label rules mark, the regions they return, and the geometry they share.

A region is a box and a function that marks any window in it: a mask as large as the scan is made only on request.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.util.boxes import Box, BoxMask, box_of, inside, make_box, pad_box, split_components, starts_of
from p2ch13.util.coordinates import IrcTuple, XyzTuple
from p2ch13.volumes.files import ScanSource
from p2ch13.volumes.volume import Volume


class MaskRegion(NamedTuple):
    """A region of a scan's mask; outside its regions the mask is empty."""

    box: Box
    mark: Callable[[Box], NDArray[np.bool_]]  # a window within the box -> its mask


class LabelRule(ABC):
    """A way to mark the nodules of a scan. Methods raise InputError for unusable files."""

    @abstractmethod
    def key(self, nodules: Sequence[CandidateInfoTuple]) -> tuple[float | None, list[Any]]:
        """Return the threshold, and whatever else a mask depends on besides the scan's voxels and nodule centers."""

    @abstractmethod
    def mark_nodule(self, scan: Scan, nodule: CandidateInfoTuple) -> MaskRegion:
        """Mark one nodule."""

    def mark_nodules(self, scan: Scan, nodules: Iterable[CandidateInfoTuple]) -> list[MaskRegion]:
        return [self.mark_nodule(scan, nodule) for nodule in nodules]

    def mark_scan(self, scan: Scan) -> list[MaskRegion]:
        """Mark all nodules of a scan."""
        return self.mark_nodules(scan, scan.nodules)

    def mark_seen(self, scan: Scan) -> list[MaskRegion]:
        """Mark all nodules and whatever any reader took for one: no negative crop is taken there."""
        return scan.parts


class Scan(Volume):
    """A volume with its annotated nodules and their regions; `p2ch13.data.ct.Ct` adds masks and crops."""

    def __init__(
        self, source: ScanSource, nodules: Sequence[CandidateInfoTuple], rule: LabelRule, series_uid: str | None
    ) -> None:
        super().__init__(source, series_uid)
        self.nodules = tuple(nodules)
        self.rule = rule

    @cached_property
    def parts(self) -> list[MaskRegion]:
        """The regions of the scan's mask."""
        return self.rule.mark_scan(self)


def as_region(component: BoxMask) -> MaskRegion:
    return MaskRegion(component.box, lambda window: component.mask[inside(window, component.box)])


def box_around(scan: Scan, center_irc: IrcTuple, reach_mm: float) -> Box:
    """Return the box that contains all voxels of the scan within a distance of the center."""
    reach = np.ceil(reach_mm / scan.vx_size_xyz[::-1]).astype(int)
    return pad_box(box_of(center_irc), reach, scan.shape_irc)


def ball_in(box: Box, center_irc: IrcTuple, radius_mm: float, vx_size_irc: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the part of a ball that lies in a box."""
    index, row, col = (
        (np.arange(axis.start, axis.stop) - center) * size
        for axis, center, size in zip(box, center_irc, vx_size_irc.tolist(), strict=True)
    )
    ball: NDArray[np.bool_] = index[:, None, None] ** 2 + row[:, None] ** 2 + col**2 <= radius_mm**2
    return ball


def split_mask(mask: NDArray[np.bool_]) -> list[BoxMask]:
    """Split a scan's mask (index, row, col) into its 26-connected components."""
    if not mask.any():
        return []
    bounds = [np.flatnonzero(mask.any(axis=others))[[0, -1]] for others in ((1, 2), (0, 2), (0, 1))]
    box = make_box((first for first, _ in bounds), (last + 1 for _, last in bounds))  # labeling all would take longer
    return split_components(BoxMask(box, mask[box]), fully_connected=True)


def center_of(component: BoxMask, volume: Volume) -> XyzTuple:
    """Compute the mean of a component's voxels in mm, patient coordinates."""
    center_irc = starts_of(component.box) + [ndxs.mean() for ndxs in np.nonzero(component.mask)]
    return volume.to_xyz(center_irc.tolist())


def volume_mm3(component: BoxMask, volume: Volume) -> float:
    return float(np.count_nonzero(component.mask) * np.prod(volume.vx_size_xyz))


def sphere_volume(diameter_mm: float) -> float:
    return math.pi / 6 * diameter_mm**3


def sphere_diameter(volume: float) -> float:
    """Return the diameter in mm of a sphere of this volume in mm3."""
    return float((6 / math.pi * volume) ** (1 / 3))


def find_component(components: Iterable[BoxMask], scan: Scan, nodule: CandidateInfoTuple) -> BoxMask | None:
    """Find the component nearest to a nodule's center, within its radius plus a voxel; None if there is none."""
    center_irc, vx_size_irc = scan.locate(nodule.center_xyz), scan.vx_size_xyz[::-1]
    nearest = find_nearest(components, center_irc, vx_size_irc)
    reach_mm = nodule.diameter_mm / 2 + vx_size_irc.max()
    is_near = nearest is not None and distance_mm(nearest, center_irc, vx_size_irc) <= reach_mm
    return nearest if is_near else None


def find_nearest(
    components: Iterable[BoxMask], center_irc: IrcTuple, vx_size_irc: NDArray[np.float64]
) -> BoxMask | None:
    return min(components, key=lambda component: distance_mm(component, center_irc, vx_size_irc), default=None)


def distance_mm(component: BoxMask, center_irc: IrcTuple, vx_size_irc: NDArray[np.float64]) -> float:
    """Return the distance from a voxel to the nearest one of a component."""
    return float(np.linalg.norm(offsets(component, center_irc) * vx_size_irc, axis=1).min())


def offsets(component: BoxMask, center_irc: IrcTuple) -> NDArray[np.int64]:
    """Return the offsets (voxel, 3) from a voxel to those of a component."""
    result: NDArray[np.int64] = np.argwhere(component.mask) + (starts_of(component.box) - np.array(center_irc))
    return result
