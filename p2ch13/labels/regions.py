"""Regions of a scan's mask, and the geometry that label rules share.

A rule answers with regions, boxes each with a function that marks any window in it, so that a mask as large as the scan
is made only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.util.boxes import Box, BoxMask, inside, make_box, starts_of
from p2ch13.util.coordinates import IrcTuple
from p2ch13.volumes.files import ScanHeader


class MaskRegion(NamedTuple):
    """A piece of a scan's mask: nothing but nodule and what is between, and no nodule outside."""

    box: Box
    mark: Callable[[Box], NDArray[np.bool_]]  # a window within the box -> its mask


class Scan(Protocol):
    """What a rule sees of a `p2ch13.data.ct.Ct`."""

    header: ScanHeader
    nodules: tuple[CandidateInfoTuple, ...]

    @property
    def hu(self) -> NDArray[np.int16]: ...

    @property
    def parts(self) -> list[MaskRegion]: ...

    def locate(self, point_xyz: Sequence[float]) -> IrcTuple: ...


class LabelRule(Protocol):
    """A way to mark the nodules of a scan."""

    def key(self, nodules: Sequence[CandidateInfoTuple]) -> tuple[float | None, list[Any]]:
        """The threshold, and what else a mask depends on beside the scan's voxels and the places of its nodules."""

    def mark_scan(self, scan: Scan) -> list[MaskRegion]:
        """All that is nodule. Raises: InputError, naming a file, if that cannot be told."""

    def mark_nodules(self, scan: Scan, nodules: Iterable[CandidateInfoTuple]) -> list[MaskRegion]:
        """The parts that belong to these nodules."""

    def mark_seen(self, scan: Scan) -> list[MaskRegion]:
        """Mark what is nodule, and beyond it what somebody took for one: no place for a negative."""


def as_region(component: BoxMask) -> MaskRegion:
    return MaskRegion(component.box, lambda window: component.mask[inside(window, component.box)])


def box_around(scan: Scan, center_irc: IrcTuple, reach_mm: float) -> Box:
    """The box in the scan that holds every voxel within a distance of the center."""
    center, reach = np.array(center_irc), np.ceil(reach_mm / scan.header.vx_size_xyz[::-1]).astype(int)
    return make_box(np.maximum(center - reach, 0), np.minimum(center + reach + 1, scan.header.shape_irc))


def ball_in(box: Box, center_irc: IrcTuple, radius_mm: float, vx_size_irc: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The part of a ball that lies in a box."""
    index, row, col = (
        (np.arange(axis.start, axis.stop) - center) * size
        for axis, center, size in zip(box, center_irc, vx_size_irc.tolist(), strict=True)
    )
    ball: NDArray[np.bool_] = index[:, None, None] ** 2 + row[:, None] ** 2 + col**2 <= radius_mm**2
    return ball


def find_nearest(
    components: Iterable[BoxMask], center_irc: IrcTuple, vx_size_irc: NDArray[np.float64]
) -> BoxMask | None:
    return min(components, key=lambda component: distance_mm(component, center_irc, vx_size_irc), default=None)


def distance_mm(component: BoxMask, center_irc: IrcTuple, vx_size_irc: NDArray[np.float64]) -> float:
    """From a voxel to the nearest one of a component, 0 if it is one of them."""
    return float(np.linalg.norm(offsets(component, center_irc) * vx_size_irc, axis=1).min())


def offsets(component: BoxMask, center_irc: IrcTuple) -> NDArray[np.int64]:
    """(voxel, 3): from a voxel to each one of a component."""
    result: NDArray[np.int64] = np.argwhere(component.mask) + (starts_of(component.box) - np.array(center_irc))
    return result
