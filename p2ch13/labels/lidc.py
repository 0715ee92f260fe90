"""Contours that LIDC-IDRI's readers drew, and the consensus of at least half of them.

TCIA has an XML file for each scan, in "LIDC-XML-only.zip" or beside the DICOM files. It holds a `readingSession` for
each of up to four readers; a reader's `unblindedReadNodule` has a `roi` for each contour in a slice, whose `edgeMap`s
are the contour's pixels. `nonNodule`s are ignored, and a nodule under 3 mm is a single point, which encloses nothing.

Source: Armato et al., The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI), Medical
Physics 38 (2011), and "LIDC XML file documentation" in TCIA's wiki.
"""

from __future__ import annotations

import filecmp
import logging
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2ch13.util.boxes import BoxMask, inside, intersect, make_box, merge_touching, shape_of, split_components
from p2ch13.util.errors import InputError
from p2ch13.volumes.headers import ORIGIN_LIMIT_MM, ScanHeader

log = logging.getLogger(__name__)

CT_ROOT, X_RAY_ROOT = "LidcReadMessage", "IdriReadMessage"
HEAD_BYTES = 2**14  # a DOCTYPE comes first
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


def find_readings(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Find XML files of CT scans at any depth of a folder; those of chest radiographs are ignored.

    Returns: series UID -> file, and the error of each file that cannot be read.
    Raises: InputError if the folder is missing, has no XML file of a CT scan, or two different ones of one scan.
    """
    if not folder.is_dir():
        raise InputError("no such folder; unpack LIDC-IDRI's XML files there", path=folder, option="--lidc-xml")
    found: dict[str, Path] = {}
    unreadable: list[str] = []
    for path in sorted(folder.rglob("[!.]*.xml")):
        try:
            series_uid = read_series_uid(path)
        except InputError as error:
            unreadable.append(str(error))
            continue
        if series_uid is None:
            continue
        if series_uid in found and not filecmp.cmp(path, found[series_uid], shallow=False):
            raise InputError(f"same series as {found[series_uid]}, other contours; remove one of them", path=path)
        found.setdefault(series_uid, path)
    if not found:
        raise InputError("no XML file of LIDC-IDRI's CT scans; correct --lidc-xml", path=folder, option="--lidc-xml")
    return found, unreadable


def mark_consensus(path: Path, header: ScanHeader) -> list[BoxMask]:
    """Mark the consensus, voxels inside the contours of at least half of the readers, by 26-connected component.

    Contours beyond the first and last slice are skipped with a warning, for scans that are cut to a part.
    Raises: InputError if the file cannot be read or belongs to another scan.
    """
    readings = read_readings(path)
    placed = place_readings(readings, header, path)
    contour_count = count_contours(readings)
    if skipped_count := contour_count - count_contours(placed):
        log.warning(f"{path}: {skipped_count} of {contour_count} contours lie outside the scan's slices.")
    masks = [[fill_nodule(nodule) for nodule in reading] for reading in placed]
    return vote(masks, least_votes=(len(masks) + 1) // 2)


def mark_seen(path: Path, header: ScanHeader) -> list[BoxMask]:
    """Mark what any reader took for nodule, including contours, and so the points of nodules under 3 mm.

    Raises: see `mark_consensus`.
    """
    placed = place_readings(read_readings(path), header, path)
    return vote([[fill_nodule(nodule, with_contours=True) for nodule in reading] for reading in placed], least_votes=1)


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

    DICOM images are axial and never mirrored. LUNA16's scans with direction (-1, -1, 1) have it in DICOM as well: ITK
    keeps the order of voxels and records where they are. If a single axis is reversed, a converter has reordered the
    voxels (NIfTI converters do so with rows).
    """
    across, along = np.sign(header.direction[0, 0]), np.sign(header.direction[2, 2])
    if not np.allclose(header.direction, np.diag([across, across, along]), atol=COSINE_TOLERANCE):
        raise InputError(
            f"its direction {header.direction.round(3).tolist()} shows that its rows and columns are not those of the "
            "readers' DICOM images; use LUNA16's scan, or --labels box",
            path=header.path,
            option="--labels",
        )


def place_readings(readings: Sequence[Reading], header: ScanHeader, path: Path) -> list[list[PlacedNodule]]:
    """Assign each reader's contours to the scan's slices; skip nodules without any.

    Raises: InputError if the file belongs to another scan.
    """
    check_axes(header)
    placed = [[place(nodule, header, path) for nodule in reading] for reading in readings]
    if count_contours(readings) and not count_contours(placed):
        raise InputError(f"no contour is in a slice of {header.path}; remove the wrong file", path=path)
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
            f"slice of {header.path.name}: it was drawn in another scan; remove the wrong file",
            path=path,
        )
    if (contour.points < 0).any() or (contour.points >= (rows, cols)).any():
        raise InputError(
            f"a contour at z {contour.z_mm} mm exceeds the {rows} rows and {cols} columns of {header.path.name}; "
            "remove the wrong file",
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


# The files


def read_series_uid(path: Path) -> str | None:
    """Read the series UID from the head of an XML file; None for a radiograph.

    Raises: InputError if this is no XML file of LIDC-IDRI.
    """
    root = series_uid = ""
    with open_xml(path) as file:
        for event, element in ET.iterparse(file, ("start", "end")):
            name = element.tag.rpartition("}")[2]
            root = root or name
            if event == "end" and name.lower() == "seriesinstanceuid":
                series_uid = (element.text or "").strip()
            if root != CT_ROOT or series_uid:
                break
    if root == X_RAY_ROOT:
        return None
    if not series_uid:
        raise InputError(f"no {CT_ROOT} with a SeriesInstanceUid; not an XML file of LIDC-IDRI's CT scans", path=path)
    return series_uid


def read_readings(path: Path) -> list[Reading]:
    """Read all contours by reader and nodule. Raises: InputError if they are invalid."""
    with open_xml(path) as file:
        readings = [
            [
                [read_contour(roi) for roi in nodule.iterfind("{*}roi")]
                for nodule in session.iterfind("{*}unblindedReadNodule")
            ]
            for session in ET.parse(file).iterfind("{*}readingSession")
        ]
    if not readings:
        raise InputError("no readingSession; download it again", path=path)
    return readings


def read_contour(roi: ET.Element) -> Contour:
    """Raises: ValueError if something is missing or not a number, OverflowError if it is too large for a pixel."""
    points = [(int(text_of(edge, "yCoord")), int(text_of(edge, "xCoord"))) for edge in roi.iterfind("{*}edgeMap")]
    z_mm = float(text_of(roi, "imageZposition"))
    inclusion = text_of(roi, "inclusion").upper()
    if not abs(z_mm) <= ORIGIN_LIMIT_MM or inclusion not in ("TRUE", "FALSE") or not points:
        raise ValueError(f"a roi with z {z_mm}, inclusion {inclusion} and {len(points)} points")
    return Contour(z_mm, inclusion == "TRUE", np.array(points, dtype=np.int64))


def text_of(element: ET.Element, tag: str) -> str:
    text = element.findtext(f"{{*}}{tag}", "").strip()
    if not text:
        raise ValueError(f"an element without {tag}")
    return text


@contextmanager
def open_xml(path: Path) -> Iterator[BinaryIO]:
    """Open an XML file and name it in the errors of its parsing.

    A DOCTYPE, which LIDC-IDRI's files do not have, is refused: it could define entities. expat itself reads no external
    entity and limits the growth of internal ones.
    """
    try:
        with path.open("rb") as file:
            if b"<!DOCTYPE" in file.read(HEAD_BYTES).replace(b"\0", b""):  # in UTF-16 as well
                raise ValueError("it has a DOCTYPE")
            file.seek(0)
            yield file
    except (ET.ParseError, ValueError, LookupError, OverflowError) as error:  # LookupError: an unknown encoding
        raise InputError(f"invalid XML ({error}); download it again", path=path) from None
