"""A mask as a DICOM Segmentation object, which archives and viewers keep with the series that it belongs to."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from p2ch13.data.ct import Ct
from p2ch13.util.errors import InputError
from p2ch13.util.files import atomic_path

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

SERIES_NUMBER_OFFSET = 1000  # from the scan's series to that of its segmentation


def check_highdicom() -> None:
    """Raises: InputError if highdicom, which nothing else needs, is not installed."""
    if find_spec("highdicom") is None:
        raise InputError("--dicom-seg needs highdicom, which is not installed; pip install highdicom")


def check_is_dicom(ct: Ct) -> None:
    """Raises: InputError if the scan is none of DICOM files, to which a DICOM segmentation could refer."""
    if not ct.header.dicom_files:
        raise InputError(f"{ct.header.path}: no DICOM series, and --dicom-seg is for these; leave it out")


def write_dicom_segmentation(path: Path, mask: NDArray[np.bool_], ct: Ct) -> None:
    """Write a mask as one binary segment that refers to the slices of the scan. Without a nodule all of it is 0.

    Args: mask: (index, row, col).
    Raises: InputError, naming the scan, if its files lack what such an object must repeat, such as the study's UID.
    Source: DICOM PS3.3, A.51, segmentation IOD.
    """
    from highdicom import UID
    from highdicom.seg import Segmentation, SegmentationTypeValues
    from pydicom import dcmread

    slices = [dcmread(file, stop_before_pixels=True) for file in ct.header.dicom_files]
    try:
        with warnings.catch_warnings():  # about patients' names and the like
            warnings.simplefilter("ignore", UserWarning)
            segmentation = Segmentation(
                source_images=slices,
                pixel_array=mask.astype(np.uint8),
                segmentation_type=SegmentationTypeValues.BINARY,
                segment_descriptions=[describe_segment()],
                series_instance_uid=UID(),
                series_number=int(slices[0].get("SeriesNumber") or 0) + SERIES_NUMBER_OFFSET,
                series_description="Lung nodules, for research only",
                sop_instance_uid=UID(),
                instance_number=1,
                manufacturer="p2ch13",
                manufacturer_model_name="p2ch13",
                software_versions=package_version(),
                device_serial_number="0",
                omit_empty_frames=bool(mask.any()),
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{ct.header.path}: --dicom-seg cannot refer to it ({error}); leave it out") from None
    with atomic_path(path) as unfinished:
        segmentation.save_as(unfinished)


def describe_segment() -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    return SegmentDescription(
        segment_number=1,
        segment_label="Lung nodule",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Nodule,
        anatomic_regions=[codes.SCT.Lung],
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name="U-Net", version=package_version(), family=codes.DCM.ArtificialIntelligence
        ),
    )


def package_version() -> str:
    try:
        return version("p2ch13")
    except PackageNotFoundError:  # run from its folder
        return "not installed"
