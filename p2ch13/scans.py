"""Scans on disk: where they are, their headers, and their voxels, read only when touched."""

from __future__ import annotations

import gzip
import math
import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from p2ch13.dicom import choose_series, read_series, read_slice
from util.errors import InputError, errors_naming

SCAN_SUFFIXES = (".mhd", ".mha", ".nii.gz", ".nii", ".nrrd")
INT16 = np.iinfo(np.int16)
READ_AHEAD_BYTES = 2**17  # Linux fetches no more than this of what it is told at once


def find_scans(data_dir: Path) -> dict[str, Path]:
    """Series UID -> header file, for `data_dir/subset*/<series_uid>.mhd` and `data_dir/<series_uid>.mhd`, sorted.

    The other formats of `SCAN_SUFFIXES` do as well.
    Raises: InputError if the folder is missing, holds no scan, or holds one series twice.
    """
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder; put LUNA16 there, or say where it is with --data-dir")
    scans: dict[str, Path] = {}
    for path in list_scan_files(data_dir):
        series_uid = scan_name(path)
        if series_uid in scans:
            raise InputError(f"{path}: the same series as {scans[series_uid]}; remove one of the two")
        scans[series_uid] = path
    if not scans:
        raise InputError(f"{data_dir}: no scans (subset*/*.mhd) in this folder; unpack a LUNA16 subset there")
    return dict(sorted(scans.items()))


def list_scan_files(folder: Path) -> list[Path]:
    """The files in a folder and in its subset*/ that are scans by their names, sorted; no DICOM."""
    paths = sorted([*folder.glob("*"), *folder.glob("subset*/*")], key=str)
    return [path for path in paths if path.name.endswith(SCAN_SUFFIXES) and not path.name.startswith(".")]


def scan_name(path: Path) -> str:
    """The name of a scan's file without its suffix; LUNA16 has the series UID there."""
    suffix = next((suffix for suffix in SCAN_SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix)


def no_such_series(series_uid: str) -> InputError:
    return InputError(f"{series_uid}: no scan of this series is on disk; is its subset unpacked?")


@dataclass(frozen=True, eq=False)
class ScanHeader:
    """Size and position of a scan; see `util.coordinates` for how they map voxels to the patient."""

    path: Path
    series_uid: str
    shape_irc: tuple[int, int, int]  # slices, rows, cols
    origin_xyz: NDArray[np.float64]  # (3,) mm
    vx_size_xyz: NDArray[np.float64]  # (3,) mm
    direction: NDArray[np.float64]  # (3, 3)
    mapped_file: Path | None = None  # holds nothing but the voxels, as int16
    byte_order: str = "<"
    dicom_files: tuple[Path, ...] = ()  # one for each slice


def read_header(path: Path, series_uid: str | None = None) -> ScanHeader:
    """Read a scan's geometry, not its voxels.

    Args:
        path: the scan's file, or a folder with a DICOM series.
        series_uid: which series of the folder; None takes the largest.
    Raises: InputError, naming the file, if this is no 3-D scan, its geometry makes no sense, its data file is missing
    or has the wrong length, or DICOM slices make up no scan.
    """
    if path.is_dir():
        return read_dicom_header(path, *choose_series(path, series_uid))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with errors_naming(path):
        reader.ReadImageInformation()
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise InputError(
            f"{path}: {reader.GetDimension()} dimensions, {reader.GetNumberOfComponents()} values a voxel; "
            "a CT scan has 3 and 1"
        )
    vx_size_xyz = np.array(reader.GetSpacing())
    direction = np.array(reader.GetDirection()).reshape(3, 3)
    origin_xyz = np.array(reader.GetOrigin())
    if not np.all(vx_size_xyz > 0) or not np.isfinite([*vx_size_xyz, *origin_xyz, *direction.flat]).all():
        raise InputError(f"{path}: voxels of {vx_size_xyz.tolist()} mm at {origin_xyz.tolist()}; repair the header")
    if abs(np.linalg.det(direction)) < 1e-3:
        raise InputError(f"{path}: the direction matrix {direction.tolist()} is singular; repair the header")

    cols, rows, slices = reader.GetSize()
    if 0 in (cols, rows, slices):
        raise InputError(f"{path}: {slices} slices of {rows} x {cols}, nothing in it; export the scan anew")
    mapped_file, byte_order = None, "<"
    if path.name.endswith(".mhd"):
        fields = read_metaimage_fields(path)
        data_file = metaimage_data_file(path, fields)
        if data_file is not None and is_plain_int16(fields):
            mapped_file = data_file
            byte_order = ">" if is_true(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<"
            check_length(mapped_file, slices * rows * cols * 2, path)
    shape_irc = (slices, rows, cols)
    return ScanHeader(path, scan_name(path), shape_irc, origin_xyz, vx_size_xyz, direction, mapped_file, byte_order)


def read_dicom_header(folder: Path, series_uid: str, files: Iterable[Path]) -> ScanHeader:
    """The geometry of a DICOM series in a folder. Raises: InputError, naming the file, if its slices are no scan."""
    series = read_series(folder, files)
    return ScanHeader(
        folder,
        series_uid,
        series.shape_irc,
        series.origin_xyz,
        series.vx_size_xyz,
        series.direction,
        dicom_files=series.files,
    )


def read_voxels(header: ScanHeader) -> NDArray[np.int16]:
    """The voxels (index, row, col) in HU: a read-only memory map where the file allows it, else decoded at once.

    Raises: InputError, naming the file, if the voxels cannot be decoded or hold NaN.
    """
    if header.mapped_file is not None:
        with errors_naming(header.mapped_file), header.mapped_file.open("rb") as file:
            file_map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # A crop takes a few pages of each slice; what the system reads ahead of them is a fifth of the scan.
        file_map.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(file_map, np.dtype(f"{header.byte_order}i2")).reshape(header.shape_irc)
    if header.path.name.endswith((".nii", ".nii.gz")):
        check_nifti_length(header.path)
    if header.dicom_files:
        return as_int16(header, (read_slice(file) for file in header.dicom_files))
    with errors_naming(header.path):
        image = sitk.ReadImage(str(header.path))
    return as_int16(header, sitk.GetArrayViewFromImage(image))


def as_int16(header: ScanHeader, slices: Iterable[NDArray[Any]]) -> NDArray[np.int16]:
    """One slice at a time, so that no copy of the scan is made in a larger format."""
    voxels = np.empty(header.shape_irc, dtype=np.int16)
    for ndx, values in enumerate(slices):
        if values.dtype.kind == "f":
            if not np.isfinite(values).all():
                raise InputError(f"{header.path}: some voxels are NaN or infinite; export the scan anew")
            values = values.round()
        voxels[ndx] = values if values.dtype == np.int16 else values.clip(INT16.min, INT16.max)
    return voxels


def read_ahead(header: ScanHeader, first: int, last: int) -> None:
    """Have the system fetch slices of a memory map, ends included, before they are touched page by page."""
    if header.mapped_file is not None and hasattr(os, "posix_fadvise"):
        slice_bytes = header.shape_irc[1] * header.shape_irc[2] * INT16.dtype.itemsize
        with errors_naming(header.mapped_file), header.mapped_file.open("rb") as file:
            for start in range(first * slice_bytes, (last + 1) * slice_bytes, READ_AHEAD_BYTES):
                os.posix_fadvise(file.fileno(), start, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)


def scan_signature(path: Path) -> list[list[str | int]]:
    """Name, length and time of every file that the scan consists of: it changes when the scan does."""
    files = [path]
    if path.name.endswith(".mhd"):
        data_file = metaimage_data_file(path, read_metaimage_fields(path))
        files += [data_file] if data_file is not None else []
    return [file_signature(file) for file in files]


def file_signature(path: Path) -> list[str | int]:
    """Name, length and time."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


# MetaImage, https://itk.org/Wiki/ITK/MetaIO/Documentation


def read_metaimage_fields(path: Path) -> dict[str, str]:
    """The `key = value` lines of an .mhd header.

    Raises: InputError if the line that names the data is missing, or a place is not given in numbers: ITK takes those
    that it cannot read for 0.
    """
    with errors_naming(path), path.open("rb") as file:
        text = file.read(1 << 16).decode("ascii", errors="replace")
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in text.splitlines())}
    if not fields.get("ElementDataFile"):
        raise InputError(f"{path}: no ElementDataFile, so this is not a whole header; unpack it again")
    for key in ("Offset", "Position", "Origin", "TransformMatrix", "ElementSpacing"):
        if not all(is_finite(number) for number in fields.get(key, "").split()):
            raise InputError(f"{path}: {key} is {fields[key]!r}; repair the header")
    return fields


def metaimage_data_file(path: Path, fields: dict[str, str]) -> Path | None:
    """The one file that holds the voxels; None if they are in the header itself or in a file for each slice.

    Raises: InputError if the file is missing or not below the header's folder, from where a header must not lead away.
    """
    name = fields["ElementDataFile"]
    if name in ("LOCAL", "LIST") or name.startswith("LIST ") or "%" in name:
        return None
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{path}: its data file {name} is outside its own folder; move it there, correct the header")
    data_file = path.parent / name
    if not data_file.is_file():
        raise InputError(f"{path}: its data file {data_file.name} is missing; unpack or download it again")
    return data_file


def is_plain_int16(fields: dict[str, str]) -> bool:
    return (
        fields.get("ElementType") == "MET_SHORT"
        and fields.get("HeaderSize", "0") == "0"
        and fields.get("BinaryData", "True").lower() == "true"
        and not is_true(fields, "CompressedData")
    )


def is_finite(number: str) -> bool:
    try:
        return math.isfinite(float(number))
    except ValueError:
        return False


def is_true(fields: dict[str, str], *keys: str) -> bool:
    return any(fields.get(key, "").lower() == "true" for key in keys)


def check_length(data_file: Path, expected_bytes: int, header_path: Path) -> None:
    actual_bytes = data_file.stat().st_size
    if actual_bytes != expected_bytes:
        raise InputError(
            f"{data_file}: {actual_bytes:,} bytes, but {header_path.name} tells of {expected_bytes:,}; "
            "unpack or download it again"
        )


# NIfTI: SimpleITK reads a file that was cut short without a word.


def check_nifti_length(path: Path) -> None:
    """Raises: InputError if a .nii or .nii.gz ends before its last voxel."""
    open_file = gzip.open if path.name.endswith(".gz") else open
    with errors_naming(path), open_file(path, "rb") as file:
        expected_bytes = nifti_length(file.read(540))
        actual_bytes = file.seek(0, 2)  # for .gz this decompresses all of it and checks its checksum
    if actual_bytes < expected_bytes:
        raise InputError(f"{path}: {actual_bytes:,} of {expected_bytes:,} bytes; unpack or download it again")


def nifti_length(header: bytes) -> int:
    """Bytes of the whole file, uncompressed. Source: nifti1.h and nifti2.h, https://nifti.nimh.nih.gov."""
    order = "<" if header[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
    if struct.unpack(order + "i", header[:4])[0] == 540:
        (bits,), shape = struct.unpack_from(order + "h", header, 14), struct.unpack_from(order + "8q", header, 16)
        (offset,) = struct.unpack_from(order + "q", header, 168)
    else:
        (bits,), shape = struct.unpack_from(order + "h", header, 72), struct.unpack_from(order + "8h", header, 40)
        (offset,) = struct.unpack_from(order + "f", header, 108)
    voxel_count = int(np.prod(shape[1 : 1 + shape[0]], dtype=np.int64))
    return int(offset) + voxel_count * int(bits) // 8
