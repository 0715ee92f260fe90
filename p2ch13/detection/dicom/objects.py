"""What all DICOM objects of a scan's findings have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from p2ch13 import __version__
from p2ch13.detection.dicom.source import OPTIONAL, REPEATED, Source, SourceImage
from p2ch13.detection.findings import Finding
from p2ch13.detection.measure import Measures

LATIN_1, UTF_8 = "ISO_IR 100", "ISO_IR 192"  # the first one is what older programs read
MAKER = "p2ch13"
SERIAL_NUMBER = "0"  # software has none, and the attribute may not be empty
NOTHING_FOUND = "No nodule found"
LARGEST_SERIES_NUMBER = 2**31 - 1
NAME_LENGTH = 64  # of an algorithm, a segment or an ROI


@dataclass(frozen=True)
class Nodule:
    """A finding as all objects name it.

    Attributes: side: "left", "right", or None if it is unknown; uid: the same in all objects.
    """

    finding: Finding
    measures: Measures
    side: str | None
    uid: str

    @property
    def number(self) -> int:
        return self.finding.number

    @property
    def name(self) -> str:
        return f"Nodule {self.number}"

    @property
    def label(self) -> str:
        return f"{self.name} (probability {self.finding.probability:.2f})"


@dataclass(frozen=True)
class Algorithm:
    """What found the nodules: the network by its name, and this package's version."""

    name: str
    version: str = __version__

    @classmethod
    def of(cls, networks: Sequence[str]) -> Algorithm:
        """Name it by its networks, in ASCII: their names are any text."""
        names = "+".join(networks)
        plain = "".join(letter if letter.isascii() and letter.isprintable() else "_" for letter in names)
        return cls(plain.replace("\\", "_")[:NAME_LENGTH].strip() or MAKER)


def name_nodules(
    findings: Sequence[Finding], measures: Sequence[Measures], sides: Sequence[str | None]
) -> list[Nodule]:
    """Give each finding its UID. Args: measures, sides: of the findings, in their order."""
    return [
        Nodule(finding, measured, side, generate_uid(prefix=None))
        for finding, measured, side in zip(findings, measures, sides, strict=True)
    ]


def repeat_attributes(source: Source) -> Dataset:
    """Return the attributes of patient and study that an object repeats of its series."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = choose_character_set(source.attributes.values())
    dataset.StudyInstanceUID = source.study_uid
    for keyword in REPEATED:
        setattr(dataset, keyword, source.attributes[keyword])
    for keyword in OPTIONAL:
        if text := source.attributes[keyword]:
            setattr(dataset, keyword, text.split("\\") if "\\" in text else text)
    if dataset.get("PatientIdentityRemoved") == "YES" and "DeidentificationMethod" not in dataset:
        dataset.DeidentificationMethod = "That of the images"  # may be a code there, and has to be one or the other
    return dataset


def choose_character_set(texts: Iterable[str]) -> str:
    try:
        "".join(texts).encode("latin-1")
    except UnicodeEncodeError:
        return UTF_8
    return LATIN_1


def new_series(source: Source, offset: int, description: str) -> dict[str, Any]:
    """Return what identifies an object, which is the only one of a new series, as arguments of highdicom's classes.

    Args: offset: from the scan's series number to that of the object.
    """
    number = source.series_number + offset
    return {
        "series_instance_uid": generate_uid(prefix=None),
        "series_number": number if offset <= number <= LARGEST_SERIES_NUMBER else offset,
        "series_description": description,
        "sop_instance_uid": generate_uid(prefix=None),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": __version__,
        "device_serial_number": SERIAL_NUMBER,
    }


def refer_to(image: SourceImage) -> Dataset:
    """Return a reference to an image, or to a frame of one."""
    reference = refer_to_instance(image.sop_class, image.instance)
    if image.frame_number is not None:
        reference.ReferencedFrameNumber = image.frame_number
    return reference


def refer_to_instance(sop_class: str, instance: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class
    reference.ReferencedSOPInstanceUID = instance
    return reference


def refer_to_instances(source: Source) -> list[Dataset]:
    """Return a reference to each image of the series."""
    return [refer_to_instance(sop_class, instance) for instance, sop_class in source.instances().items()]
