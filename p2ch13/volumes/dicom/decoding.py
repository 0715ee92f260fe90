"""The stored values of a slice, decoded, and what they are in HU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import UID, SecondaryCaptureImageStorage
from scipy import ndimage

from p2ch13.util.errors import InputError, errors_naming
from p2ch13.util.files import BoundedReader
from p2ch13.volumes.dicom.pixels import PixelFormat, Scale
from p2ch13.volumes.dicom.tags import UNDEFINED, damaged, quiet_pydicom

IMAGE_IO = "GDCMImageIO"  # ITK's reader of DICOM
AIR_HU = -1000
DENSEST_HU = 3071  # of 12 bits, the range of CT
LARGEST_WHOLE = 2**14  # slope or intercept; int32 then holds the HU of all pixels of 16 bits


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
    with errors_naming(file), BoundedReader(file) as opened:
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
        with errors_naming(file), BoundedReader(file) as opened:
            opened.seek(pixels.span.offset or 0)
            encoded = get_frame(opened, frame, number_of_frames=pixels.frame_count)
    except ValueError as error:
        raise error if isinstance(error, InputError) else damaged(file) from None
    with tempfile.TemporaryDirectory() as folder, errors_naming(file), no_warnings():
        path = Path(folder, "frame.dcm")
        dcmwrite(path, make_image(pixels, encoded), enforce_file_format=True)
        try:
            image = sitk.ReadImage(str(path), imageIO=IMAGE_IO)
        except RuntimeError:  # with lines of ITK's own
            raise damaged(file, "its pixels cannot be decompressed") from None
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
