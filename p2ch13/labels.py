"""How a nodule is marked: by the book's box, by a refined one, or as LIDC-IDRI's readers outlined it.

A rule answers with parts, boxes each with a way to mark any window in it, so that a mask as large as the scan is made
only when someone asks for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from p2ch13.candidates import CandidateInfoTuple
from p2ch13.config import MASK_THRESHOLD_HU, REFINED_THRESHOLD_HU, LabelOptions
from p2ch13.lidc import find_readings, mark_consensus, mark_seen
from p2ch13.scans import ScanHeader, file_signature
from util.boxes import Box, BoxMask, enclose, inside, make_box, split_components, starts_of, stops_of, widen
from util.coordinates import IrcTuple
from util.errors import InputError
from util.morphology import grow_by_cross, open_by_ball, open_by_cross

FIRST_RADIUS = 2  # voxels from which a nodule's box starts to grow, as in the book
WALL = 1.25  # times a nodule's radius, and half a voxel: tissue that a ball of this radius fits into is no nodule
REFINED_VERSION = 2  # raised when the refined rule changes, so that cached masks are recomputed
LUNG_AROUND_MM = 3.0  # beyond a nodule's diameter: where the HU of the lung around it are taken
CENTER_REACH = 1  # voxels from an annotated centre within which its nodule must be, after an opening
THICK_VOXEL_MM = 2.0  # along an axis with such voxels a nodule may be as thin as a vessel


class Part(NamedTuple):
    """A piece of a scan's mask: nothing but nodule and what is between, and no nodule outside."""

    box: Box
    mark: Callable[[Box], NDArray[np.bool_]]  # a window within the box -> its mask


class Scan(Protocol):
    """What a rule sees of a `p2ch13.ct.Ct`."""

    header: ScanHeader
    nodules: tuple[CandidateInfoTuple, ...]

    @property
    def hu(self) -> NDArray[np.int16]: ...

    @property
    def parts(self) -> list[Part]: ...

    def locate(self, point_xyz: Sequence[float]) -> IrcTuple: ...


class LabelRule(Protocol):
    """A way to mark the nodules of a scan."""

    def key(self, nodules: Sequence[CandidateInfoTuple]) -> tuple[float | None, list[Any]]:
        """The threshold, and what else a mask depends on beside the scan's voxels and the places of its nodules."""

    def mark_scan(self, scan: Scan) -> list[Part]:
        """All that is nodule. Raises: InputError, naming a file, if that cannot be told."""

    def mark_nodules(self, scan: Scan, nodules: Iterable[CandidateInfoTuple]) -> list[Part]:
        """The parts that belong to these nodules."""

    def mark_seen(self, scan: Scan) -> list[Part]:
        """Mark what is nodule, and beyond it what somebody took for one: no place for a negative."""


@dataclass(frozen=True)
class BoxRule:
    """The book's: a box grows from the centre until it meets lung, and what is denser than lung in it is nodule.

    Source: the book, 13.5.3.
    """

    threshold_hu: float = MASK_THRESHOLD_HU

    def key(self, nodules: Sequence[CandidateInfoTuple]) -> tuple[float, list[Any]]:
        return self.threshold_hu, []

    def mark_scan(self, scan: Scan) -> list[Part]:
        return self.mark_nodules(scan, scan.nodules)

    def mark_nodules(self, scan: Scan, nodules: Iterable[CandidateInfoTuple]) -> list[Part]:
        return [self.mark_nodule(scan, nodule) for nodule in nodules]

    def mark_seen(self, scan: Scan) -> list[Part]:
        return scan.parts

    def mark_nodule(self, scan: Scan, nodule: CandidateInfoTuple) -> Part:
        box = grow_box(scan, scan.locate(nodule.center_xyz), self.threshold_hu)
        hu = scan.hu  # not the scan, which holds its parts: the two would keep each other, and a map of the file
        return Part(box, lambda window: hu[window] > self.threshold_hu)


BOOK_RULE = BoxRule()


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

    def mark_scan(self, scan: Scan) -> list[Part]:
        return self.mark_nodules(scan, scan.nodules)

    def mark_nodules(self, scan: Scan, nodules: Iterable[CandidateInfoTuple]) -> list[Part]:
        return [self.mark_nodule(scan, nodule) for nodule in nodules]

    def mark_seen(self, scan: Scan) -> list[Part]:
        return scan.parts

    def mark_nodule(self, scan: Scan, nodule: CandidateInfoTuple) -> Part:
        center_irc = scan.locate(nodule.center_xyz)
        vx_size_irc = scan.header.vx_size_xyz[::-1]
        threshold_hu = self.find_threshold(scan, nodule)
        box = find_box(scan, nodule, threshold_hu)
        tissue = BoxMask(box, self.find_tissue(scan, nodule, box, threshold_hu))
        whole = find_nearest(split_components(tissue, fully_connected=False), center_irc, vx_size_irc)
        if whole is None:
            return as_part(tissue)
        whole = widen(whole, box)
        opened = BoxMask(box, open_by_cross(whole.mask, opening_radii(vx_size_irc)))
        core = find_nearest(split_components(opened, fully_connected=False), center_irc, vx_size_irc)
        # What is left may be of a wall that the nodule touches.
        if core is None or np.abs(offsets(core, center_irc)).max(axis=1).min() > CENTER_REACH:
            return as_part(whole)
        return as_part(BoxMask(box, grow_by_cross(widen(core, box).mask, opening_radii(vx_size_irc)) & whole.mask))

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


@dataclass(frozen=True)
class LidcRule:
    """What at least half of LIDC-IDRI's readers outlined, whether or not it is among the annotations.

    A nodule's own part is the connected piece nearest to its center, if one comes within its radius and a voxel. An
    annotated nodule without one, because its readers agree on no voxel, is marked by the refined rule: it is nodule all
    the same, and without a mask training would take it for none.
    """

    xml_path: Path

    def key(self, nodules: Sequence[CandidateInfoTuple]) -> tuple[None, list[Any]]:
        return None, ["lidc", file_signature(self.xml_path), *REFINED_RULE.key(nodules)]

    def mark_scan(self, scan: Scan) -> list[Part]:
        components = mark_consensus(self.xml_path, scan.header)
        without_piece = [nodule for nodule in scan.nodules if find_piece(components, scan, nodule) is None]
        return [*map(as_part, components), *REFINED_RULE.mark_nodules(scan, without_piece)]

    def mark_nodules(self, scan: Scan, nodules: Iterable[CandidateInfoTuple]) -> list[Part]:
        components = [BoxMask(part.box, part.mark(part.box)) for part in scan.parts]  # the file is read once
        marked = [component for component in components if component.mask.any()]
        pieces = [(nodule, find_piece(marked, scan, nodule)) for nodule in nodules]
        return [REFINED_RULE.mark_nodule(scan, nodule) if piece is None else as_part(piece) for nodule, piece in pieces]

    def mark_seen(self, scan: Scan) -> list[Part]:
        """Mark all that single readers outlined as well: LUNA16 excludes it from both nodules and others."""
        return [*scan.parts, *map(as_part, mark_seen(self.xml_path, scan.header))]


def find_piece(components: Iterable[BoxMask], scan: Scan, nodule: CandidateInfoTuple) -> BoxMask | None:
    center_irc, vx_size_irc = scan.locate(nodule.center_xyz), scan.header.vx_size_xyz[::-1]
    nearest = find_nearest(components, center_irc, vx_size_irc)
    reach_mm = nodule.diameter_mm / 2 + vx_size_irc.max()
    is_near = nearest is not None and distance_mm(nearest, center_irc, vx_size_irc) <= reach_mm
    return nearest if is_near else None


class Labels:
    """Which rule marks which scan.

    Args:
        options: what the user has chosen.
        series_list: the scans' UIDs.
    Attributes: `series_list`, those that are labelled; `notes`, lines to be said to the user.
    Raises: InputError if the readers' files cannot be used, or no scan is left.
    """

    def __init__(self, options: LabelOptions, series_list: Sequence[str]) -> None:
        self.series_list = list(series_list)
        self.notes: list[str] = []
        self._rules: dict[str, LabelRule] = {}  # of those scans that have one of their own
        self._default_rule: LabelRule = BoxRule(pick(options.threshold_hu, MASK_THRESHOLD_HU))
        if options.kind == "refined":
            self._default_rule = RefinedRule(pick(options.threshold_hu, REFINED_THRESHOLD_HU))
        if options.lidc_xml is not None:
            self._find_readings(options.lidc_xml, options.missing_xml == "leave-out")

    def rule_of(self, series_uid: str) -> LabelRule:
        return self._rules.get(series_uid, self._default_rule)

    def _find_readings(self, folder: Path, leave_out: bool) -> None:
        found, unreadable = find_readings(folder)
        self.notes += [f"Not used: {line}" for line in unreadable]
        self._rules = {
            series_uid: LidcRule(found[series_uid]) for series_uid in self.series_list if series_uid in found
        }
        missing_count = len(self.series_list) - len(self._rules)
        if leave_out:
            self.series_list = list(self._rules)
        if not self.series_list:
            raise InputError(f"{folder}: no XML file of any of the {missing_count} scans; correct --lidc-xml")
        self.notes.append(
            f"Labels: readers' contours of {len(self._rules)} scans; {missing_count} without XML "
            f"{'are left out' if leave_out else 'are marked with the box'}."
        )


def pick(value: int | None, default: int) -> int:
    return default if value is None else value


def as_part(component: BoxMask) -> Part:
    return Part(component.box, lambda window: component.mask[inside(window, component.box)])


def grow_box(scan: Scan, center_irc: IrcTuple, threshold_hu: float) -> Box:
    center = np.array(center_irc)
    radii = np.array([find_radius(scan, center_irc, axis, threshold_hu) for axis in range(3)])
    return make_box(np.maximum(center - radii, 0), np.minimum(center + radii + 1, scan.header.shape_irc))


def find_box(scan: Scan, nodule: CandidateInfoTuple, threshold_hu: float) -> Box:
    """The book's box, but along each axis at least the annotated radius and at most a voxel beyond it.

    In a hollow nodule, or beside a denser vessel, the book's box stays smaller than the nodule.
    """
    center_irc, voxel_mm = scan.locate(nodule.center_xyz), float(scan.header.vx_size_xyz.max())
    radius_mm = nodule.diameter_mm / 2
    largest = box_around(scan, center_irc, radius_mm + voxel_mm)
    grown = enclose([grow_box(scan, center_irc, threshold_hu), box_around(scan, center_irc, radius_mm)])
    return make_box(np.maximum(starts_of(largest), starts_of(grown)), np.minimum(stops_of(largest), stops_of(grown)))


def box_around(scan: Scan, center_irc: IrcTuple, reach_mm: float) -> Box:
    """The box in the scan that holds every voxel within a distance of the center."""
    center, reach = np.array(center_irc), np.ceil(reach_mm / scan.header.vx_size_xyz[::-1]).astype(int)
    return make_box(np.maximum(center - reach, 0), np.minimum(center + reach + 1, scan.header.shape_irc))


def find_radius(scan: Scan, center_irc: IrcTuple, axis: int, threshold_hu: float) -> int:
    """How far the two ends go out from the centre along one axis until one meets lung, or both the border.

    An end that comes to the scan's border stays there while the other one goes on, so that a nodule at the border is
    marked whole. Voxels are looked up one by one: a line through all slices would touch a page of the file in each.
    """
    center, last = center_irc[axis], scan.header.shape_irc[axis] - 1
    low, high = list(center_irc), list(center_irc)
    radius = FIRST_RADIUS
    while center - radius > 0 or center + radius < last:
        low[axis], high[axis] = max(center - radius, 0), min(center + radius, last)
        if scan.hu[tuple(low)] <= threshold_hu or scan.hu[tuple(high)] <= threshold_hu:
            break
        radius += 1
    return radius


def opening_radii(vx_size_irc: NDArray[np.float64]) -> list[int]:
    """Voxels along each axis: 1, but none where they are thick."""
    return [int(size < THICK_VOXEL_MM) for size in vx_size_irc.tolist()]


def find_wall(scan: Scan, box: Box, radius_mm: float, threshold_hu: float) -> NDArray[np.bool_]:
    """Which voxels of a box are part of tissue so thick that a ball of this radius fits into it."""
    vx_size_irc = scan.header.vx_size_xyz[::-1]
    margin = np.ceil(2 * radius_mm / vx_size_irc).astype(int)  # all of every ball that reaches into the box
    around = make_box(np.maximum(starts_of(box) - margin, 0), np.minimum(stops_of(box) + margin, scan.header.shape_irc))
    return open_by_ball(scan.hu[around] > threshold_hu, radius_mm, vx_size_irc)[inside(box, around)]


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
