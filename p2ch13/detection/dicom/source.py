"""What DICOM objects repeat of the series that they are made of, and how they refer to its images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import CTImageStorage
from pydicom.valuerep import DA, TM, validate_value

from p2ch13.util.errors import InputError, errors_naming
from p2ch13.volumes.dicom.slices import DicomSlice
from p2ch13.volumes.dicom.tags import PADDING, quiet_pydicom
from p2ch13.volumes.headers import ScanHeader

log = logging.getLogger(__name__)

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")  # no object can be without them
# Attributes of patient and study that every object has, if only empty (type 2); and others.
REPEATED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
OPTIONAL = ("StudyDescription", "IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod")
COMPRESSION = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
KEYWORDS = (*UIDS, *REPEATED, *OPTIONAL, *COMPRESSION, "SeriesNumber", "PositionReferenceIndicator")
SEVERAL_VALUES = {"DeidentificationMethod", *COMPRESSION}
CODES = {"PatientSex": ("M", "F", "O"), "PatientIdentityRemoved": ("YES", "NO"), "LossyImageCompression": ("00", "01")}


@dataclass(frozen=True)
class SourceImage:
    """An image, or a frame of one, that is a slice of the scan."""

    slice: DicomSlice
    sop_class: str

    @property
    def instance(self) -> str:
        return self.slice.instance

    @property
    def frame_number(self) -> int | None:
        """Counted from 1; None for an image of one frame."""
        return self.slice.frame + 1 if self.slice.pixels.frame_count > 1 else None


@dataclass(frozen=True, eq=False)
class Source:
    """A DICOM series, as objects repeat it and refer to it.

    Attributes:
        attributes: texts by keyword, those of `KEYWORDS`; "" for what the series lacks, or has with a value that the
            attribute cannot have.
        images: in the order of `Volume.as_stored`.
    """

    path: Path
    attributes: dict[str, str]
    slice_spacing_mm: float
    images: tuple[SourceImage, ...]

    @property
    def study_uid(self) -> str:
        return self.attributes["StudyInstanceUID"]

    @property
    def series_uid(self) -> str:
        return self.attributes["SeriesInstanceUID"]

    @property
    def frame_of_reference(self) -> str:
        return self.attributes["FrameOfReferenceUID"]

    @property
    def series_number(self) -> int:
        return int(self.attributes["SeriesNumber"] or 0)

    def instances(self) -> dict[str, str]:
        """Return the SOP class of each SOP instance."""
        return {image.instance: image.sop_class for image in self.images}


def read_source(header: ScanHeader) -> Source:
    """Read what objects need of a series; an attribute may be missing in some of its files.

    Raises: InputError, naming the series or the file, if objects cannot refer to its images.
    """
    check_instances(header.dicom_slices)
    datasets = {file: read_attributes(file) for file in header.dicom_files}
    found = {keyword: find_text(keyword, datasets.values()) for keyword in KEYWORDS}
    for keyword in UIDS:
        if not found[keyword]:
            raise InputError(f"has no {keyword}, by which DICOM objects refer to it", path=header.path)
    attributes = {keyword: text if keyword in UIDS else clean(keyword, text) for keyword, text in found.items()}
    if dropped := [keyword for keyword in KEYWORDS if found[keyword] and not attributes[keyword]]:
        log.warning(f"{header.path}: {', '.join(dropped)}: no values of these attributes; empty in the DICOM objects.")
    return Source(
        header.path,
        attributes,
        float(header.vx_size_xyz[2]),
        tuple(SourceImage(one, find_class(datasets[one.file])) for one in header.dicom_slices),
    )


def check_instances(slices: Sequence[DicomSlice]) -> None:
    """Raises: InputError, naming the file, unless each slice is a frame of its own instance."""
    files: dict[tuple[str, int], Path] = {}
    for one in slices:
        if not one.instance:
            raise InputError("has no SOPInstanceUID, by which DICOM objects refer to it", path=one.file)
        other = files.setdefault((one.instance, one.frame), one.file)
        if other != one.file:
            raise InputError(f"its SOPInstanceUID is that of {other.name}, and should be unique", path=one.file)


def read_attributes(file: Path) -> Dataset:
    """Read the attributes of a file that objects repeat, and those of its type."""
    with errors_naming(file), quiet_pydicom():
        keywords = ["SpecificCharacterSet", "SOPClassUID", *KEYWORDS]
        return dcmread(file, stop_before_pixels=True, specific_tags=keywords, force=True)


def find_class(dataset: Dataset) -> str:
    """Return the SOP class of a file; one that names none is a CT image by its modality."""
    classes = dataset.get("SOPClassUID"), dataset.file_meta.get("MediaStorageSOPClassUID"), CTImageStorage
    return str(next(one for one in classes if one))


def find_text(keyword: str, datasets: Iterable[Dataset]) -> str:
    """Return the text of an attribute in the first data set that has one; "" if none has. Several values are one."""
    return next((text for dataset in datasets if (text := read_text(keyword, dataset))), "")


def read_text(keyword: str, dataset: Dataset) -> str:
    with quiet_pydicom():
        try:
            value = dataset.get(keyword)
        except Exception:  # pydicom raises nearly anything for a value that is none
            return ""
    values = value if isinstance(value, MultiValue) else [] if value is None else [value]
    text = "\\".join(map(str, values)).strip(PADDING)
    return text if dataset.get("SpecificCharacterSet") else decode_undeclared(text)


def decode_undeclared(text: str) -> str:
    """Return a text of no declared character set, which pydicom reads as Latin-1, as UTF-8 if it can be that."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def clean(keyword: str, text: str) -> str:
    """Return a text as the value of an attribute; "" if it cannot be one."""
    vr = dictionary_VR(keyword)
    try:
        if vr == "DA" and text:
            text = DA(text).strftime("%Y%m%d")  # of the older 2020.01.31, too
        elif vr == "TM" and text:
            TM(text)
        elif keyword in CODES:
            text = text.upper()
        values = text.split("\\") if keyword in SEVERAL_VALUES else [text]
        for value in values:
            validate_value(vr, value, RAISE)
    except (ValueError, OverflowError):
        return ""
    is_code = text in CODES.get(keyword, (text,))
    is_single = keyword in SEVERAL_VALUES or "\\" not in text
    return text if is_code and is_single and text.isprintable() else ""
