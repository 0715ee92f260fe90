"""Find scans on disk, read their headers, and read their voxels when they are used."""

from __future__ import annotations

import mmap
import os
import re
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from p2ch13.util.errors import InputError, errors_naming
from p2ch13.util.files import FileName, advise
from p2ch13.volumes.chest import check_scan
from p2ch13.volumes.dicom.search import find_series, holds_series
from p2ch13.volumes.dicom.series import Series
from p2ch13.volumes.dicom.volume import read_series
from p2ch13.volumes.formats import FORMATS, find_format, find_suffix, find_voxel_file
from p2ch13.volumes.headers import ScanHeader, warn_once
from p2ch13.volumes.images import Image, read_image

ScanSource: TypeAlias = "FileName | Series | Image"  # what a scan is read from
SCAN_SUFFIXES = tuple(FORMATS)
# Of a mask beside its scan, as predict, 3D Slicer and others name it.
MASK_NAME = re.compile("(.+)[-_.](mask|seg|segmentation|label|labels|labelmap|probability)", re.IGNORECASE)
# Of scans in formats that are not read.
OTHER_SUFFIXES = (
    *(".nhdr", ".hdr", ".img", ".img.gz", ".mgh", ".mgz", ".mnc", ".gipl", ".gipl.gz", ".vti", ".nii.bz2", ".nii.xz"),
    *(".nii.zip", ".mhd.gz", ".mha.gz", ".nrrd.gz"),
)
INT16 = np.iinfo(np.int16)
READ_AHEAD_BYTES = 2**17  # the most that Linux fetches per call


def find_scans(data_dir: Path) -> dict[str, Path]:
    """Find `data_dir/subset*/<series_uid>.mhd` and `data_dir/<series_uid>.mhd`, or other formats of `SCAN_SUFFIXES`.

    Returns: series UID -> header file, sorted.
    Raises: InputError if the folder is missing, contains no scan, or one series twice.
    """
    if not data_dir.is_dir():
        raise InputError(
            "no such folder; put the scans there, or name another with --data-dir",
            path=data_dir,
            option="--data-dir",
        )
    scans = name_files(list_scan_files(data_dir))
    if not scans:
        raise InputError(
            f"no scans ({', '.join(SCAN_SUFFIXES)}) here, in subset*/, images/ or imagesTr/; move them there, see "
            "docs/data.md",
            path=data_dir,
        )
    return scans


def list_scan_files(folder: Path) -> list[Path]:
    """List files with a scan's suffix in a folder and its subset*/, sorted; not DICOM, nor masks beside their scans.

    Masks and scans in formats that are not read are named once.
    """
    paths = sorted([*folder.glob("*"), *folder.glob("subset*/*")], key=str)
    paths = [path for path in paths if not path.name.startswith(".")]
    others = [path.name for path in paths if path.name.lower().endswith(OTHER_SUFFIXES) and not holds_series(path)]
    if others:
        message = f"{folder}: {len(others)} files of formats that are not read, such as {others[0]}, are left out;"
        warn_once(f"{message} convert them to {', '.join(SCAN_SUFFIXES)}.")
    named = {path: scan_name(path) for path in paths if find_suffix(path)}
    names = set(named.values())
    is_mask = {path: (of := MASK_NAME.fullmatch(name)) is not None and of[1] in names for path, name in named.items()}
    if masks := [path.name for path in named if is_mask[path]]:
        warn_once(f"{folder}: masks by their names are no scans and left out, {len(masks)} like {masks[0]}.")
    return [path for path in named if not is_mask[path]]


def name_files(paths: Iterable[Path], name_of: Callable[[Path], str] | None = None) -> dict[str, Path]:
    """Return series UID -> file, sorted.

    Args: name_of: the series UID of a file; None: its name without a scan's suffix.
    Raises: InputError for a series that has two files.
    """
    named: dict[str, Path] = {}
    for path in paths:
        series_uid = (name_of or scan_name)(path)
        if series_uid in named:
            raise InputError(f"same series as {named[series_uid]}; remove one of the two", path=path)
        named[series_uid] = path
    return dict(sorted(named.items()))


def scan_name(path: Path) -> str:
    """Return a file's name without a scan's suffix: the series UID in LUNA16."""
    return path.name.removesuffix(find_suffix(path))


def no_such_series(series_uid: str) -> InputError:
    return InputError(f"{series_uid}: no scan of this series is on disk; is its subset unpacked?")


def read_header(source: ScanSource, series_uid: str | None = None) -> ScanHeader:
    """Read a scan's geometry without its voxels.

    Args:
        source: the scan's file; a folder or zip archive with a DICOM series, one of its files, or the series; an image
            of SimpleITK or nibabel.
        series_uid: of the series in the folder, None takes the largest; of a file, its UID in place of its name.
    Raises: InputError if this is no 3-D scan, its geometry is implausible, its data file is missing or has the wrong
        length, or DICOM slices do not make up a scan.
    """
    if isinstance(source, Series):
        return read_series(source)
    if not isinstance(source, str | os.PathLike):
        return read_image(source, series_uid)
    path = Path(source)
    if holds_series(path):
        return read_series(find_series(path).choose(series_uid))
    return find_format(path).read_header(path, series_uid or scan_name(path))


def read_hu(header: ScanHeader) -> NDArray[np.int16]:
    """Read the voxels (index, row, col) of a scan, as `read_voxels`, and check them. Raises: InputError if not HU."""
    voxels = read_voxels(header)
    check_scan(header, voxels)
    return voxels


def read_voxels(header: ScanHeader) -> NDArray[np.int16]:
    """Read the voxels (index, row, col) of a scan or a mask: a read-only memory map if the file allows it.

    Raises: InputError if the voxels cannot be decoded or hold NaN.
    """
    if header.dicom_slices:
        return as_int16(header, (one.read_hu() for one in header.dicom_slices))
    if header.image is not None:
        return as_int16(header, header.image.read_slices())
    voxel_file = header.voxel_file
    assert voxel_file is not None
    if voxel_file.is_mappable:
        with errors_naming(voxel_file.path), voxel_file.path.open("rb") as file:
            file_map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # A crop needs a few pages of each slice; reading ahead of them would read a fifth of the scan.
        advise(file_map, "MADV_RANDOM")
        return voxel_file.view(file_map, header.shape_irc)
    return as_int16(header, voxel_file.read_slices(header.shape_irc, header.path))


def check_whole(path: Path) -> None:
    """Read all voxels of a file. Raises: InputError if some are missing or damaged."""
    header = read_header(path)
    if header.voxel_file is not None:
        deque(header.voxel_file.read_slices(header.shape_irc, path), maxlen=0)


def as_int16(header: ScanHeader, slices: Iterable[NDArray[Any]]) -> NDArray[np.int16]:
    """Convert slice by slice, so that no copy of the scan is made in a larger type."""
    voxels = np.empty(header.shape_irc, dtype=np.int16)
    for ndx, values in enumerate(slices):
        if values.shape != header.shape_irc[1:]:
            raise InputError(
                f"slice {ndx} has shape {values.shape}, not {header.shape_irc[1:]}; export it again", path=header.path
            )
        if values.dtype.kind == "f":
            if not np.isfinite(values).all():
                raise InputError("some voxels are NaN or infinite; export the scan again", path=header.path)
            values = values.round()
        voxels[ndx] = values if values.dtype == np.int16 else values.clip(INT16.min, INT16.max)
    return voxels


def read_ahead(header: ScanHeader, first: int, last: int) -> None:
    """Have the system read slices `first` to `last` of a memory map before they are used page by page."""
    voxel_file = header.voxel_file
    if voxel_file is not None and voxel_file.is_mappable and hasattr(os, "posix_fadvise"):
        slice_bytes = header.shape_irc[1] * header.shape_irc[2] * INT16.dtype.itemsize
        begin, end = (voxel_file.start + ndx * slice_bytes for ndx in (first, last + 1))
        with errors_naming(voxel_file.path), voxel_file.path.open("rb") as file:
            for start in range(begin, end, READ_AHEAD_BYTES):
                os.posix_fadvise(file.fileno(), start, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)


def scan_signature(path: Path) -> list[list[str | int]]:
    """Return name, length and time of each file of a scan, to detect a change."""
    voxel_file = find_voxel_file(path).path
    return [file_signature(file) for file in ([path] if voxel_file == path else [path, voxel_file])]


def file_signature(path: Path) -> list[str | int]:
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]
