"""The scans that a command is given: files, folders, DICOM series and archives."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from p2ch13.config import PredictOptions
from p2ch13.data.layouts import find_layout, has_images
from p2ch13.detection.folders import is_own_folder
from p2ch13.util.errors import InputError, one_line
from p2ch13.volumes.dicom.archive import open_archive
from p2ch13.volumes.dicom.search import Search, choose_largest, find_series, holds_series
from p2ch13.volumes.dicom.series import Series
from p2ch13.volumes.files import SCAN_SUFFIXES, list_scan_files, scan_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanInput:
    """A scan to search."""

    path: Path  # its file, or the folder of its DICOM series
    name: str  # the stem of its output files: the file's name without suffix, or the series UID
    series_uid: str | None = None  # of a DICOM series, or a data folder's name of the scan; None: by the file's name
    series: Series | None = None  # its DICOM series
    given: Path | None = None  # the argument that it was found by

    @property
    def source(self) -> Path | Series:
        """What to read it from."""
        return self.series or self.path


def collect_inputs(options: PredictOptions) -> tuple[list[ScanInput], list[InputError]]:
    """Find the scans of the arguments; return an error for each argument or scan that cannot be used.

    Of scans with the same name, the first is used: others would overwrite its files.
    """
    first: dict[str, ScanInput] = {}  # by name
    errors = []
    output = options.output and options.output.resolve()
    for path in options.scans:
        if path.is_dir() and path.resolve() == output:
            raise InputError("also the --output, and masks would be read as scans; choose another", path=path)
        if path.suffix == ".state":
            raise InputError("a checkpoint among the scans; give each one its own --checkpoint", path=path)
        try:
            found = find_inputs(path, options.series_uid)
        except InputError as error:
            errors.append(error)
            continue
        for scan in found:
            if scan.path.resolve() == output or is_own_folder(scan.path):  # DICOM segmentations of an earlier run
                continue
            other = first.setdefault(scan.name, scan)
            if other is not scan:
                message = f"the same name as {other.path}; rename it, or use another --output"
                errors.append(InputError(message, path=scan.path))
    return list(first.values()), errors


def find_inputs(path: Path, series_uid: str | None = None) -> list[ScanInput]:
    """Find the scan of a file, or all scans of a folder: those of a data folder, and DICOM series at any depth.

    Args: path: a file, one of a DICOM series for all of it, a folder or a zip archive; series_uid: see `choose_dicom`.
    Raises: InputError if there is no scan.
    """
    if not path.exists():
        raise InputError("no such file or folder", path=path)
    if path.is_file() and not holds_series(path):
        return [ScanInput(path, scan_name(path), given=path)]
    found = find_series(path)
    inputs = [*find_files(path), *choose_dicom(found, series_uid)]
    if not inputs:
        raise found.nothing(f"series {series_uid}" if series_uid else f"scan ({', '.join(SCAN_SUFFIXES)}, DICOM)")
    return [replace(each, given=path) for each in inputs]


def find_files(folder: Path) -> list[ScanInput]:
    """List the scans of a folder or zip archive that are files, of a data folder those without its masks."""
    folder = open_archive(folder)
    if not folder.is_dir():
        return []
    files = list_scan_files(folder)
    if not files and has_images(folder):
        return [ScanInput(file, case, case) for case, file in find_layout(folder).scans.items()]
    return [ScanInput(file, scan_name(file)) for file in files]


def choose_dicom(found: Search, series_uid: str | None = None) -> list[ScanInput]:
    """Choose the DICOM series to search.

    Args: series_uid: this one; None: of each study the largest original series of those that share a folder.
    """
    found.report_left_out()
    if series_uid is None:
        chosen = [choose_largest(group) for group in found.alternatives()]
    else:
        chosen = [each for each in found.series if each.name == series_uid]
    return [ScanInput(each.folder, each.name, each.name, each) for each in chosen]


def report_skipped(error: InputError, total: int) -> None:
    """The error of a single scan ends the command instead."""
    if total > 1:
        log.warning(f"Skipped: {one_line(error)}")
