"""Read a DICOM series, a file for each slice, as one scan: files in order and geometry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from p2ch13.util.errors import InputError, errors_naming
from p2ch13.volumes.headers import ScanHeader
from p2ch13.volumes.voxels import DEFLATE_RATIO

IMAGE_IO = "GDCMImageIO"  # ITK's reader of DICOM
GAP_TOLERANCE = 0.1  # of a slice spacing, relative to the median
DRIFT_TOLERANCE = 0.02  # shift within the slice plane, relative to the distance along its normal
PLANE_TOLERANCE = 1e-3  # of direction cosines, and of pixel spacing in mm


@dataclass(frozen=True, eq=False)
class DicomSlice:
    """The header of one file."""

    file: Path
    shape: tuple[int, int]  # rows, cols
    position_xyz: NDArray[np.float64]  # (3,) mm: the center of the first pixel
    cosines: NDArray[np.float64]  # (2, 3): direction to the next col, to the next row
    pixel_size_xy: NDArray[np.float64]  # (2,) mm: between cols, between rows
    thickness_mm: float


def list_series(folder: Path) -> dict[str, list[Path]]:
    """List the files of each series in a folder, by series UID; skip other files and subfolders.

    Raises: InputError if a file is so damaged that GDCM cannot skip it.
    """
    with errors_naming(folder), no_warnings():
        return {
            uid: [Path(file) for file in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)]
            for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        }


def choose_series(folder: Path, series_uid: str | None) -> tuple[str, list[Path]]:
    """Return a series' UID and files: the given series, or else the one with the most files.

    Raises: InputError if there is none, or if a DICOM file is damaged: it may be one of the series' slices.
    """
    series = list_series(folder)
    check_no_damage(folder, series)
    if not series:
        raise InputError("no DICOM files in this folder; choose one with a series", path=folder)
    if series_uid is None:
        series_uid = max(series, key=lambda uid: len(series[uid]))
    if series_uid not in series:
        raise InputError(f"no series {series_uid}; it has {', '.join(series)}", path=folder)
    return series_uid, series[series_uid]


def check_no_damage(folder: Path, series: dict[str, list[Path]]) -> None:
    """Raises: InputError for a file that is cut short, which GDCM skips: no gap shows the loss of the last slice."""
    readable = {file.name for files in series.values() for file in files}
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name not in readable and file.name != "DICOMDIR" and has_dicom_magic(file):
            raise InputError("damaged DICOM file; copy or export it again", path=file)


def has_dicom_magic(file: Path) -> bool:
    with errors_naming(file), file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def read_series(folder: Path, series_uid: str, files: Iterable[Path]) -> ScanHeader:
    """Sort a series' slices by position along their normal and check that they make up one scan.

    `highdicom.spatial.get_series_volume_positions` finds the same faults but not the file at fault.

    Raises: InputError if a slice is no CT image, differs from the first in orientation or size, is at the position of
        another, or is missing, and if slices are shifted within their plane (a tilted gantry).
    Source: DICOM PS3.3, C.7.6.2, image plane module.
    """
    slices = [read_slice_header(file) for file in files]
    first = slices[0]
    for other in slices[1:]:
        check_same_plane(first, other)
    normal = np.cross(*first.cosines)
    slices.sort(key=lambda one: float(one.position_xyz @ normal))
    spacing_mm = check_gaps(slices, normal)
    check_drift(folder, slices, normal)
    return ScanHeader(
        folder,
        series_uid,
        (len(slices), *first.shape),
        origin_xyz=slices[0].position_xyz,
        vx_size_xyz=np.array([*first.pixel_size_xy, spacing_mm]),
        direction=np.column_stack([*first.cosines, normal]),
        dicom_files=tuple(one.file for one in slices),
    )


def read_slice_header(file: Path) -> DicomSlice:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.SetImageIO(IMAGE_IO)
    with errors_naming(file), no_warnings():
        reader.ReadImageInformation()

    def get(tag: str, name: str, parse: Callable[[str], Any]) -> Any:
        text = reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""
        try:
            return parse(text)
        except ValueError:
            raise InputError(f"{name} is {text!r}; export the series again, as CT images", path=file) from None

    modality = get("0008|0060", "Modality", str)
    if modality != "CT":
        raise InputError(f"an image of modality {modality!r}; choose a folder with a CT series", path=file)
    if get("0028|0004", "PhotometricInterpretation", str) == "MONOCHROME1":  # ITK would invert it
        raise InputError("inverted gray values (MONOCHROME1); convert it to MONOCHROME2, with dcmtk", path=file)
    if get("0028|0008", "NumberOfFrames", lambda text: int(text or 1)) > 1:
        raise InputError("several frames in one file; convert it to NIfTI, with dcm2niix", path=file)
    shape = get("0028|0010", "Rows", int), get("0028|0011", "Columns", int)
    if math.prod(shape) > file.stat().st_size * DEFLATE_RATIO:  # at least a byte per pixel
        raise InputError(f"{shape} pixels are more than the file can hold; export it again", path=file)
    return DicomSlice(
        file=file,
        shape=shape,
        position_xyz=get("0020|0032", "ImagePositionPatient", lambda text: parse_numbers(text, 3)),
        cosines=get("0020|0037", "ImageOrientationPatient", lambda text: parse_numbers(text, 6).reshape(2, 3)),
        pixel_size_xy=get("0028|0030", "PixelSpacing", lambda text: parse_numbers(text, 2)[::-1]),
        thickness_mm=get("0018|0050", "SliceThickness", lambda text: float(text or 1)),
    )


def parse_numbers(text: str, count: int) -> NDArray[np.float64]:
    """Raises: ValueError if the text is not a list of `count` finite numbers."""
    numbers = np.array([float(number) for number in text.split("\\")])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(text)
    return numbers


def check_same_plane(first: DicomSlice, other: DicomSlice) -> None:
    for name, one, another in (
        ("rows and columns", first.shape, other.shape),
        ("pixel spacing", first.pixel_size_xy, other.pixel_size_xy),
        ("orientation", first.cosines, other.cosines),
    ):
        if not np.allclose(one, another, rtol=0, atol=PLANE_TOLERANCE):
            raise InputError(
                f"its {name} {np.round(another, 4).tolist()} differ from {np.round(one, 4).tolist()} in "
                f"{first.file.name}; keep the slices of each scan in a folder of their own",
                path=other.file,
            )


def check_gaps(slices: Sequence[DicomSlice], normal: NDArray[np.float64]) -> float:
    """Returns: the slice spacing in mm. Raises: InputError if it varies."""
    if len(slices) == 1:
        return slices[0].thickness_mm
    gaps = np.diff([one.position_xyz @ normal for one in slices])
    usual = float(np.median(gaps))
    for gap, before, after in zip(gaps, slices, slices[1:], strict=False):
        if gap <= GAP_TOLERANCE * usual:
            raise InputError(
                f"same position as {before.file.name}; keep the slices of each scan in a folder of their own",
                path=after.file,
            )
        if abs(gap - usual) > GAP_TOLERANCE * usual:
            fault = "a slice is missing" if gap > 1.5 * usual else "uneven slice spacing"
            raise InputError(
                f"{fault}: {gap:.2f} mm from {before.file.name} instead of {usual:.2f} mm; export the series again",
                path=after.file,
            )
    return float(gaps.mean())


def check_drift(folder: Path, slices: Sequence[DicomSlice], normal: NDArray[np.float64]) -> None:
    offset = slices[-1].position_xyz - slices[0].position_xyz
    along = float(offset @ normal)
    if np.linalg.norm(offset - along * normal) > DRIFT_TOLERANCE * along:
        raise InputError("scanned with a tilted gantry; correct the tilt, with dcm2niix", path=folder)


def read_slice(file: Path) -> NDArray[Any]:
    """Read a slice's pixels (row, col) in HU, rescaled by its header."""
    with errors_naming(file), no_warnings():
        return sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO=IMAGE_IO))[0]  # type: ignore[no-any-return]


@contextmanager
def no_warnings() -> Iterator[None]:
    """Silence ITK's warnings about files that are not DICOM, several lines each."""
    was_on = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(was_on)
