"""DICOM Segmentation: a segment for each finding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from p2ch13.detection.colors import MARKED
from p2ch13.detection.dicom.objects import (
    NOTHING_FOUND,
    Algorithm,
    Nodule,
    new_series,
    refer_to,
    refer_to_instances,
    repeat_attributes,
)
from p2ch13.detection.dicom.source import COMPRESSION, Source, SourceImage

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription

SERIES_NUMBER_OFFSET = 1000
DESCRIPTION = "Lung nodules, segments, for research only"


def make_segmentation(
    source: Source, labels: NDArray[np.int32], nodules: Sequence[Nodule], algorithm: Algorithm
) -> Segmentation:
    """Make a DICOM Segmentation of binary segments, whose numbers are those of the findings.

    Each segment has the frames that hold a part of it. Without findings, a single segment has all frames, empty: an
    object has to have one.

    Args: labels: (index, row, col), in the order of the files; the finding's number of each voxel, 0 for none.
    Source: DICOM PS3.3, A.51, segmentation IOD.
    """
    from highdicom.seg import Segmentation, SegmentationTypeValues

    images = [describe_image(source, image, ndx) for ndx, image in enumerate(source.images)]
    segmentation = Segmentation(
        source_images=images,
        pixel_array=labels.astype(np.uint16),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=describe_segments(nodules, algorithm),
        omit_empty_frames=bool(nodules),
        **new_series(source, SERIES_NUMBER_OFFSET, DESCRIPTION),
    )
    refer_to_source(segmentation, source)
    return segmentation


def describe_image(source: Source, image: SourceImage, ndx: int) -> Dataset:
    """Describe a slice to highdicom as an image of its own, which it takes several of, unlike images of several frames.

    `refer_to_source` puts its instance in the place of the slice's name.
    """
    described = repeat_attributes(source)
    one = image.slice
    described.SOPClassUID, described.SOPInstanceUID = CTImageStorage, name_image(ndx)
    described.SeriesInstanceUID, described.Modality = source.series_uid, "CT"
    described.FrameOfReferenceUID = source.frame_of_reference
    described.PositionReferenceIndicator = source.attributes["PositionReferenceIndicator"]
    described.Rows, described.Columns = one.shape
    described.ImagePositionPatient = list(one.position_xyz)
    described.ImageOrientationPatient = list(source.images[0].slice.cosines)  # of all slices, but for rounding
    described.PixelSpacing = list(reversed(source.images[0].slice.pixel_size_xy))
    described.SliceThickness = one.thickness_mm or source.slice_spacing_mm
    described.SpacingBetweenSlices = source.slice_spacing_mm
    for keyword in COMPRESSION:
        if text := source.attributes[keyword]:
            setattr(described, keyword, text.split("\\"))
    return described


def name_image(ndx: int) -> str:
    """Name a slice for as long as highdicom takes it for an image."""
    return f"slice {ndx}"


def refer_to_source(segmentation: Segmentation, source: Source) -> None:
    """Have all references name the images and frames of the series."""
    segmentation.SourceImageSequence = refer_to_instances(source)
    segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = refer_to_instances(source)
    images = {name_image(ndx): image for ndx, image in enumerate(source.images)}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        (reference,) = frame.DerivationImageSequence[0].SourceImageSequence
        if image := images.get(reference.ReferencedSOPInstanceUID):  # frames of one slice share their reference
            reference.update(refer_to(image))


def describe_segments(nodules: Sequence[Nodule], algorithm: Algorithm) -> list[SegmentDescription]:
    """Describe the segment of each finding; without any, one that says so."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    def describe(number: int, label: str, uid: str | None = None, name: str | None = None) -> SegmentDescription:
        return SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Nodule,
            anatomic_regions=[codes.SCT.Lung],
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=AlgorithmIdentificationSequence(
                name=algorithm.name, version=algorithm.version, family=codes.DCM.ArtificialIntelligence
            ),
            display_color=CIELabColor.from_rgb(*MARKED.rgb),
            tracking_uid=uid,
            tracking_id=name,
        )

    described = [describe(each.number, each.label, each.uid, each.name) for each in nodules]
    return described or [describe(1, NOTHING_FOUND)]
