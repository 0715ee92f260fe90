"""Contours of LIDC-IDRI's readers from XML files, one for each scan.

TCIA has them in "LIDC-XML-only.zip" or beside the DICOM files. A file holds a `readingSession` for each of up to four
readers; a reader's `unblindedReadNodule` has a `roi` for each contour in a slice, whose `edgeMap`s are the contour's
pixels. `nonNodule`s are ignored, and a nodule under 3 mm is a single point, which encloses nothing.

Source: "LIDC XML file documentation" in TCIA's wiki.
"""

from __future__ import annotations

import filecmp
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from p2ch13.labels.lidc import Contour, Reading, Readings, ReadingSource, make_contour
from p2ch13.util.errors import InputError, errors_naming
from p2ch13.volumes.files import file_signature

CT_ROOT, X_RAY_ROOT = "LidcReadMessage", "IdriReadMessage"
HEAD_BYTES = 2**14  # a DOCTYPE comes first


@dataclass(frozen=True)
class XmlFile(ReadingSource):
    """The contours of a scan's XML file."""

    path: Path

    def read(self) -> Readings:
        readings = read_readings(self.path)
        return Readings(readings, len(readings))

    def key(self) -> list[Any]:
        return [file_signature(self.path)]

    def describe(self) -> list[Any]:
        with errors_naming(self.path):
            return [zlib.crc32(self.path.read_bytes())]


def find_readings(folder: Path) -> tuple[dict[str, XmlFile], list[str]]:
    """Find XML files of CT scans at any depth of a folder; those of chest radiographs are ignored.

    Returns: series UID -> file, and the error of each file that cannot be read.
    Raises: InputError if the folder is missing, has no XML file of a CT scan, or two different ones of one scan.
    """
    if not folder.is_dir():
        raise InputError("no such folder; unpack LIDC-IDRI's XML files there", path=folder, option="--lidc-xml")
    found: dict[str, XmlFile] = {}
    unreadable: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() != ".xml" or path.name.startswith("."):
            continue
        try:
            series_uid = read_series_uid(path)
        except InputError as error:
            unreadable.append(str(error))
            continue
        if series_uid is None:
            continue
        if series_uid in found and not filecmp.cmp(path, found[series_uid].path, shallow=False):
            other = found[series_uid].path
            raise InputError(f"same series as {other}, other contours; remove one of them", path=path)
        found.setdefault(series_uid, XmlFile(path))
    if not found:
        raise InputError("no XML file of LIDC-IDRI's CT scans; correct --lidc-xml", path=folder, option="--lidc-xml")
    return found, unreadable


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
    if inclusion not in ("TRUE", "FALSE"):
        raise ValueError(f"a roi with inclusion {inclusion}")
    return make_contour(z_mm, inclusion == "TRUE", points)


def text_of(element: ET.Element, tag: str) -> str:
    text = element.findtext(f"{{*}}{tag}")
    if not text or not text.strip():
        raise ValueError(f"an element without {tag}")
    return text.strip()


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
