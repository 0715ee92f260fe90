"""The pixels of a slice: their format, checked before anything decodes them, and their values in HU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
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
    SecondaryCaptureImageStorage,
)
from scipy import ndimage

from p2ch13.util.errors import InputError, errors_naming
from p2ch13.volumes.dicom.tags import UNDEFINED, Attributes, PixelSpan, Tags, damaged, quiet_pydicom
from p2ch13.volumes.headers import DEFLATE_RATIO

IMAGE_IO = "GDCMImageIO"  # ITK's reader of DICOM
NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, ""}
DECODED = {  # by GDCM, as it comes with SimpleITK
    *(JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless),
    *(JPEG2000Lossless, JPEG2000, RLELossless),
}
HU_UNITS = ("", "HU", "US")  # of RescaleType; "US" is unspecified
AIR_HU = -1000
DENSEST_HU = 3071  # of 12 bits, the range of CT
LARGEST_WHOLE = 2**14  # slope or intercept; int32 then holds the HU of all pixels of 16 bits


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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
        raise tags.fault(f"{kind} pixels of transfer syntax {name}; convert it, with dcmdjpeg or gdcmconv --raw")
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


def read_hu(pixels: PixelFormat, scale: Scale, file: Path, frame: int) -> NDArray[Any]:
    """Read one slice (row, col) in HU, of whole numbers or float64; what was not scanned is air, or thinner.

    Raises: InputError if it cannot be decoded.
    """
    stored = decode(pixels, file, frame) if pixels.span.length == UNDEFINED else read_native(pixels, file, frame)
    unused_bits = pixels.bits_allocated - pixels.bits_stored  # may hold an overlay, or nothing in place of the sign
    values = (stored << unused_bits) >> unused_bits
    hu = rescale(values, scale)
    if scale.padding is not None:
        fill_padding(hu, find_padding(stored, scale.padding))
    return hu


def rescale(values: NDArray[Any], scale: Scale) -> NDArray[Any]:
    numbers = scale.slope, scale.intercept
    if values.dtype.itemsize <= 2 and all(number.is_integer() and abs(number) < LARGEST_WHOLE for number in numbers):
        slope, intercept = map(int, numbers)
        hu: NDArray[Any] = values.astype(np.int32)
        return hu * slope + intercept if slope != 1 else np.add(hu, intercept, out=hu)
    return values * scale.slope + scale.intercept


def find_padding(stored: NDArray[Any], padding: tuple[int, int]) -> NDArray[np.bool_]:
    """Mark the stored values from one end of a range to the other, whichever way is shorter.

    Files write the ends with or without a sign, whether pixels have one or not: 63536 is -2000. So values count in a
    circle here, as their bits do.
    """
    unsigned = stored.astype(stored.dtype.newbyteorder("=")).view(f"u{stored.dtype.itemsize}")
    circle = 2 ** (8 * stored.dtype.itemsize)
    low, high = padding
    if (high - low) % circle > (low - high) % circle:
        low, high = high, low
    away = unsigned - unsigned.dtype.type(low % circle)  # wraps
    is_padding: NDArray[np.bool_] = away <= (high - low) % circle
    return is_padding


def fill_padding(hu: NDArray[Any], is_padding: NDArray[np.bool_]) -> None:
    """Turn padding to air unless it is thinner.

    Padding that could as well be tissue counts only where it reaches the border: some files name 0, and have it in HU.
    """
    dense = is_padding & (hu > AIR_HU)
    if not dense.any():
        return
    labels, _ = ndimage.label(dense & (hu <= DENSEST_HU))
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    reaches_border = np.isin(labels, edges[edges > 0])
    hu[(dense & (hu > DENSEST_HU)) | reaches_border] = AIR_HU


def read_native(pixels: PixelFormat, file: Path, frame: int) -> NDArray[Any]:
    """Read the stored values of a frame (row, col) that is not compressed."""
    count = pixels.shape[0] * pixels.shape[1]
    with errors_naming(file), file.open("rb") as opened:
        if pixels.span.offset is None:
            with quiet_pydicom():
                data = dcmread(opened).PixelData[frame * pixels.frame_bytes :][: pixels.frame_bytes]
        else:
            opened.seek(pixels.span.offset + frame * pixels.frame_bytes)
            data = opened.read(pixels.frame_bytes)
    if len(data) < pixels.frame_bytes:
        raise damaged(file, "cut short")
    return np.frombuffer(data, pixels.dtype, count).reshape(pixels.shape)


def decode(pixels: PixelFormat, file: Path, frame: int) -> NDArray[Any]:
    """Decompress the stored values of a frame (row, col), by GDCM.

    GDCM gets a file of its own with nothing in it but the pixels and what is known of them: it neither sees names that
    are no UTF-8, which end the process, nor rescales by tags of another frame.
    Raises: InputError if it cannot decode them, or gets another number of them.
    """
    try:
        with errors_naming(file), file.open("rb") as opened:
            opened.seek(pixels.span.offset or 0)
            encoded = get_frame(opened, frame, number_of_frames=pixels.frame_count)
    except ValueError as error:
        raise error if isinstance(error, InputError) else damaged(file) from None
    with tempfile.TemporaryDirectory() as folder, errors_naming(file), no_warnings():
        path = Path(folder, "frame.dcm")
        dcmwrite(path, make_image(pixels, encoded), enforce_file_format=True)
        image = sitk.ReadImage(str(path), imageIO=IMAGE_IO)
    values = sitk.GetArrayFromImage(image)
    if values.shape != (1, *pixels.shape) or values.dtype.kind not in "iu":
        raise damaged(file, f"pixels of {values.shape} in place of {pixels.shape}")
    return values[0].astype(pixels.dtype)  # type: ignore[no-any-return]


def make_image(pixels: PixelFormat, encoded: bytes) -> Dataset:
    """Make a DICOM object of one frame, without a scale."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = UID(pixels.transfer_syntax)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = (
        pixels.bits_allocated,
        pixels.bits_stored,
        pixels.bits_stored - 1,
    )
    image.PixelRepresentation = int(pixels.is_signed)
    image.PixelData = encapsulate([encoded])
    image["PixelData"].VR = "OB"
    return image


@contextmanager
def no_warnings() -> Iterator[None]:
    """Silence ITK's warnings, several lines each."""
    was_on = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(was_on)
