"""DICOM series for tests, written with pydicom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

SERIES_UID = "1.2.826.0.1.3680043.8.498.7"
ORIGIN_XYZ = (-30.0, -40.0, 200.0)
PIXEL_SPACING = (0.75, 0.5)  # mm: from row to row, from col to col
SLICE_SPACING = 2.5
SLOPE, INTERCEPT = 1, -1024
ABSENT = object()  # an attribute that is not there
GROUPS = (
    *("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
    *("PixelValueTransformationSequence", "CTImageFrameTypeSequence"),
)


def write_series(
    folder: Path,
    hu: np.ndarray,
    *,
    series_uid: str = SERIES_UID,
    cosines: Sequence[float] = (1, 0, 0, 0, 1, 0),
    step_xyz: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    slope: float = SLOPE,
    **attributes: Any,
) -> list[Path]:
    """Write the slices of `hu` (index, row, col) as files, the first at the origin, each one `step_xyz` mm further on.

    The step is along the normal if none is given. Attributes replace those of every slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(cosines[:3], cosines[3:])
    step = np.multiply(normal, SLICE_SPACING) if step_xyz is None else np.asarray(step_xyz)
    files = []
    for ndx, slice_hu in enumerate(hu):
        file = folder / (names[ndx] if names else f"{ndx:03}.dcm")
        data = make_slice(slice_hu, ndx, series_uid, slope)
        data.ImageOrientationPatient = list(cosines)
        data.ImagePositionPatient = (np.asarray(ORIGIN_XYZ) + ndx * step).round(6).tolist()
        data.save_as(file, enforce_file_format=True)
        files.append(file)
    if attributes:
        rewrite_all(files, **attributes)
    return files


def rewrite(file: Path, **attributes: Any) -> None:
    """Write a file again with other attributes: ABSENT removes one; bytes go into the file as they are."""
    data = dcmread(file)
    for name, value in attributes.items():
        if value is ABSENT:
            data.pop(name, None)
        elif isinstance(value, bytes):
            tag = Tag(name)
            vr = dictionary_VR(tag).rpartition(" or ")[2]
            data[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        else:
            setattr(data, name, value)
    data.save_as(file)


def rewrite_all(files: Iterable[Path], **attributes: Any) -> None:
    for file in files:
        rewrite(file, **attributes)


def write_enhanced(
    path: Path,
    hu: np.ndarray,
    *,
    order: Sequence[int] | None = None,
    per_frame: Sequence[str] = ("PlanePositionSequence",),
    step_mm: float = SLICE_SPACING,
    **attributes: Any,
) -> Path:
    """Write the slices of `hu` (index, row, col) as frames of one file.

    Args: order: of the slices in the file; per_frame: groups that each frame has for itself, instead of all of them;
        attributes: replace those of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    order = range(len(hu)) if order is None else order
    frames = hu[list(order)]
    data = make_slice(frames.reshape(-1, hu.shape[2]), 0, SERIES_UID, SLOPE)
    data.Rows, data.NumberOfFrames = hu.shape[1], len(hu)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    for name in ("PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept", "InstanceNumber"):
        delattr(data, name)
    shared: Dataset = Dataset()
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], []
    for place in order:
        groups = make_groups(ORIGIN_XYZ[2] + place * step_mm)
        frame = Dataset()
        for name, group in groups.items():
            setattr(frame if name in per_frame else shared, name, [group])
        data.PerFrameFunctionalGroupsSequence.append(frame)
    for name, value in attributes.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def make_groups(z: float) -> dict[str, Dataset]:
    """Make the functional groups of a frame."""
    groups = {name: Dataset() for name in GROUPS}
    position, plane, measures, values, kind = groups.values()
    position.ImagePositionPatient = [*ORIGIN_XYZ[:2], z]
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = list(PIXEL_SPACING), SLICE_SPACING
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = SLOPE, INTERCEPT, "HU"
    kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    return groups


def make_slice(slice_hu: np.ndarray, ndx: int, series_uid: str, slope: float) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = UID(f"{series_uid}.{ndx + 1}")
    data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = series_uid, "1.2.3.1", "1.2.3.2"
    data.Modality, data.PatientName, data.PatientID = "CT", "Test", "1"
    data.PatientBirthDate = data.PatientSex = data.StudyDate = data.StudyTime = data.AccessionNumber = ""
    data.ReferringPhysicianName = data.StudyID = data.PositionReferenceIndicator = data.Laterality = ""
    data.SeriesNumber, data.InstanceNumber = 3, ndx + 1
    data.Rows, data.Columns = slice_hu.shape
    data.PixelSpacing, data.SliceThickness = list(PIXEL_SPACING), SLICE_SPACING
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.RescaleSlope, data.RescaleIntercept = slope, INTERCEPT
    data.PixelData = ((slice_hu.astype(float) - INTERCEPT) / slope).round().astype(np.uint16).tobytes()
    return data
