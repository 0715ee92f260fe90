"""The slices of a DICOM file: one, or a frame each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from p2ch13.util.errors import InputError
from p2ch13.volumes.dicom.decoding import read_hu
from p2ch13.volumes.dicom.kinds import Kind, find_kind
from p2ch13.volumes.dicom.pixels import PixelFormat, Scale, read_pixel_format, read_scale
from p2ch13.volumes.dicom.tags import Attributes, Tags
from p2ch13.volumes.headers import ANGLE_TOLERANCE

Value = TypeVar("Value")
Numbers = tuple[float, ...]
# What tells phases of a series apart, beside the acquisition: each has slices of its own at the same places.
PHASE_KEYWORDS = (
    *("TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase", "ConvolutionKernel", "KVP"),
    *("ContrastBolusAgent", "ImageType"),
)
FRAME_PHASE_KEYWORDS = ("TemporalPositionIndex", "StackID", "ConvolutionKernel", "FrameType")


@dataclass(frozen=True, eq=False, slots=True)
class DicomSlice:
    """Where a slice lies, and how its pixels are read."""

    file: Path
    frame: int  # index in the file
    instance: str  # SOPInstanceUID, "" if it is missing
    number: int | None  # InstanceNumber, or that of the frame
    acquisition: int | None
    phase: tuple[str, ...]
    expected_count: int  # ImagesInAcquisition, 0 if it is not there
    position_xyz: Numbers  # mm: the center of the first pixel
    position_digits: Numbers  # of each coordinate: 1 if it is written in whole mm, 0.1 for tenths
    cosines: Numbers  # 6: direction to the next col, to the next row
    pixel_size_xy: Numbers  # mm: between cols, between rows
    thickness_mm: float | None
    spacing_mm: float | None  # to the next slice, as the file claims
    tilt_degrees: float
    pixels: PixelFormat
    scale: Scale

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, cols."""
        return self.pixels.shape

    def read_hu(self) -> NDArray[Any]:
        """Read its pixels (row, col) in HU, see `decoding.read_hu`."""
        return read_hu(self.pixels, self.scale, self.file, self.frame)


def read_slices(tags: Tags) -> Iterator[tuple[Kind, DicomSlice | InputError]]:
    """Read the slices of a CT image, or an error for each one that cannot be used, and their kinds."""
    try:
        frames = tags.frame_groups() if tags.is_enhanced else [tags]
        claimed = tags.integer("NumberOfFrames")
        if not frames:
            raise tags.fault("no functional groups of its frames; convert it to NIfTI, with dcm2niix")
        if claimed is not None and claimed != len(frames):
            cure = "export the series again" if tags.is_enhanced else "convert it to NIfTI, with dcm2niix"
            raise tags.fault(f"{claimed} frames, but attributes of {len(frames)}; {cure}")
    except InputError as error:
        yield find_kind(tags), error
        return
    for ndx, frame in enumerate(frames):
        kind = find_kind(frame, "FrameType") if tags.is_enhanced and frame.text("FrameType") else find_kind(tags)
        try:
            yield kind, read_slice(tags, frame, ndx, len(frames))
        except InputError as error:
            yield kind, error


def read_slice(tags: Tags, frame: Attributes, ndx: int, frame_count: int) -> DicomSlice:
    """Read one slice. Raises: InputError if its geometry or its pixels cannot be read."""
    position_xyz = frame.numbers("ImagePositionPatient", 3)
    row_mm, col_mm = frame.numbers("PixelSpacing", 2)
    if min(row_mm, col_mm) <= 0:
        raise tags.fault(f"PixelSpacing is {row_mm} x {col_mm} mm; export the series again")
    enhanced = tags.is_enhanced
    return DicomSlice(
        file=tags.file,
        frame=ndx,
        instance=tags.text("SOPInstanceUID"),
        number=ndx + 1 if enhanced else tags.loose_integer("InstanceNumber"),
        acquisition=frame.loose_integer("FrameAcquisitionNumber" if enhanced else "AcquisitionNumber"),
        phase=shared((*map(frame.text, FRAME_PHASE_KEYWORDS if enhanced else PHASE_KEYWORDS), name_thickness(frame))),
        expected_count=tags.loose_integer("ImagesInAcquisition") or 0,
        position_xyz=position_xyz,
        position_digits=shared(tuple(map(last_digit, frame.texts("ImagePositionPatient")))),
        cosines=shared(read_cosines(frame)),
        pixel_size_xy=shared((col_mm, row_mm)),
        thickness_mm=frame.loose_length("SliceThickness"),
        spacing_mm=frame.loose_length("SpacingBetweenSlices") or tags.loose_length("SpacingBetweenSlices"),
        tilt_degrees=frame.loose_number("GantryDetectorTilt") or 0.0,
        pixels=read_pixel_format(tags, frame_count),
        scale=shared(read_scale(tags, frame)),
    )


@lru_cache
def shared(values: Value) -> Value:
    """Return one object for equal values: a data set has some hundred thousand slices, most of them alike."""
    return values


def read_cosines(frame: Attributes) -> Numbers:
    """Read the directions of rows and columns. Raises: InputError unless they are unit vectors at a right angle."""
    cosines = frame.numbers("ImageOrientationPatient", 6)
    axes = np.reshape(cosines, (2, 3))
    if not np.allclose(axes @ axes.T, np.eye(2), rtol=0, atol=ANGLE_TOLERANCE):
        raise frame.fault(f"ImageOrientationPatient {list(cosines)} is no right angle; export the series again")
    return cosines


def name_thickness(frame: Attributes) -> str:
    """Name a slice's thickness, in tenths of mm: reconstructions of two thicknesses can be in one series."""
    return f"{frame.loose_length('SliceThickness') or 0:.1f} mm"


def last_digit(text: str) -> float:
    """Return the unit of a number's last digit, 1 or less. Zeros at its end may be filled in: "100.50" is in tenths."""
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2].rstrip("0"))
    return min(1.0, 10.0 ** (int(exponent or 0) - decimals))
