"""What a DICOM file says, read by pydicom: nothing else reads a file before its tags have passed."""

from __future__ import annotations

import logging
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian

from p2ch13.util.contents import HEAD_BYTES, describe_content
from p2ch13.util.errors import InputError, errors_naming
from p2ch13.util.files import BoundedReader

DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
FLOAT_PIXEL_DATA, PIXEL_DATA = 0x7FE00008, 0x7FE00010
END_OF_ITEMS, ITEM = 0xFFFEE0DD, 0xFFFEE000
META_LENGTH = 0x00000002  # the tag (0002,0000), read as one number
DEFLATED = DeflatedExplicitVRLittleEndian.encode()
READ_AT_ONCE, INFLATED_AT_ONCE, MOST_INFLATED_BYTES = 2**14, 2**20, 2**30
UNDEFINED = 0xFFFFFFFF  # length of what ends with a tag
BINARY_VRS = {"US": False, "SS": True, "US or SS": False}  # whether they are signed
LONG_VRS = {"OB", "OW", "UN", "OF", "OD", "OL", "OV"}  # of pixel data, with lengths of four bytes
PADDING = " \0\t\r\n\v\f"  # around values: blanks by the standard, the others by its users
FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("SeriesNumber", "SeriesDescription", "FrameOfReferenceUID", "InstanceNumber", "AcquisitionNumber"),
    *("ImagesInAcquisition", "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase", "ConvolutionKernel"),
    *("KVP", "ContrastBolusAgent", "VolumeBasedCalculationTechnique", "GantryDetectorTilt"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleIntercept", "RescaleSlope", "RescaleType"),
    *FUNCTIONAL_GROUPS,
    *("FrameType", "FrameAcquisitionNumber", "TemporalPositionIndex", "StackID"),  # in these groups
)
TAGS: dict[str, int] = {keyword: tag_for_keyword(keyword) or 0 for keyword in KEYWORDS}


class Attributes:
    """The attributes of an image or of one of its frames. Methods raise InputError, naming the file.

    Args: sources: data sets, the first of them that has an attribute counts; byte_order: "little" or "big".
    """

    def __init__(self, file: Path, sources: Sequence[Dataset], byte_order: Any) -> None:
        self.file = file
        self._sources = sources
        self._byte_order = byte_order

    def fault(self, message: str) -> InputError:
        return InputError(message, path=self.file)

    def raw(self, keyword: str) -> Any:
        """Return an attribute's bytes as they stand in the file, or b"" if it is absent or empty.

        A number takes their place where pydicom has needed it for another attribute.
        """
        tag = TAGS[keyword]
        elements = (source.get_item(tag) for source in self._sources if tag in source)
        return next((element.value for element in elements if element.value not in (None, "", b"")), b"")

    def text(self, keyword: str) -> str:
        """Return an attribute's text without the padding around it; "" if it is absent."""
        value = self.raw(keyword)
        # Any bytes are text in Latin-1: identifiers are compared, not read, whatever their character set.
        return (value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip(PADDING)

    def texts(self, keyword: str) -> tuple[str, ...]:
        text = self.text(keyword)
        return tuple(part.strip(PADDING) for part in text.split("\\")) if text else ()

    def integer(self, keyword: str) -> int | None:
        """Return a whole number, None if it is absent. Raises: InputError if it is none, or several."""
        value = self.raw(keyword)
        vr = dictionary_VR(TAGS[keyword])
        if isinstance(value, bytes) and vr in BINARY_VRS:
            if len(value) not in (0, 2):
                raise self.fault(f"{keyword} has {len(value)} bytes instead of 2; export the series again")
            return int.from_bytes(value, self._byte_order, signed=BINARY_VRS[vr]) if value else None
        text = self.text(keyword)
        try:
            return int(text) if text else None
        except ValueError:
            raise self.fault(f"{keyword} is {text!r}, no whole number; export the series again") from None

    def loose_integer(self, keyword: str) -> int | None:
        """Return a whole number that nothing depends on but hints; None also for text that is none."""
        try:
            return self.integer(keyword)
        except InputError:
            return None

    def numbers(self, keyword: str, count: int) -> tuple[float, ...]:
        """Return so many finite numbers. Raises: InputError for others, or none."""
        texts = self.texts(keyword)
        try:
            values = tuple(float(text) for text in texts)
        except ValueError:
            values = ()
        if len(values) != count or not all(map(math.isfinite, values)):
            state = f"is {', '.join(texts)}, not {count} finite numbers" if texts else "is missing"
            raise self.fault(f"{keyword} {state}; export the series again")
        return values

    def loose_number(self, keyword: str) -> float | None:
        """Return a number that nothing depends on but hints; None also for what is none."""
        try:
            return self.numbers(keyword, 1)[0]
        except InputError:
            return None

    def loose_length(self, keyword: str) -> float | None:
        """Return a length in mm that nothing depends on but hints; None unless it is positive."""
        value = self.loose_number(keyword)
        return value if value is not None and value > 0 else None


@dataclass(frozen=True, slots=True)
class PixelSpan:
    """Where in the file the pixel data lie."""

    offset: int | None  # None: in the deflated part
    length: int  # UNDEFINED if they are encapsulated
    is_complete: bool = True  # the file does not end before they do
    vr: str = ""  # OB has no byte order, OW that of its file; "" in files without


class Tags(Attributes):
    """The attributes of a file. Attributes: `transfer_syntax`, "" if there is none; `pixels`, None if it has none."""

    def __init__(self, file: Path, dataset: Dataset, pixels: PixelSpan | None) -> None:
        is_little_endian = dataset.original_encoding[1]
        super().__init__(file, [dataset], "little" if is_little_endian is not False else "big")
        self._dataset = dataset
        self.pixels = pixels
        meta = getattr(dataset, "file_meta", None) or Dataset()
        self.transfer_syntax = str(meta.get("TransferSyntaxUID") or "").strip(PADDING)
        self.is_big_endian = self._byte_order == "big"
        self.sop_class = self.text("SOPClassUID") or str(meta.get("MediaStorageSOPClassUID") or "").strip(PADDING)

    @property
    def is_enhanced(self) -> bool:
        """Whether attributes stand in functional groups."""
        return any(name in self._dataset for name in FUNCTIONAL_GROUPS)

    def frame_groups(self) -> list[Attributes]:
        """Return what the functional groups say of each frame; a frame's own groups come before the shared ones.

        Source: DICOM PS3.3, C.7.6.16, multi-frame functional groups module.
        """
        shared, frames = map(self._items, FUNCTIONAL_GROUPS)
        common = self._macros(shared)
        return [Attributes(self.file, [*self._macros([frame]), *common], self._byte_order) for frame in frames]

    def _items(self, keyword: str) -> list[Dataset]:
        try:
            return list(self._dataset.get(keyword) or [])
        except Exception:  # pydicom raises nearly anything for a damaged sequence
            raise damaged(self.file) from None

    def _macros(self, groups: Sequence[Dataset]) -> list[Dataset]:
        try:
            return [item for group in groups for macro in group if macro.VR == "SQ" for item in macro.value]
        except Exception:
            raise damaged(self.file) from None


def damaged(file: Path, why: str = "") -> InputError:
    return InputError(f"damaged DICOM file{why and f' ({why})'}; copy or export it again", path=file)


def is_dicom(file: Path) -> bool:
    """Tell whether a file begins like one of DICOM: after a preamble, or at once with a group of tags."""
    with errors_naming(file), file.open("rb") as opened:
        head = opened.read(132)
    return head[128:] == b"DICM" or is_bare(head)


def seems_dicom(file: Path) -> bool:
    """Tell whether a file is one of DICOM, or is called like one: it may have been, before it was damaged."""
    return (file.suffix.lower() in DICOM_SUFFIXES and not file.name.startswith(".")) or is_dicom(file)


def is_bare(head: bytes) -> bool:
    """Tell whether a file begins with the tags of group 2 or 8, as files without preamble do."""
    if len(head) < 132:
        return False
    group, element, length = struct.unpack("<HHL", head[:8])
    has_vr = head[4:6].isalpha() and head[4:6].isupper()
    return group in (0x0002, 0x0008) and element <= 0x0018 and (has_vr or length <= 256)


def read_tags(file: Path) -> Tags:
    """Read the tags of a DICOM file and find its pixel data. Raises: InputError if it cannot be read, or is none."""
    if not is_dicom(file):
        with errors_naming(file), file.open("rb") as opened:
            kind = describe_content(opened.read(HEAD_BYTES))
        cure = f"it is {kind}" if kind else "copy or export it again"
        raise InputError(f"no DICOM file; {cure}", path=file)
    lengths: list[int] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if tag == PIXEL_DATA:
            lengths.append(length)
        return tag >= FLOAT_PIXEL_DATA

    try:
        with errors_naming(file), BoundedReader(file) as opened, quiet_pydicom():
            head = opened.read(HEAD_BYTES)
            is_without_preamble = head[128:132] != b"DICM"
            if DEFLATED in head:
                check_inflated_size(opened, head, 0 if is_without_preamble else 132)
            opened.seek(0)
            dataset = read_partial(opened, at_pixels, force=is_without_preamble, specific_tags=list(TAGS.values()))
            return Tags(file, dataset, find_pixels(opened, dataset, lengths[0]) if lengths else None)
    except (InputError, MemoryError):
        raise
    except Exception:  # pydicom raises nearly anything for a damaged file
        raise damaged(file) from None


def check_inflated_size(opened: BinaryIO, head: bytes, start: int) -> None:
    """Check that a deflated file fits into memory: pydicom inflates all of it at once.

    Args: start: of the meta header, whose first value is the length of the others.
    Raises: ValueError, zlib.error or struct.error if it does not, or is damaged.
    """
    tag, _, _, length = struct.unpack_from("<L2sHL", head, start)
    if tag != META_LENGTH:
        raise ValueError("no length of the meta header")
    opened.seek(start + 12 + length)
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while data := inflater.unconsumed_tail or opened.read(READ_AT_ONCE):
        size += len(inflater.decompress(data, INFLATED_AT_ONCE))
        if size > MOST_INFLATED_BYTES:
            raise ValueError("more than a scan of 2,000 slices")


def find_pixels(opened: BinaryIO, dataset: Dataset, length: int) -> PixelSpan:
    """Find the pixel data of a file, which was read up to their tag."""
    if dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return PixelSpan(None, length)
    is_implicit, _ = dataset.original_encoding
    start = opened.tell()
    vr = "" if is_implicit else opened.read(6)[4:].decode("latin-1")
    offset = start + (12 if vr in LONG_VRS else 8)
    if length == UNDEFINED:
        return PixelSpan(offset, length, has_end(opened, offset), vr)
    return PixelSpan(offset, length, offset + length <= os.fstat(opened.fileno()).st_size, vr)


def has_end(opened: BinaryIO, offset: int) -> bool:
    """Tell whether the fragments of encapsulated pixel data, always little-endian, are followed by their end's tag."""
    opened.seek(offset)
    while len(head := opened.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", head)
        tag = group << 16 | element
        if tag != ITEM or length == UNDEFINED:
            return bool(tag == END_OF_ITEMS)
        opened.seek(length, os.SEEK_CUR)
    return False


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence what pydicom logs and warns of in files that break rules; what matters of it is checked here."""
    logger = logging.getLogger("pydicom")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled
