"""Contours that LIDC-IDRI's readers drew, and the consensus of at least half of them.

They come from XML files (`lidc_xml`) or a database of all scans (`lidc_database`).

Source: Armato et al., The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI), Medical
Physics 38 (2011).
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2ch13.util.boxes import (
    BoxMask,
    enclose,
    inside,
    intersect,
    make_box,
    merge_touching,
    shape_of,
    split_components,
    widen,
)
from p2ch13.util.errors import InputError
from p2ch13.volumes.formats import NIFTI_SUFFIXES, find_suffix
from p2ch13.volumes.headers import ORIGIN_LIMIT_MM, ScanHeader

log = logging.getLogger(__name__)

COSINE_TOLERANCE = 0.01  # of a direction along an axis
SLICE_TOLERANCE = 0.1  # slices between a contour's z and that of its slice: both are rounded, to 0.01 mm or less


class Contour(NamedTuple):
    """A closed chain of pixels in one slice."""

    z_mm: float  # patient coordinates
    is_inclusion: bool  # False: the pixels inside are not nodule
    points: NDArray[np.int64]  # (point, 2): row, col in the DICOM image


Nodule = list[Contour]
Reading = list[Nodule]  # of one reader
PlacedNodule = list[tuple[int, Contour]]  # with the index of each contour's slice


def make_contour(z_mm: float, is_inclusion: bool, points: Sequence[tuple[int, int]]) -> Contour:
    """Make a contour of points (row, col).

    Raises: ValueError if z is no position or there is no point, OverflowError if a number is too large for a pixel.
    """
    if not abs(z_mm) <= ORIGIN_LIMIT_MM or not points:
        raise ValueError(f"a contour with z {z_mm} and {len(points)} points")
    return Contour(z_mm, is_inclusion, np.array(points, dtype=np.int64))


class Readings(NamedTuple):
    """The readings of a scan."""

    readings: list[Reading]
    reader_count: int  # with those who outlined nothing


class ReadingSource(ABC):
    """A file that holds a scan's readings. Methods raise InputError, naming it, if it cannot be used."""

    path: Path

    @abstractmethod
    def read(self) -> Readings:
        """Read all contours by reader and nodule."""

    @abstractmethod
    def key(self) -> list[Any]:
        """Return what tells these readings from others in the cache's keys, without reading them."""

    @abstractmethod
    def describe(self) -> list[Any]:
        """Return what tells these readings from others by their content, wherever and whenever they were written."""


def mark_consensus(source: ReadingSource, header: ScanHeader) -> list[BoxMask]:
    """Mark the consensus, voxels inside the contours of at least half of the readers, by 26-connected component.

    Contours beyond the first and last slice are skipped with a warning, for scans that are cut to a part.
    Raises: InputError if the file cannot be read or its contours are those of another scan.
    """
    readings, reader_count = source.read()
    placed = place_readings(readings, header, source.path)
    contour_count = count_contours(readings)
    if skipped_count := contour_count - count_contours(placed):
        log.warning(
            f"{source.path}: {skipped_count} of {contour_count} contours lie outside the slices of {header.path.name}."
        )
    masks = [[fill_nodule(nodule) for nodule in reading] for reading in placed]
    return vote(masks, least_votes=(reader_count + 1) // 2)


def mark_seen(source: ReadingSource, header: ScanHeader) -> list[BoxMask]:
    """Mark what any reader took for nodule, including contours, and so the points of nodules under 3 mm.

    Raises: see `mark_consensus`.
    """
    placed = place_readings(source.read().readings, header, source.path)
    return vote([[fill_nodule(nodule, with_contours=True) for nodule in reading] for reading in placed], least_votes=1)


def mark_readings(source: ReadingSource, header: ScanHeader) -> list[list[BoxMask]]:
    """Mark each reader's nodules. Raises: see `mark_consensus`."""
    placed = place_readings(source.read().readings, header, source.path)
    return [[fill_nodule(nodule) for nodule in reading] for reading in placed]


def find_outlined(nodule: BoxMask, readings: Iterable[Sequence[BoxMask]]) -> list[BoxMask]:
    """Unite, for each reader who outlined any voxel of a nodule, the outlined nodules that overlap it.

    Returns: a mask for each of these readers, all in the same box.
    """
    overlapping = [[part for part in reading if overlap(part, nodule)] for reading in readings]
    outlined = [parts for parts in overlapping if parts]
    if not outlined:
        return []
    box = enclose([part.box for part in chain(*outlined)])
    return [BoxMask(box, np.any([widen(part, box).mask for part in parts], axis=0)) for parts in outlined]


def overlap(one: BoxMask, other: BoxMask) -> bool:
    common = intersect(one.box, other.box)
    if common is None:
        return False
    return bool((one.mask[inside(common, one.box)] & other.mask[inside(common, other.box)]).any())


def vote(readings: Sequence[Sequence[BoxMask]], least_votes: int) -> list[BoxMask]:
    """Mark the voxels that at least `least_votes` readers marked, by 26-connected component."""
    components: list[BoxMask] = []
    # Nodules are far apart: one array for all would be as large as the scan.
    for box in merge_touching(nodule.box for nodule in chain(*readings)):
        votes = np.zeros(shape_of(box), dtype=np.uint8)
        for reading in readings:
            marked = np.zeros(shape_of(box), dtype=bool)
            for nodule in reading:
                if intersect(nodule.box, box):
                    marked[inside(nodule.box, box)] |= nodule.mask
            votes += marked
        components += split_components(BoxMask(box, votes >= least_votes), fully_connected=True)
    return components


# From contours to voxels


def check_axes(header: ScanHeader) -> None:
    """Check that a scan's rows and columns are those of its DICOM images, to which contours refer.

    DICOM images are axial and never mirrored. Some, and so LUNA16's MetaImage files of them, have direction
    (-1, -1, 1): ITK keeps the order of voxels and records where they are. In a NIfTI file this direction is RAS+, the
    order that many programs bring voxels to. If a single axis is reversed, a converter has reordered the voxels (NIfTI
    converters do so with rows).
    Raises: InputError, naming the scan.
    """
    across, along = np.sign(header.direction[0, 0]), np.sign(header.direction[2, 2])
    is_axial = np.allclose(header.direction, np.diag([across, across, along]), atol=COSINE_TOLERANCE)
    if not is_axial or (across < 0 and find_suffix(header.path).lower() in NIFTI_SUFFIXES):
        raise InputError(
            f"its direction {header.direction.round(3).tolist()} shows that its rows and columns are not those of the "
            "readers' DICOM images; use LUNA16's scan, or --labels box",
            path=header.path,
            option="--labels",
        )


def place_readings(readings: Sequence[Reading], header: ScanHeader, path: Path) -> list[list[PlacedNodule]]:
    """Assign each reader's contours to the scan's slices; skip nodules without any.

    Raises: InputError if the contours are those of another scan.
    """
    check_axes(header)
    placed = [[place(nodule, header, path) for nodule in reading] for reading in readings]
    if count_contours(readings) and not count_contours(placed):
        raise InputError(f"no contour is in a slice of {header.path}; use a scan and contours of one series", path=path)
    return [[nodule for nodule in reading if nodule] for reading in placed]


def count_contours(readings: Sequence[Sequence[Sequence[Any]]]) -> int:
    return sum(len(nodule) for nodule in chain(*readings))


def place(nodule: Nodule, header: ScanHeader, path: Path) -> PlacedNodule:
    """Assign a nodule's contours to slices by z; skip those beyond the scan's ends."""
    placed = [(find_slice(contour, header, path), contour) for contour in nodule]
    return [(slice_ndx, contour) for slice_ndx, contour in placed if slice_ndx is not None]


def find_slice(contour: Contour, header: ScanHeader, path: Path) -> int | None:
    """Find the slice of a contour; None beyond the scan's ends.

    Raises: InputError if the contour lies between two slices, or exceeds their rows and columns.
    """
    slice_count, rows, cols = header.shape_irc
    step_mm = header.vx_size_xyz[2] * header.direction[2, 2]
    position = float((contour.z_mm - header.origin_xyz[2]) / step_mm)
    slice_ndx = round(position)
    if not 0 <= slice_ndx < slice_count:
        return None
    if abs(position - slice_ndx) > SLICE_TOLERANCE:
        raise InputError(
            f"a contour at z {contour.z_mm} mm is {abs((position - slice_ndx) * step_mm):.2f} mm from the nearest "
            f"slice of {header.path.name}: it was drawn in another scan; use a scan and contours of one series",
            path=path,
        )
    if (contour.points < 0).any() or (contour.points >= (rows, cols)).any():
        raise InputError(
            f"a contour at z {contour.z_mm} mm exceeds the {rows} rows and {cols} columns of {header.path.name}; "
            "use a scan and contours of one series",
            path=path,
        )
    return slice_ndx


def fill_nodule(nodule: PlacedNodule, with_contours: bool = False) -> BoxMask:
    """Mark the interior of inclusions, except exclusions and their contours.

    Contours are not part of the nodule: readers drew them on the first pixels outside (Armato et al. 2011, "outer
    borders"). pylidc excludes them as well, those of exclusions included.
    """
    voxels = np.concatenate([np.insert(contour.points, 0, slice_ndx, axis=1) for slice_ndx, contour in nodule])
    box = make_box(voxels.min(axis=0), voxels.max(axis=0) + 1)
    index, rows, cols = box
    mask = np.zeros(shape_of(box), dtype=bool)
    for slice_ndx, contour in sorted(nodule, key=lambda placed: not placed[1].is_inclusion):
        slice_mask = mask[slice_ndx - index.start]
        interior, edge = fill_polygon(contour.points - (rows.start, cols.start), slice_mask.shape)
        if contour.is_inclusion:
            slice_mask |= interior | edge if with_contours else interior
        else:
            slice_mask &= ~(interior | edge)
    return BoxMask(box, mask)


def fill_polygon(points: NDArray[np.int64], shape: tuple[int, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the pixels with their centers inside a closed polygon, and those with their centers on its edge.

    A pixel is inside if a line from it along its row crosses an odd number of edges. The result is exact: pillow and
    matplotlib include pixels of the edge, on some sides only, and scikit-image differs on 20 of 400 irregular polygons.

    Args:
        points: (point, 2), row and col, whole numbers within `shape`.
        shape: rows and cols of the two returned bool arrays.
    """
    interior, edge = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    cols = np.arange(shape[1])
    for ends in zip(points.tolist(), np.roll(points, -1, axis=0).tolist(), strict=True):
        (row, col), (last_row, last_col) = sorted(ends)
        down, right = last_row - row, last_col - col
        step_count = math.gcd(down, right)  # between pixel centers
        steps = np.arange(step_count + 1)
        edge[row + steps * down // max(step_count, 1), col + steps * right // max(step_count, 1)] = True
        if down:
            # The last row belongs to the next side, so that a corner counts once.
            crossings = col + np.arange(down) * (right / down)
            interior[row:last_row] ^= cols > crossings[:, None]
    return interior & ~edge, edge
