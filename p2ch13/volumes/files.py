"""Scans on disk: where they are, their headers, and their voxels, read only when touched."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from p2ch13.util.errors import InputError, errors_naming
from p2ch13.util.memory_map import advise
from p2ch13.volumes.dicom import choose_series, read_series, read_slice
from p2ch13.volumes.headers import check_metaimage_stream, check_nifti_length, find_voxel_file

IMAGE_IOS = {
    ".mhd": "MetaImageIO",
    ".mha": "MetaImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
}
SCAN_SUFFIXES = tuple(IMAGE_IOS)
BYTES_OF_VALUES = {
    **dict.fromkeys((sitk.sitkInt8, sitk.sitkUInt8), 1),
    **dict.fromkeys((sitk.sitkInt16, sitk.sitkUInt16), 2),
    **dict.fromkeys((sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkFloat32), 4),
    **dict.fromkeys((sitk.sitkInt64, sitk.sitkUInt64, sitk.sitkFloat64), 8),
}
SPACING_LIMITS_MM = (1e-3, 1e3)  # of a voxel in a scan of a human
ORIGIN_LIMIT_MM = 1e5
ANGLE_TOLERANCE = 1e-2  # of direction cosines: NIfTI derives them from others
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
    """Size and position of a scan; see `p2ch13.util.coordinates` for how they map voxels to the patient."""

    path: Path
    series_uid: str
    shape_irc: tuple[int, int, int]  # slices, rows, cols
    origin_xyz: NDArray[np.float64]  # (3,) mm
    vx_size_xyz: NDArray[np.float64]  # (3,) mm
    direction: NDArray[np.float64]  # (3, 3)
    mapped_file: Path | None = None  # holds nothing but the voxels, as int16
    byte_order: str = "<"
    compressed_bytes: int = 0  # of the voxels of a compressed MetaImage, once they are decompressed
    dicom_files: tuple[Path, ...] = ()  # one for each slice

    def __post_init__(self) -> None:
        """Raises: InputError for a place that no scan can have; much of what is computed from it would be nonsense."""
        spacing = self.vx_size_xyz
        low, high = SPACING_LIMITS_MM
        if not ((low <= spacing) & (spacing <= high)).all() or not (abs(self.origin_xyz) <= ORIGIN_LIMIT_MM).all():
            raise InputError(
                f"{self.path}: voxels of {spacing.tolist()} mm at {self.origin_xyz.tolist()}; repair the header"
            )
        if not np.allclose(self.direction @ self.direction.T, np.eye(3), rtol=0, atol=ANGLE_TOLERANCE):
            raise InputError(
                f"{self.path}: the direction matrix {self.direction.tolist()} is no rotation; repair the header"
            )


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
    image_io = find_image_io(path)
    voxel_file = find_voxel_file(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(image_io)
    with errors_naming(path):
        reader.ReadImageInformation()
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise InputError(
            f"{path}: {reader.GetDimension()} dimensions, {reader.GetNumberOfComponents()} values a voxel; "
            "a CT scan has 3 and 1"
        )
    if reader.GetPixelID() not in BYTES_OF_VALUES:
        raise InputError(
            f"{path}: its voxels are {sitk.GetPixelIDValueAsString(reader.GetPixelID())}; a CT scan has numbers, in HU"
        )
    cols, rows, slices = reader.GetSize()
    if 0 in (cols, rows, slices):
        raise InputError(f"{path}: {slices} slices of {rows} x {cols}, nothing in it; export the scan anew")
    byte_count = slices * rows * cols * BYTES_OF_VALUES[reader.GetPixelID()]
    voxel_file.check_size(byte_count, path)
    return ScanHeader(
        path,
        scan_name(path),
        (slices, rows, cols),
        np.array(reader.GetOrigin()),
        np.array(reader.GetSpacing()),
        np.array(reader.GetDirection()).reshape(3, 3),
        mapped_file=voxel_file.path if voxel_file.is_plain_int16 else None,
        byte_order=voxel_file.byte_order,
        compressed_bytes=byte_count if voxel_file.is_compressed_metaimage else 0,
    )


def find_image_io(path: Path) -> str:
    """ITK's reader for a file, by its name alone: left to itself, ITK tries all of its readers on what is in it."""
    image_io = next((image_io for suffix, image_io in IMAGE_IOS.items() if path.name.endswith(suffix)), None)
    if image_io is None:
        raise InputError(f"{path}: not one of the formats that are read; convert it to {', '.join(SCAN_SUFFIXES)}")
    return image_io


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
        advise(file_map, "MADV_RANDOM")
        return np.frombuffer(file_map, np.dtype(f"{header.byte_order}i2")).reshape(header.shape_irc)
    if header.path.name.endswith((".nii", ".nii.gz")):
        check_nifti_length(header.path)
    if header.compressed_bytes:
        check_metaimage_stream(header.path, header.compressed_bytes)
    if header.dicom_files:
        return as_int16(header, (read_slice(file) for file in header.dicom_files))
    with errors_naming(header.path):
        image = sitk.ReadImage(str(header.path), imageIO=find_image_io(header.path))
    return as_int16(header, sitk.GetArrayViewFromImage(image))


def as_int16(header: ScanHeader, slices: Iterable[NDArray[Any]]) -> NDArray[np.int16]:
    """One slice at a time, so that no copy of the scan is made in a larger format."""
    voxels = np.empty(header.shape_irc, dtype=np.int16)
    for ndx, values in enumerate(slices):
        if values.shape != header.shape_irc[1:]:
            raise InputError(
                f"{header.path}: slice {ndx} is of {values.shape}, not {header.shape_irc[1:]}; export it anew"
            )
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
    voxel_file = find_voxel_file(path).path
    return [file_signature(file) for file in ([path] if voxel_file == path else [path, voxel_file])]


def file_signature(path: Path) -> list[str | int]:
    """Name, length and time."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]
