"""DICOM Structured Report of measurements: a measurement group for each finding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from p2ch13.detection.dicom.objects import MAKER, Algorithm, Nodule, new_series, repeat_attributes
from p2ch13.detection.dicom.outlines import Outlines, Points
from p2ch13.detection.dicom.source import Source, SourceImage
from p2ch13.detection.size_categories import round_half_up

if TYPE_CHECKING:
    from highdicom.sr import Comprehensive3DSR, ImageRegion, Measurement
    from highdicom.sr.value_types import ContainerContentItem, ContentItem

SERIES_NUMBER_OFFSET = 1002
DESCRIPTION = "Lung nodules, measurements, for research only"
DEVICE_UID = "2.25.142903838893436012467427041735842113561"  # of this program, in all reports
CHEST_CT = Code("24627-2", "LN", "CT Chest")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
PERCENT_DIGITS = 12  # as many as a probability and 100 have together without the last one's error
PIXEL_CENTER = 0.5  # of the first pixel, in coordinates of an image


def make_report(
    source: Source,
    outlines: Outlines,
    nodules: Sequence[Nodule],
    algorithm: Algorithm,
    segmentation: Dataset | None = None,
) -> Comprehensive3DSR:
    """Make a DICOM Comprehensive 3D SR with the measurements of each finding.

    Without findings, it says that nodules are absent, and has no measurement group.

    Args: segmentation: whose segments the measurements are of; without one they are of `outlines`.
    Source: DICOM PS3.16, TID 1500, measurement report; TID 1411, volumetric ROI measurements.
    """
    from highdicom.sr import Comprehensive3DSR

    content = report_measurements(source, outlines, nodules, algorithm, segmentation) if nodules else report_absence()
    evidence = [describe_instance(source, *each) for each in source.instances().items()]
    return Comprehensive3DSR(
        evidence=evidence if segmentation is None else [*evidence, segmentation],
        content=make_document(content),
        is_complete=True,
        **new_series(source, SERIES_NUMBER_OFFSET, DESCRIPTION),
    )


def describe_instance(source: Source, instance: str, sop_class: str) -> Dataset:
    described = repeat_attributes(source)
    described.SOPClassUID, described.SOPInstanceUID = sop_class, instance
    described.SeriesInstanceUID = source.series_uid
    return described


def make_document(content: ContentItem) -> ContainerContentItem:
    """Return the root of the report: who observed what, and its content.

    `highdicom.sr.MeasurementReport` makes the same, but not without measurements.
    """
    from highdicom.sr import (
        CodedConcept,
        DeviceObserverIdentifyingAttributes,
        LanguageOfContentItemAndDescendants,
        ObservationContext,
        ObserverContext,
    )
    from highdicom.sr.value_types import CodeContentItem, ContainerContentItem, ContentSequence
    from pydicom.sr.codedict import codes

    device = DeviceObserverIdentifyingAttributes(uid=DEVICE_UID, name=MAKER, manufacturer_name=MAKER, model_name=MAKER)
    observer = ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    document = ContainerContentItem(name=codes.DCM.ImagingMeasurementReport, template_id="1500")
    document.ContentSequence = ContentSequence(
        [
            *LanguageOfContentItemAndDescendants(CodedConcept("en-US", "RFC5646", "English (United States)")),
            *ObservationContext(observer_device_context=observer),
            CodeContentItem(codes.DCM.ProcedureReported, CHEST_CT, relationship_type="HAS CONCEPT MOD"),
            content,
        ]
    )
    return document


def report_absence() -> ContainerContentItem:
    from highdicom.sr import QualitativeEvaluation
    from highdicom.sr.value_types import ContainerContentItem, ContentSequence
    from pydicom.sr.codedict import codes

    evaluations = ContainerContentItem(QUALITATIVE_EVALUATIONS, relationship_type="CONTAINS")
    evaluations.ContentSequence = ContentSequence(QualitativeEvaluation(codes.SCT.Nodule, codes.SCT.Absent))
    return evaluations


def report_measurements(
    source: Source,
    outlines: Outlines,
    nodules: Sequence[Nodule],
    algorithm: Algorithm,
    segmentation: Dataset | None,
) -> ContainerContentItem:
    from highdicom.sr import (
        AlgorithmIdentification,
        FindingSite,
        TrackingIdentifier,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )
    from highdicom.sr.value_types import ContainerContentItem, ContentSequence
    from pydicom.sr.codedict import codes

    sides = {"left": codes.SCT.Left, "right": codes.SCT.Right, None: None}
    container = ContainerContentItem(codes.DCM.ImagingMeasurements, relationship_type="CONTAINS")
    container.ContentSequence = ContentSequence()
    for nodule in nodules:
        group = VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(uid=nodule.uid, identifier=nodule.name),
            finding_type=codes.SCT.Nodule,
            finding_sites=[FindingSite(codes.SCT.Lung, laterality=sides[nodule.side])],
            algorithm_id=AlgorithmIdentification(name=algorithm.name, version=algorithm.version),
            measurements=measure_nodule(nodule),
            **refer_to_region(source, outlines, nodule, segmentation),
        )
        container.ContentSequence.extend(group)
    return container


def measure_nodule(nodule: Nodule) -> list[Measurement]:
    """Return the measurements of a finding, as `nodules.csv` has them."""
    from highdicom.sr import Measurement
    from pydicom.sr.codedict import codes

    measures, percent = nodule.measures, 100 * nodule.finding.probability
    mm, mm3, hu = codes.UCUM.Millimeter, codes.UCUM.CubicMillimeter, codes.UCUM.HounsfieldUnit
    rows: list[tuple[Code, float, Code, Code | None]] = [
        (codes.SCT.LongAxis, float(round_half_up(measures.axes.long.length_mm, "0.1")), mm, None),
        (codes.SCT.ShortAxis, float(round_half_up(measures.axes.short.length_mm, "0.1")), mm, None),
        (codes.SCT.Diameter, float(round_half_up(measures.axes.mean_mm, "0.1")), mm, codes.SCT.Mean),
        (codes.SCT.Volume, round(measures.volume_mm3, 1), mm3, None),
        (codes.DCM.AttenuationCoefficient, int(round_half_up(measures.mean_hu, "1")), hu, codes.SCT.Mean),
        (codes.DCM.CertaintyOfFinding, round(percent, PERCENT_DIGITS), codes.UCUM.Percent, None),
    ]
    return [Measurement(name, value, unit, derivation=derivation) for name, value, unit, derivation in rows]


def refer_to_region(source: Source, outlines: Outlines, nodule: Nodule, segmentation: Dataset | None) -> dict[str, Any]:
    """Refer to a finding's segment, or else to its outlines in the images."""
    from highdicom.sr import ReferencedSegment, SourceSeriesForSegmentation

    if segmentation is None:
        return {"referenced_regions": [outline_region(*each) for each in outlines[nodule.number]]}
    segment = ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=nodule.number,
        source_series=SourceSeriesForSegmentation(source.series_uid),
    )
    return {"referenced_segment": segment}


def outline_region(image: SourceImage, outline: Points) -> ImageRegion:
    from highdicom.sr import GraphicTypeValues, ImageRegion, SourceImageForRegion

    closed = [*outline, outline[0]]
    return ImageRegion(
        graphic_type=GraphicTypeValues.POLYLINE,
        graphic_data=np.array(closed)[:, ::-1] + PIXEL_CENTER,
        source_image=SourceImageForRegion(
            image.sop_class, image.instance, None if image.frame_number is None else [image.frame_number]
        ),
    )
