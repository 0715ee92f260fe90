"""Which scans the arguments of a command line name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p2ch13.util.errors import InputError
from p2ch13.volumes.dicom import choose_series, has_dicom_magic, list_series
from p2ch13.volumes.files import SCAN_SUFFIXES, list_scan_files, scan_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanInput:
    """A scan to be read.

    Attributes:
        path: its file, or the folder of its DICOM series.
        name: what its output files are called: the file's name without suffix, or the series UID.
        series_uid: of the series in a folder; None for a file.
    """

    path: Path
    name: str
    series_uid: str | None = None


def find_inputs(path: Path, series_uid: str | None = None) -> list[ScanInput]:
    """The scan that a file is, or all those in a folder: files (LUNA16's subset*/ too), else DICOM series at any depth.

    Args: series_uid: which series of DICOM folders; None takes each one's largest, and says so if there are others.
    Raises: InputError if there is none.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; is it spelt right?")
    if path.is_file():
        if has_dicom_magic(path):
            raise InputError(f"{path}: a single file of a DICOM series; give its folder")
        return [ScanInput(path, scan_name(path))]
    files = list_scan_files(path)
    if files:
        return [ScanInput(file, scan_name(file)) for file in files]
    below = [folder for folder in sorted(path.rglob("*/")) if folder.is_dir() and not folder.name.startswith(".")]
    inputs = [chosen for folder in (path, *below) for chosen in choose_input(folder, series_uid)]
    if not inputs:
        what = f"series {series_uid}" if series_uid else f"scan ({', '.join(SCAN_SUFFIXES)}, DICOM)"
        raise InputError(f"{path}: no {what} in this folder; give one that holds it")
    return inputs


def choose_input(folder: Path, series_uid: str | None) -> Iterator[ScanInput]:
    series = list_series(folder)
    if not series or (series_uid is not None and series_uid not in series):
        return
    chosen, files = choose_series(folder, series_uid)
    if series_uid is None and len(series) > 1:
        log.info(
            f"{folder}: {len(series)} DICOM series; taking the largest, {chosen} with {len(files)} slices. "
            "--series-uid chooses another."
        )
    yield ScanInput(folder, chosen, chosen)


def split_duplicates(inputs: list[ScanInput]) -> tuple[list[ScanInput], list[InputError]]:
    """The inputs whose names are their own, and an error for each that would overwrite another one's files."""
    first: dict[str, ScanInput] = {}
    errors = []
    for scan in inputs:
        if scan.name in first:
            other = first[scan.name].path
            errors.append(InputError(f"{scan.path}: the same name as {other}; rename it, or use another --output"))
        else:
            first[scan.name] = scan
    return list(first.values()), errors
