"""How the pixels of a slice are stored, checked before anything decodes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from p2ch13.volumes.dicom.tags import UNDEFINED, Attributes, PixelSpan, Tags, damaged
from p2ch13.volumes.voxels import DEFLATE_RATIO

NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, ""}
DECODED = {  # by GDCM, as it comes with SimpleITK
    *(JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless),
    *(JPEG2000Lossless, JPEG2000, RLELossless),
}
HU_UNITS = ("", "HU", "US")  # of RescaleType; "US" is unspecified


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the pixels of a file are stored."""

    shape: tuple[int, int]  # rows, cols, of each frame
    frame_count: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    transfer_syntax: str
    is_big_endian: bool
    span: PixelSpan

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a pixel in memory, of its file's byte order."""
        byte_order, kind = "<>"[self.is_big_endian], "ui"[self.is_signed]
        return np.dtype(f"{byte_order}{kind}{self.bits_allocated // 8}")

    @property
    def frame_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Scale:
    """What turns a slice's stored values into HU.

    Attributes: padding: the first and the last value that stand for what was not scanned; None if there are none.
    """

    slope: float
    intercept: float
    padding: tuple[int, int] | None = None


def read_pixel_format(tags: Tags, frame_count: int) -> PixelFormat:
    """Read how pixels are stored. Raises: InputError for what is not read, or contradicts their number of bytes.

    Source: DICOM PS3.3, C.7.6.3, image pixel module; C.8.2.1, CT image module.
    """
    rows, cols, allocated, stored, high_bit, signed = (
        require(tags, name)
        for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    )
    if min(rows, cols) < 1:
        raise tags.fault(f"{rows} rows and {cols} columns; export the series again")
    if tags.text("PhotometricInterpretation") != "MONOCHROME2":
        photometric = tags.text("PhotometricInterpretation") or "is missing"
        raise tags.fault(f"PhotometricInterpretation {photometric}; convert it to MONOCHROME2, with dcmtk")
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or signed not in (0, 1):
        raise tags.fault(
            f"pixels of {stored} in {allocated} bits, PixelRepresentation {signed}; export the series again"
        )
    if high_bit != stored - 1:
        raise tags.fault(f"HighBit is {high_bit}, for {stored} bits {stored - 1} is right; export the series again")
    if tags.pixels is None or not tags.pixels.is_complete:
        raise damaged(tags.file, "cut short")
    syntax, is_big_endian = tags.transfer_syntax, tags.is_big_endian
    pixels = PixelFormat((rows, cols), frame_count, allocated, stored, bool(signed), syntax, is_big_endian, tags.pixels)
    check_span(tags, pixels)
    return pixels


def require(tags: Tags, keyword: str) -> int:
    value = tags.integer(keyword)
    if value is None:
        raise tags.fault(f"{keyword} is missing; export the series again")
    return value


def check_span(tags: Tags, pixels: PixelFormat) -> None:
    """Raises: InputError if the transfer syntax is not read, or the pixel data have another length than the pixels."""
    is_encapsulated = pixels.span.length == UNDEFINED
    syntax = pixels.transfer_syntax
    if syntax not in (DECODED if is_encapsulated else NATIVE):
        name = UID(syntax).name or "none"
        kind = "encapsulated" if is_encapsulated else "plain"
        raise tags.fault(f"{kind} pixels of transfer syntax {name}; export the series again, uncompressed")
    expected = pixels.frame_bytes * pixels.frame_count
    # Compression has limits as well, and memory is allocated before anything is decoded.
    if (is_encapsulated or pixels.span.offset is None) and expected > tags.file.stat().st_size * DEFLATE_RATIO:
        raise tags.fault(f"{expected:,} bytes of pixels cannot be in a file of its size; export the series again")
    if is_encapsulated:
        return
    if pixels.is_big_endian and (pixels.bits_allocated, pixels.span.vr) != (
        16,
        "OW",
    ):  # in which order is anyone's guess
        raise tags.fault("big-endian pixels that are not words of 16 bits; convert it, with dcmconv +te")
    # Padding behind the pixels is harmless; another frame's worth of it is none.
    if not expected <= pixels.span.length < expected + pixels.frame_bytes:
        size = " x ".join(map(str, (pixels.frame_count, *pixels.shape)))
        raise tags.fault(
            f"{pixels.span.length:,} bytes of pixels instead of {expected:,} for {size}; export the series again"
        )


def read_scale(tags: Tags, frame: Attributes) -> Scale:
    """Read what makes HU of a slice's stored values. Raises: InputError if it is missing, or makes something else."""
    unit = frame.text("RescaleType").upper()
    if unit not in HU_UNITS:
        raise tags.fault(f"values in {unit}, not in HU; choose a CT series")
    (slope,), (intercept,) = frame.numbers("RescaleSlope", 1), frame.numbers("RescaleIntercept", 1)
    if slope <= 0:
        raise tags.fault(f"RescaleSlope is {slope}; export the series again")
    return Scale(slope, intercept, read_padding(tags))


def read_padding(tags: Tags) -> tuple[int, int] | None:
    """Read the values of pixels that were not scanned. Source: DICOM PS3.3, C.7.5.1.1.2, pixel padding."""
    value, limit = (tags.loose_integer(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    return None if value is None else (value, value if limit is None else limit)
