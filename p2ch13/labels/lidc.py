"""The outlines that the readers of LIDC-IDRI drew, and what at least half of them agree on.

The XML files come with the scans (TCIA's "LIDC-XML-only.zip", or beside the DICOM files), one for each scan. Each has a
`readingSession` for each of up to four readers; a reader's `unblindedReadNodule` has a `roi` for each outline in a
slice, whose `edgeMap`s are the pixels of the outline. `nonNodule`s are not read, and a nodule of less than 3 mm is a
single point, which has nothing inside.

Source: Armato et al., The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI), Medical
Physics 38 (2011), and "LIDC XML file documentation" in TCIA's wiki.
"""

from __future__ import annotations

import filecmp
import logging
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from p2ch13.util.boxes import BoxMask, enclose, inside, intersect, make_box, merge_touching, shape_of, split_components
from p2ch13.util.errors import InputError
from p2ch13.volumes.files import ORIGIN_LIMIT_MM, ScanHeader

log = logging.getLogger(__name__)

CT_ROOT, X_RAY_ROOT = "LidcReadMessage", "IdriReadMessage"
BLOCK_BYTES = 2**14  # a file's head, which names the series, fits into one
STRAIGHT = 0.01  # how far a direction may be from an axis; a cosine
SLICE_TOLERANCE = 0.1  # of a slice, between a contour's z and that of its slice: both are rounded, to 0.01 mm or less


class Contour(NamedTuple):
    """One outline in one slice, as a closed chain of pixels."""

    z_mm: float  # of the slice, patient coordinates
    is_inclusion: bool  # False: what it holds is not nodule
    points: NDArray[np.int64]  # (point, 2): row, col in the DICOM image


Nodule = list[Contour]
Reading = list[Nodule]  # all of one reader's


def find_readings(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Series UID -> XML file for all CT scans, anywhere below a folder; and a line for each file that is no such XML.

    Files about chest radiographs, which lie beside them, are left out without a word.
    Raises: InputError if the folder is missing, has no XML file of a CT scan, or has two that differ for one scan.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; unpack LIDC-IDRI's XML files and name their folder with --lidc-xml"
        )
    found: dict[str, Path] = {}
    unreadable: list[str] = []
    for path in sorted(folder.rglob("*.xml")):
        if path.name.startswith("."):
            continue
        try:
            series_uid = read_series_uid(path)
        except InputError as error:
            unreadable.append(str(error))
            continue
        if series_uid is None:
            continue
        if series_uid in found and not filecmp.cmp(path, found[series_uid], shallow=False):
            raise InputError(f"{path}: the same series as {found[series_uid]}, with other contours; remove one of them")
        found.setdefault(series_uid, path)
    if not found:
        raise InputError(f"{folder}: no XML file of LIDC-IDRI's CT scans in this folder; correct --lidc-xml")
    return found, unreadable


def mark_consensus(path: Path, header: ScanHeader) -> list[BoxMask]:
    """Mark what at least half of a scan's readers outlined: its connected components, over corners too.

    Contours beyond the first and the last slice are left out with a warning, for scans of which only a part is there.
    Raises: InputError, naming the file, if it cannot be read or is not about this scan's slices.
    """
    readings = read_readings(path)
    placed = place_readings(readings, header, path)
    contour_count, placed_count = count_contours(readings), count_contours(placed)
    if placed_count < contour_count:
        log.warning(f"{path}: {contour_count - placed_count} of {contour_count} contours are in no slice of the scan.")
    masks = [[fill_nodule(nodule) for nodule in reading] for reading in placed]
    return vote(masks, least_votes=(len(masks) + 1) // 2)


def mark_seen(path: Path, header: ScanHeader) -> list[BoxMask]:
    """Mark what any reader took for nodule, with the outlines, and so with the points of those under 3 mm.

    Raises: see `mark_consensus`.
    """
    placed = place_readings(read_readings(path), header, path)
    return vote([[fill_nodule(nodule, with_outline=True) for nodule in reading] for reading in placed], least_votes=1)


def vote(readings: Sequence[Sequence[BoxMask]], least_votes: int) -> list[BoxMask]:
    """Mark the voxels that at least `least_votes` readers marked, by connected component.

    Args: readings: for each reader what he marked, which may be nothing.
    """
    components: list[BoxMask] = []
    # Nodules lie far apart: an array for all of them would be as large as the scan.
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


class SliceContour(NamedTuple):
    slice_ndx: int
    is_inclusion: bool
    points: NDArray[np.int64]


def check_axes(header: ScanHeader) -> None:
    """See to it that a scan's rows and columns are those of its DICOM images, which contours count.

    Those are axial, and never mirrored. LUNA16's scans with the direction (-1, -1, 1) are so in DICOM too: ITK takes
    voxels in the order in which DICOM has them and says in the direction where they lie. A scan of which one axis alone
    is turned round was stored in another order by whoever converted it (NIfTI does so with rows).
    """
    across, along = np.sign(header.direction[0, 0]), np.sign(header.direction[2, 2])
    if not np.allclose(header.direction, np.diag([across, across, along]), atol=STRAIGHT):
        raise InputError(
            f"{header.path}: its direction is {header.direction.round(3).tolist()}, so that its rows and columns are "
            "not those of the readers' DICOM images; take LUNA16's scan, or label it with --labels box"
        )


def place_readings(readings: Sequence[Reading], header: ScanHeader, path: Path) -> list[list[list[SliceContour]]]:
    """Put each reader's contours into the scan's slices; nodules that have none there are left out.

    Raises: InputError, naming the file, if it is not about this scan's slices.
    """
    check_axes(header)
    placed = [[place(nodule, header, path) for nodule in reading] for reading in readings]
    if count_contours(readings) and not count_contours(placed):
        raise InputError(f"{path}: none of its contours is in a slice of {header.path}; remove the one that is wrong")
    return [[nodule for nodule in reading if nodule] for reading in placed]


def count_contours(readings: Sequence[Sequence[Sequence[Any]]]) -> int:
    return sum(len(nodule) for nodule in chain(*readings))


def place(nodule: Nodule, header: ScanHeader, path: Path) -> list[SliceContour]:
    """Put a nodule's contours into the slices that their z names; those beyond the scan's ends are left out."""
    _, rows, cols = header.shape_irc
    placed = []
    for contour in nodule:
        slice_ndx = find_slice(contour, header, path)
        if slice_ndx is None:
            continue
        if (contour.points < 0).any() or (contour.points >= (rows, cols)).any():
            raise InputError(
                f"{path}: a contour at z {contour.z_mm} mm is not within {rows} rows and {cols} columns, which is what "
                f"{header.path.name} has; remove the one that is wrong"
            )
        placed.append(SliceContour(slice_ndx, contour.is_inclusion, contour.points))
    return placed


def find_slice(contour: Contour, header: ScanHeader, path: Path) -> int | None:
    """Find the slice of a contour; None beyond the scan's ends. Raises: InputError if it lies between two slices."""
    step_mm = header.vx_size_xyz[2] * header.direction[2, 2]
    position = float((contour.z_mm - header.origin_xyz[2]) / step_mm)
    slice_ndx = round(position)
    if not 0 <= slice_ndx < header.shape_irc[0]:
        return None
    if abs(position - slice_ndx) > SLICE_TOLERANCE:
        raise InputError(
            f"{path}: a contour at z {contour.z_mm} mm is {abs((position - slice_ndx) * step_mm):.2f} mm from the "
            f"nearest slice of {header.path.name}, so that it was drawn in another scan; remove the one that is wrong"
        )
    return slice_ndx


def fill_nodule(contours: Sequence[SliceContour], with_outline: bool = False) -> BoxMask:
    """Mark what lies inside of the inclusions, without exclusions and their outlines.

    An outline is never part of the nodule: readers drew it around the nodule on the first pixels that are not
    (Armato et al. 2011, "outer borders"); pylidc does so too, for exclusions as well.
    """
    box = enclose(
        [make_box([ndx, *points.min(axis=0)], [ndx + 1, *points.max(axis=0) + 1]) for ndx, _, points in contours]
    )
    index, rows, cols = box
    mask = np.zeros(shape_of(box), dtype=bool)
    for contour in sorted(contours, key=lambda contour: not contour.is_inclusion):
        slice_mask = mask[contour.slice_ndx - index.start]
        interior, outline = fill_polygon(contour.points - (rows.start, cols.start), slice_mask.shape)
        if contour.is_inclusion:
            slice_mask |= interior | outline if with_outline else interior
        else:
            slice_mask &= ~(interior | outline)
    return BoxMask(box, mask)


def fill_polygon(points: NDArray[np.int64], shape: tuple[int, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The pixels whose centres are inside of a closed polygon, and those through whose centres its edges go.

    Exact: pillow and matplotlib take some pixels of the edges, and not the same on all sides. A pixel is inside if a
    line from it along its row crosses an odd number of edges.

    Args:
        points: (point, 2), row and col, whole numbers within `shape`.
        shape: rows and cols of the two arrays, bool.
    """
    interior, outline = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    cols = np.arange(shape[1])
    for ends in zip(points.tolist(), np.roll(points, -1, axis=0).tolist(), strict=True):
        (row, col), (last_row, last_col) = sorted(ends)
        down, right = last_row - row, last_col - col
        step_count = math.gcd(down, right)  # from pixel centre to pixel centre
        steps = np.arange(step_count + 1)
        outline[row + steps * down // max(step_count, 1), col + steps * right // max(step_count, 1)] = True
        if down:
            # The last row belongs to the next edge, so that a corner counts once.
            crossings = col + np.arange(down) * (right / down)
            interior[row:last_row] ^= cols > crossings[:, None]
    return interior & ~outline, outline


# The files


def read_series_uid(path: Path) -> str | None:
    """The series that an XML file is about; None if that is a radiograph. Reads the head of the file only.

    Raises: InputError if this is no XML file of LIDC-IDRI.
    """
    head = Head()
    parse(path, head, head.is_known)
    if head.root == X_RAY_ROOT:
        return None
    if head.root != CT_ROOT or not head.series_uid:
        raise InputError(f"{path}: no {CT_ROOT} with a SeriesInstanceUid; this is no XML file of LIDC-IDRI's CT scans")
    return head.series_uid


def read_readings(path: Path) -> list[Reading]:
    """All contours, by reader and nodule. Raises: InputError, naming the file, if they are not as they should be."""
    sessions = parse(path, Tree()).findall("{*}readingSession")
    if not sessions:
        raise InputError(f"{path}: no readingSession in it; download it again")
    try:
        return [
            [
                [read_contour(roi) for roi in nodule.iterfind("{*}roi")]
                for nodule in session.iterfind("{*}unblindedReadNodule")
            ]
            for session in sessions
        ]
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: {error}; download it again") from None


def read_contour(roi: ET.Element) -> Contour:
    """Raises: ValueError if something is missing or no number, OverflowError if it is too large for a pixel."""
    points = [(int(text_of(edge, "yCoord")), int(text_of(edge, "xCoord"))) for edge in roi.iterfind("{*}edgeMap")]
    z_mm = float(text_of(roi, "imageZposition"))
    inclusion = text_of(roi, "inclusion").upper()
    if not abs(z_mm) <= ORIGIN_LIMIT_MM or inclusion not in ("TRUE", "FALSE") or not points:
        raise ValueError(f"a roi with z {z_mm}, inclusion {inclusion} and {len(points)} points")
    return Contour(z_mm, inclusion == "TRUE", np.array(points, dtype=np.int64))


def text_of(element: ET.Element, tag: str) -> str:
    text = element.findtext(f"{{*}}{tag}")
    if not text or not text.strip():
        raise ValueError(f"{local_name(element.tag)} without {tag}")
    return text.strip()


def local_name(tag: str) -> str:
    return tag.rpartition("}")[2]


def parse(path: Path, target: RefusesEntities, is_enough: Callable[[], bool] = lambda: False) -> Any:
    """Feed a file to a target, a block at a time, until that is enough. Returns: what the target makes of all of it.

    Raises: InputError, naming the file, if it is no well-formed XML.
    """
    parser = ET.XMLParser(target=target)
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                parser.feed(block)
                if is_enough():
                    return None
        return parser.close()
    except (ET.ParseError, ValueError, LookupError) as error:  # the last one: an unknown encoding
        raise InputError(f"{path}: cannot be read as XML ({error}); download it again") from None


class RefusesEntities:
    """What a target for `parse` must be: entities, which can grow without end or name other files, need a DOCTYPE."""

    def doctype(self, name: str, public_id: str | None, system_id: str | None) -> NoReturn:
        raise ValueError("a DOCTYPE, which LIDC-IDRI's files do not have")


class Tree(RefusesEntities, ET.TreeBuilder):
    """All elements."""


class Head(RefusesEntities):
    """The name of the root and the first series UID, under either spelling of its tag."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.series_uid = ""
        self._is_in_uid = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.root = self.root or local_name(tag)
        self._is_in_uid = not self.series_uid and local_name(tag).lower() == "seriesinstanceuid"

    def data(self, text: str) -> None:
        if self._is_in_uid:
            self.series_uid += text.strip()

    def end(self, tag: str) -> None:
        self._is_in_uid = False

    def is_known(self) -> bool:
        return (self.root is not None and self.root != CT_ROOT) or (bool(self.series_uid) and not self._is_in_uid)
