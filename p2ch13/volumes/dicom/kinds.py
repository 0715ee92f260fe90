"""Which DICOM objects are slices of a CT scan."""

from __future__ import annotations

import re
from typing import NamedTuple

from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from p2ch13.volumes.dicom.tags import Attributes, Tags

CT_CLASSES = {str(CTImageStorage), str(EnhancedCTImageStorage), str(LegacyConvertedEnhancedCTImageStorage)}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # also of several frames: with another number behind it
UNNAMED = "unnamed object"
DIRECTORY = MediaStorageDirectoryStorage.name  # of a DICOMDIR
LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}
# Words of ImageType, VolumeBasedCalculationTechnique and SeriesDescription; digits and underscores end a word.
PROJECTION = re.compile(
    r"(?<![A-Z])((MAX|MIN|MEAN|AVG)?[ _-]?I?MIP|(MAX|MIN|MEAN|AVG)[ _-]?IP|MINIP|PROJECTION|VRT|SSD"
    r"|(VOLUME|SURFACE)[ _]REND\w*|CURVED[ _]MPR|MPR[ _]CURVED)(?![A-Z])"
)
MATERIAL_MAPS = {"MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_MODIFIED", "MAT_VALUE_BASED"}
MATERIAL_MAPS |= {"EFF_ATOMIC_NUM", "ELECTRON_DENSITY"}


class Kind(NamedTuple):
    """What a slice is of: `left_out` names why it is none of a scan, "" if it is one."""

    left_out: str = ""
    is_original: bool = True


def name_object(tags: Tags) -> str:
    """Name what a file holds in place of CT slices; "" if it holds these.

    A CT image is told by its SOP class, and without one by its modality.
    """
    modality = tags.text("Modality").upper()
    if tags.sop_class in CT_CLASSES:
        return "color picture" if is_colored(tags) else ""
    if tags.sop_class.startswith(SECONDARY_CAPTURE):
        return "secondary capture"
    if tags.sop_class:
        return modality if modality not in ("", "CT") else UID(tags.sop_class).name
    return "" if modality == "CT" else modality or UNNAMED


def is_colored(tags: Tags) -> bool:
    return (tags.loose_integer("SamplesPerPixel") or 1) > 1


def find_kind(attributes: Attributes, image_type_of: str = "ImageType") -> Kind:
    """Tell a slice of a scan from a localizer and from what was computed of a scan, by its ImageType.

    A description counts for a derived series alone: people name a scan after what they mean to make of it.

    Args: image_type_of: the attribute's name, which is FrameType in functional groups.
    Source: DICOM PS3.3, C.8.2.1.1.1, image type; C.8.15.2, multi-energy CT; vendors' own values.
    """
    values = [value.upper() for value in attributes.texts(image_type_of)]
    is_original = not values or values[0] != "DERIVED"
    texts = [*values[2:], attributes.text("VolumeBasedCalculationTechnique").upper()]
    texts += [] if is_original else [attributes.text("SeriesDescription").upper()]
    if LOCALIZERS & set(values):
        return Kind("localizer", is_original)
    if MATERIAL_MAPS & set(values):
        return Kind("material map", is_original)
    if any(map(PROJECTION.search, texts)):
        return Kind("projection", is_original)
    if "SCREEN SAVE" in values:
        return Kind("secondary capture", is_original)
    return Kind("", is_original)
