"""A DICOM series, a file for each slice, as one scan: which files, in which order, where in the patient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from p2ch13.util.errors import InputError, errors_naming
from p2ch13.volumes.headers import VoxelFile

IMAGE_IO = "GDCMImageIO"  # ITK's reader of DICOM
GAP_TOLERANCE = 0.1  # share of the distance between slices by which it may differ from one to the next
DRIFT_TOLERANCE = 0.02  # share of the way along the normal that slices may have moved aside
ANGLE_TOLERANCE = 1e-3  # of direction cosines, and of pixel sizes in mm


@dataclass(frozen=True, eq=False)
class DicomSlice:
    """What a file's header says."""

    file: Path
    rows: int
    cols: int
    position_xyz: NDArray[np.float64]  # (3,) mm: the centre of the first pixel
    cosines: NDArray[np.float64]  # (2, 3): directions along a row (to the next col) and along a column
    pixel_size_xy: NDArray[np.float64]  # (2,) mm: of a col, of a row
    thickness_mm: float


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """The slices of a series, in the order of their positions along the slices' normal."""

    files: tuple[Path, ...]
    shape_irc: tuple[int, int, int]
    origin_xyz: NDArray[np.float64]
    vx_size_xyz: NDArray[np.float64]
    direction: NDArray[np.float64]


def list_series(folder: Path) -> dict[str, list[Path]]:
    """Series UID -> the files of each series that lie in the folder itself. Other files are passed over.

    Raises: InputError, naming the folder, if one of them is so damaged that GDCM cannot even pass over it.
    """
    with errors_naming(folder), no_warnings():
        return {
            uid: [Path(file) for file in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)]
            for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        }


def choose_series(folder: Path, series_uid: str | None) -> tuple[str, list[Path]]:
    """The series that is asked for, else the one with the most files.

    Raises: InputError if there is none, or a DICOM file is damaged: it could be one of the series' slices.
    """
    series = list_series(folder)
    check_no_damage(folder, series)
    if not series:
        raise InputError(f"{folder}: no DICOM files in this folder; give one that holds a series")
    if series_uid is None:
        series_uid = max(series, key=lambda uid: len(series[uid]))
    if series_uid not in series:
        raise InputError(f"{folder}: no series {series_uid}; there is {', '.join(series)}")
    return series_uid, series[series_uid]


def check_no_damage(folder: Path, series: dict[str, list[Path]]) -> None:
    """GDCM passes over a file that is cut short; at the end of a series nothing else would tell that it is missing."""
    readable = {file.name for files in series.values() for file in files}
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name not in readable and file.name != "DICOMDIR" and has_dicom_magic(file):
            raise InputError(f"{file}: a damaged DICOM file; copy or export it again")


def has_dicom_magic(file: Path) -> bool:
    with errors_naming(file), file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def read_series(folder: Path, files: Iterable[Path]) -> DicomSeries:
    """Order a series' slices and check that they make up one scan.

    Raises: InputError, naming the file, if one is no CT slice, is turned or sized otherwise than the first, lies where
        another one does, or is missing, and if the slices are moved aside from one to the next (a tilted gantry).
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
    return DicomSeries(
        files=tuple(one.file for one in slices),
        shape_irc=(len(slices), first.rows, first.cols),
        origin_xyz=slices[0].position_xyz,
        vx_size_xyz=np.array([*first.pixel_size_xy, spacing_mm]),
        direction=np.column_stack([*first.cosines, normal]),
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
            raise InputError(f"{file}: {name} is {text!r}; export the series anew, as CT images") from None

    modality = get("0008|0060", "Modality", str)
    if modality != "CT":
        raise InputError(f"{file}: an image of modality {modality!r}; give a folder with a CT series")
    if get("0028|0004", "PhotometricInterpretation", str) == "MONOCHROME1":  # which ITK turns into other numbers
        raise InputError(f"{file}: MONOCHROME1, bright for dark; convert it to MONOCHROME2 first, say with dcmtk")
    if get("0028|0008", "NumberOfFrames", lambda text: int(text or 1)) > 1:
        raise InputError(f"{file}: several frames in one file; convert it to NIfTI first, say with dcm2niix")
    rows, cols = get("0028|0010", "Rows", int), get("0028|0011", "Columns", int)
    VoxelFile(file, is_encoded=True).check_size(rows * cols, file)  # a byte each, at least
    row_mm, col_mm = get("0028|0030", "PixelSpacing", lambda text: parse_numbers(text, 2))
    return DicomSlice(
        file=file,
        rows=rows,
        cols=cols,
        position_xyz=get("0020|0032", "ImagePositionPatient", lambda text: parse_numbers(text, 3)),
        cosines=get("0020|0037", "ImageOrientationPatient", lambda text: parse_numbers(text, 6).reshape(2, 3)),
        pixel_size_xy=np.array([col_mm, row_mm]),
        thickness_mm=get("0018|0050", "SliceThickness", lambda text: float(text or 1)),
    )


def parse_numbers(text: str, count: int) -> NDArray[np.float64]:
    """Raises: ValueError if these are not so many finite numbers."""
    numbers = np.array([float(number) for number in text.split("\\")])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(text)
    return numbers


def check_same_plane(first: DicomSlice, other: DicomSlice) -> None:
    for name, one, another in (
        ("rows and columns", (first.rows, first.cols), (other.rows, other.cols)),
        ("pixel spacing", first.pixel_size_xy, other.pixel_size_xy),
        ("orientation", first.cosines, other.cosines),
    ):
        if not np.allclose(one, another, rtol=0, atol=ANGLE_TOLERANCE):
            raise InputError(
                f"{other.file}: its {name} {np.round(another, 4).tolist()} differ from {np.round(one, 4).tolist()} in "
                f"{first.file.name}; put the slices of one scan alone in a folder"
            )


def check_gaps(slices: Sequence[DicomSlice], normal: NDArray[np.float64]) -> float:
    """Returns: the distance between slices, mm. Raises: InputError if it is not the same between all of them."""
    if len(slices) == 1:
        return slices[0].thickness_mm
    places = np.array([one.position_xyz @ normal for one in slices])
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    for gap, before, after in zip(gaps, slices, slices[1:], strict=False):
        if gap <= GAP_TOLERANCE * usual:
            raise InputError(
                f"{after.file}: in the same place as {before.file.name}; put the slices of one scan alone in a folder"
            )
        if abs(gap - usual) > GAP_TOLERANCE * usual:
            what = "a slice is missing" if gap > 1.5 * usual else "slices are unevenly spaced"
            raise InputError(
                f"{after.file}: {what} before it: {gap:.2f} mm from {before.file.name}, where others are "
                f"{usual:.2f} mm apart; export the whole series again"
            )
    return float(gaps.mean())


def check_drift(folder: Path, slices: Sequence[DicomSlice], normal: NDArray[np.float64]) -> None:
    way = slices[-1].position_xyz - slices[0].position_xyz
    along = float(way @ normal)
    if np.linalg.norm(way - along * normal) > DRIFT_TOLERANCE * along:
        raise InputError(f"{folder}: taken with a tilted gantry; straighten the slices first, say with dcm2niix")


def read_slice(file: Path) -> NDArray[Any]:
    """The slice's voxels (row, col) in HU: rescaled as its header says."""
    with errors_naming(file), no_warnings():
        voxels: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO=IMAGE_IO))[0]
    return voxels


@contextmanager
def no_warnings() -> Iterator[None]:
    """Without ITK's remarks on files that are not DICOM, several lines each."""
    was_on = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(was_on)
