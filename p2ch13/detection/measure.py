"""Measures of a finding: axial diameters, volume, density and kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from p2ch13.data.ct import Ct
from p2ch13.detection.contours import find_contours, find_longest, find_longest_across
from p2ch13.detection.findings import Finding, find_largest_fragment
from p2ch13.labels.regions import sphere_volume, volume_mm3
from p2ch13.util.boxes import BoxMask, pad_box, split_components, widen

SOLID_HU = -300.0  # denser voxels are solid
SOLID, PART_SOLID, GROUND_GLASS = KINDS = ("solid", "part-solid", "ground glass")
SOLID_SHARE = 0.75  # of a finding's core; if more of it is solid, the finding is
MIN_SOLID_MM = 3.0  # diameter of the sphere as large as the smallest solid part: smaller ones are vessels and noise
PLEURA_MM = 2.0  # a finding as close to the border of the lungs touches it: the steps of the lung mask
CROSS = ndimage.generate_binary_structure(3, 1)
CROSS_IN_SLICE = CROSS & (np.arange(3) == 1)[:, np.newaxis, np.newaxis]


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
        axes: of its largest fragment.
        volume_mm3: of its voxels.
        mean_hu: mean HU of its voxels.
        kind: one of `KINDS`.
        solid_axes: of the solid part of a part-solid finding; None for other kinds.
        solid_volume_mm3: of the same; NaN for other kinds.
        is_at_pleura: whether it touches the border of the lungs; None where no lungs are found.
    """

    axes: Axes
    volume_mm3: float
    mean_hu: float
    kind: str
    solid_axes: Axes | None
    solid_volume_mm3: float
    is_at_pleura: bool | None


def measure_findings(ct: Ct, labels: NDArray[np.int32], findings: Sequence[Finding]) -> list[Measures]:
    """Measure each finding of a scan, in their order.

    Args: labels: (index, row, col), the finding's number of each voxel, 0 for none.
    """
    if not findings:
        return []
    boxes = ndimage.find_objects(labels)
    parts = [(boxes[finding.number - 1], finding.number) for finding in findings]
    return [measure(ct, BoxMask(box, labels[box] == number), ct.lungs) for box, number in parts]


def measure(ct: Ct, part: BoxMask, lungs: NDArray[np.bool_] | None = None, solid_hu: float = SOLID_HU) -> Measures:
    """Measure the part of a scan that a mask marks, at least one voxel.

    Args: lungs: the scan's, see `Volume.lungs`; solid_hu: border between solid and ground glass.
    """
    hu = ct.hu[part.box]
    kind, solid_part = find_kind(hu, part, ct, solid_hu)
    return Measures(
        axes=find_axes(find_largest_fragment(part), ct.vx_size_xyz),
        volume_mm3=volume_mm3(part, ct),
        mean_hu=float(hu[part.mask].mean(dtype=np.float64)),
        kind=kind,
        solid_axes=solid_part and find_axes(solid_part, ct.vx_size_xyz),
        solid_volume_mm3=volume_mm3(solid_part, ct) if solid_part else math.nan,
        is_at_pleura=None if lungs is None else touches_pleura(part, lungs, ct),
    )


def find_axes(part: BoxMask, vx_size_xyz: NDArray[np.float64]) -> Axes:
    """Find the axes of a mask; of equally long ones those with the longer short axis."""
    pixel_mm = vx_size_xyz[1::-1]
    slices = (
        Axes(part.box[0].start + ndx, *find_diameters(mask, part, pixel_mm))
        for ndx, mask in enumerate(part.mask)
        if mask.any()
    )
    return max(slices, key=lambda axes: (axes.long.length_mm, axes.short.length_mm))


def find_diameters(mask: NDArray[np.bool_], part: BoxMask, pixel_mm: NDArray[np.float64]) -> tuple[Diameter, Diameter]:
    """Find the longest diameter of a mask (row, col) and the longest one perpendicular to it."""
    contours_mm = [contour * pixel_mm for contour in find_contours(mask)]
    long = find_longest(contours_mm)
    first_rowcol = np.array([part.box[1].start, part.box[2].start])

    def as_diameter(line: NDArray[np.float64]) -> Diameter:
        start, end = (line / pixel_mm + first_rowcol).tolist()
        return Diameter(float(np.linalg.norm(line[1] - line[0])), (tuple(start), tuple(end)))

    return as_diameter(long), as_diameter(find_longest_across(contours_mm, long))


def find_kind(hu: NDArray[np.int16], part: BoxMask, ct: Ct, solid_hu: float) -> tuple[str, BoxMask | None]:
    """Tell a finding's kind, and find the solid part of a part-solid one.

    A finding is solid if `SOLID_SHARE` of its core is. The rim is not looked at: there voxels are partly lung.

    Args: hu: (index, row, col) of the part's box.
    """
    is_solid = part.mask & (hu > solid_hu)
    core = find_core(part.mask)
    if np.count_nonzero(is_solid & core) >= SOLID_SHARE * np.count_nonzero(core):
        return SOLID, None
    solid_part = find_solid_part(BoxMask(part.box, is_solid), ct)
    return (GROUND_GLASS, None) if solid_part is None else (PART_SOLID, solid_part)


def find_core(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Erode a mask by a voxel, in slices alone if it is too flat for more; one that is too small stays as it is."""
    for structure in (CROSS, CROSS_IN_SLICE):
        core: NDArray[np.bool_] = ndimage.binary_erosion(mask, structure)
        if core.any():
            return core
    return mask


def find_solid_part(solid: BoxMask, ct: Ct) -> BoxMask | None:
    """Find the largest component of solid voxels, without thin ones such as vessels; None if it is too small."""
    opened = BoxMask(solid.box, ndimage.binary_opening(solid.mask, CROSS_IN_SLICE))
    parts = split_components(opened, fully_connected=True)
    largest = max(parts, key=lambda part: volume_mm3(part, ct), default=None)
    return largest if largest and volume_mm3(largest, ct) >= sphere_volume(MIN_SOLID_MM) else None


def touches_pleura(part: BoxMask, lungs: NDArray[np.bool_], ct: Ct) -> bool:
    """Tell whether a part of a scan comes as close as `PLEURA_MM` to what is no lung."""
    vx_size_irc = ct.vx_size_xyz[::-1]
    reach = np.ceil(PLEURA_MM / vx_size_irc).astype(int)
    around = widen(part, pad_box(part.box, reach, ct.shape_irc))
    is_near = ndimage.distance_transform_edt(~around.mask, sampling=vx_size_irc) <= PLEURA_MM
    return bool((is_near & ~lungs[around.box]).any())
