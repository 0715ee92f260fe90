"""The book's nodule mask: a box grown around the center, thresholded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2ch13.config import MASK_THRESHOLD_HU
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.regions import LabelRule, MaskRegion, Scan
from p2ch13.util.boxes import Box, box_of, pad_box
from p2ch13.util.coordinates import IrcTuple

FIRST_RADIUS = 2  # voxels; a box starts with it, as in the book


@dataclass(frozen=True)
class BoxRule(LabelRule):
    """The book's rule: grow a box from the center until it meets lung; mark what is denser than lung in it.

    Source: the book, 13.5.3.
    """

    threshold_hu: float = MASK_THRESHOLD_HU

    def key(self, nodules: Sequence[CandidateInfoTuple]) -> tuple[float, list[Any]]:
        return self.threshold_hu, []

    def mark_nodule(self, scan: Scan, nodule: CandidateInfoTuple) -> MaskRegion:
        box = grow_box(scan, scan.locate(nodule.center_xyz), self.threshold_hu)
        hu = scan.hu  # not the scan: it holds its regions, and the cycle would keep the memory map open
        return MaskRegion(box, lambda window: hu[window] > self.threshold_hu)


BOOK_RULE = BoxRule()


def grow_box(scan: Scan, center_irc: IrcTuple, threshold_hu: float) -> Box:
    radii = [find_radius(scan, center_irc, axis, threshold_hu) for axis in range(3)]
    return pad_box(box_of(center_irc), radii, scan.shape_irc)


def find_radius(scan: Scan, center_irc: IrcTuple, axis: int, threshold_hu: float) -> int:
    """Find the distance from the center along one axis at which an end meets lung, or both ends the scan's border.

    An end at the border stays there while the other goes on, so that a nodule at the border is marked completely.
    Voxels are read one by one: a line through all slices would read a page of the file in each.
    """
    center, last = center_irc[axis], scan.shape_irc[axis] - 1
    low, high = list(center_irc), list(center_irc)
    radius = FIRST_RADIUS
    while center - radius > 0 or center + radius < last:
        low[axis], high[axis] = max(center - radius, 0), min(center + radius, last)
        if scan.hu[tuple(low)] <= threshold_hu or scan.hu[tuple(high)] <= threshold_hu:
            break
        radius += 1
    return radius
