"""Measures of a finding: axial diameters, volume, density and kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.util.boxes import BoxMask

SOLID_HU = -300.0  # denser voxels are solid
SOLID, PART_SOLID, GROUND_GLASS = KINDS = ("solid", "part-solid", "ground glass")


class Diameter(NamedTuple):
    """A line across a finding in an axial slice."""

    length_mm: float
    ends_rowcol: tuple[tuple[float, float], tuple[float, float]]  # in pixels of the slice, between their centers


class Axes(NamedTuple):
    """The longest diameter of a mask in any axial slice, and the longest one perpendicular to it in that slice."""

    slice_ndx: int  # axial, counted from the feet, from 0
    long: Diameter
    short: Diameter

    @property
    def mean_mm(self) -> float:
        """Not rounded: rounding both before their mean lifts sizes over the borders of categories."""
        return (self.long.length_mm + self.short.length_mm) / 2


@dataclass(frozen=True)
class Measures:
    """What is measured of a finding.

    Attributes:
        axes: of its mask.
        volume_mm3: of its voxels.
        mean_hu: mean HU of its voxels.
        kind: one of `KINDS`.
        solid_axes: of the solid part of a part-solid finding; None for other kinds.
        is_at_pleura: whether it touches the border of the lungs.
    """

    axes: Axes
    volume_mm3: float
    mean_hu: float
    kind: str
    solid_axes: Axes | None
    is_at_pleura: bool


def measure(ct: Ct, part: BoxMask, solid_hu: float = SOLID_HU) -> Measures:
    """Measure the part of a scan that a mask marks."""
    raise NotImplementedError


def measure_findings(ct: Ct, labels: NDArray[np.int32], findings: Sequence[Finding]) -> list[Measures]:
    """Measure each finding of a scan, in their order.

    Args: labels: (index, row, col), the finding's number of each voxel, 0 for none.
    """
    raise NotImplementedError
