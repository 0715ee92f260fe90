"""Find scans on disk, read their headers, and read their voxels when they are used."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from p2ch13.util.errors import InputError, errors_naming
from p2ch13.util.files import advise
from p2ch13.volumes.dicom.search import find_series, holds_series
from p2ch13.volumes.dicom.series import Series
from p2ch13.volumes.dicom.volume import read_series
from p2ch13.volumes.formats import FORMATS, find_format, find_voxel_file
from p2ch13.volumes.headers import ScanHeader

SCAN_SUFFIXES = tuple(FORMATS)
BYTES_OF_VALUES = {
    **dict.fromkeys((sitk.sitkInt8, sitk.sitkUInt8), 1),
    **dict.fromkeys((sitk.sitkInt16, sitk.sitkUInt16), 2),
    **dict.fromkeys((sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkFloat32), 4),
    **dict.fromkeys((sitk.sitkInt64, sitk.sitkUInt64, sitk.sitkFloat64), 8),
}
INT16 = np.iinfo(np.int16)
READ_AHEAD_BYTES = 2**17  # the most that Linux fetches per call


def find_scans(data_dir: Path) -> dict[str, Path]:
    """Find `data_dir/subset*/<series_uid>.mhd` and `data_dir/<series_uid>.mhd`, or other formats of `SCAN_SUFFIXES`.

    Returns: series UID -> header file, sorted.
    Raises: InputError if the folder is missing, contains no scan, or one series twice.
    """
    if not data_dir.is_dir():
        raise InputError(
            "no such folder; put the scans there, or name theirs with --data-dir", path=data_dir, option="--data-dir"
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
    """List files with a scan's suffix in a folder and its subset*/, sorted; not DICOM."""
    paths = sorted([*folder.glob("*"), *folder.glob("subset*/*")], key=str)
    return [path for path in paths if path.name.endswith(SCAN_SUFFIXES) and not path.name.startswith(".")]


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
    suffix = next((suffix for suffix in SCAN_SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix)


def no_such_series(series_uid: str) -> InputError:
    return InputError(f"{series_uid}: no scan of this series is on disk; is its subset unpacked?")


def read_header(path: Path | Series, series_uid: str | None = None) -> ScanHeader:
    """Read a scan's geometry without its voxels.

    Args:
        path: the scan's file; a folder or zip archive with a DICOM series, one of its files, or the series.
        series_uid: of the series in the folder, None takes the largest; of a file, its UID in place of its name.
    Raises: InputError if this is no 3-D scan, its geometry is implausible, its data file is missing or has the wrong
        length, or DICOM slices do not make up a scan.
    """
    if isinstance(path, Series):
        return read_series(path)
    if holds_series(path):
        return read_series(find_series(path).choose(series_uid))
    voxel_file = find_voxel_file(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(find_format(path).image_io)
    with errors_naming(path):
        reader.ReadImageInformation()
    dimensions, channels, pixel_type = reader.GetDimension(), reader.GetNumberOfComponents(), reader.GetPixelID()
    if (dimensions, channels) != (3, 1):
        raise InputError(f"{dimensions} dimensions, {channels} values per voxel; a CT scan has 3 and 1", path=path)
    if pixel_type not in BYTES_OF_VALUES:
        raise InputError(f"voxels of type {sitk.GetPixelIDValueAsString(pixel_type)}; a CT scan has HU", path=path)
    cols, rows, slices = reader.GetSize()
    if 0 in (cols, rows, slices):
        raise InputError(f"{slices} slices of {rows} x {cols} are empty; export the scan again", path=path)
    byte_count = slices * rows * cols * BYTES_OF_VALUES[pixel_type]
    voxel_file.check_size(byte_count, path)
    return ScanHeader(
        path,
        series_uid or scan_name(path),
        (slices, rows, cols),
        np.array(reader.GetOrigin()),
        np.array(reader.GetSpacing()),
        np.array(reader.GetDirection()).reshape(3, 3),
        mapped_file=voxel_file.path if voxel_file.mapped_dtype else None,
        mapped_dtype=voxel_file.mapped_dtype,
        byte_count=byte_count,
    )


def read_voxels(header: ScanHeader) -> NDArray[np.int16]:
    """Read the voxels (index, row, col) in HU: a read-only memory map if the file allows it, else decoded at once.

    Raises: InputError if the voxels cannot be decoded or hold NaN.
    """
    if header.dicom_slices:
        return as_int16(header, (one.read_hu() for one in header.dicom_slices))
    if header.mapped_file is not None:
        with errors_naming(header.mapped_file), header.mapped_file.open("rb") as file:
            file_map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # A crop needs a few pages of each slice; reading ahead of them would read a fifth of the scan.
        advise(file_map, "MADV_RANDOM")
        return np.frombuffer(file_map, np.dtype(header.mapped_dtype)).reshape(header.shape_irc)
    file_format = find_format(header.path)
    file_format.check_voxels(header.path, header.byte_count)
    with errors_naming(header.path):
        image = sitk.ReadImage(str(header.path), imageIO=file_format.image_io)
    return as_int16(header, sitk.GetArrayViewFromImage(image))


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
    if header.mapped_file is not None and hasattr(os, "posix_fadvise"):
        slice_bytes = header.shape_irc[1] * header.shape_irc[2] * INT16.dtype.itemsize
        with errors_naming(header.mapped_file), header.mapped_file.open("rb") as file:
            for start in range(first * slice_bytes, (last + 1) * slice_bytes, READ_AHEAD_BYTES):
                os.posix_fadvise(file.fileno(), start, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)


def scan_signature(path: Path) -> list[list[str | int]]:
    """Return name, length and time of each file of a scan, to detect a change."""
    voxel_file = find_voxel_file(path).path
    return [file_signature(file) for file in ([path] if voxel_file == path else [path, voxel_file])]


def file_signature(path: Path) -> list[str | int]:
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]
