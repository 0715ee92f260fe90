"""DICOM RT Structure Set: a region of interest (ROI) with the outlines of each finding."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from p2ch13.detection.colors import MARKED
from p2ch13.detection.dicom.objects import (
    NOTHING_FOUND,
    Algorithm,
    Nodule,
    new_series,
    refer_to,
    refer_to_instance,
    refer_to_instances,
    repeat_attributes,
)
from p2ch13.detection.dicom.outlines import Outlines, Points
from p2ch13.detection.dicom.source import Source, SourceImage
from p2ch13.volumes.dicom.slices import DicomSlice

SERIES_NUMBER_OFFSET = 1001
DESCRIPTION = "Lung nodules, contours, for research only"
LABEL = "Lung nodules"  # at most 16 letters
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: what a reference to a study names
MM3_PER_CM3 = 1000.0
DIGITS = 3  # of coordinates in mm


def make_structure_set(source: Source, outlines: Outlines, nodules: Sequence[Nodule], algorithm: Algorithm) -> Dataset:
    """Make a DICOM RT Structure Set, whose ROI numbers are those of the findings.

    Without findings, a single ROI says so, without contours: an object has to have one. The contours are as long as
    they need to be, which explicit VR does not allow.

    Source: DICOM PS3.3, A.19, RT structure set IOD; C.8.8.6, ROI contour module.
    """
    series = new_series(source, SERIES_NUMBER_OFFSET, DESCRIPTION)
    now = datetime.now()
    made = repeat_attributes(source)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = RTStructureSetStorage, series["sop_instance_uid"]
    made.Modality, made.SeriesInstanceUID = "RTSTRUCT", series["series_instance_uid"]
    made.SeriesNumber, made.InstanceNumber = series["series_number"], series["instance_number"]
    made.SeriesDescription, made.OperatorsName = series["series_description"], ""
    made.Manufacturer, made.ManufacturerModelName = series["manufacturer"], series["manufacturer_model_name"]
    made.SoftwareVersions, made.DeviceSerialNumber = series["software_versions"], series["device_serial_number"]
    made.StructureSetLabel, made.StructureSetName = LABEL, DESCRIPTION
    made.StructureSetDate, made.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.InstanceCreationDate, made.InstanceCreationTime = made.StructureSetDate, made.StructureSetTime
    made.FrameOfReferenceUID = source.frame_of_reference
    made.PositionReferenceIndicator = source.attributes["PositionReferenceIndicator"]
    made.ApprovalStatus = "UNAPPROVED"
    made.ReferencedFrameOfReferenceSequence = [refer_to_frame_of_reference(source)]
    rois = [(each.number, each.label) for each in nodules] or [(1, NOTHING_FOUND)]
    made.StructureSetROISequence = [name_roi(source, *roi, algorithm) for roi in rois]
    for roi, nodule in zip(made.StructureSetROISequence, nodules, strict=False):
        roi.ROIVolume = f"{nodule.finding.volume_mm3 / MM3_PER_CM3:.4f}"
    made.ROIContourSequence = [draw_roi(number, outlines.get(number, [])) for number, _ in rois]
    made.RTROIObservationsSequence = [observe_roi(number, label) for number, label in rois]
    return made


def refer_to_frame_of_reference(source: Source) -> Dataset:
    """Refer to the frame of reference by all images of the series."""
    series = Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ContourImageSequence = refer_to_instances(source)
    study = refer_to_instance(STUDY_CLASS, source.study_uid)
    study.RTReferencedSeriesSequence = [series]
    reference = Dataset()
    reference.FrameOfReferenceUID = source.frame_of_reference
    reference.RTReferencedStudySequence = [study]
    return reference


def name_roi(source: Source, number: int, label: str, algorithm: Algorithm) -> Dataset:
    roi = Dataset()
    roi.ROINumber, roi.ROIName = number, label
    roi.ReferencedFrameOfReferenceUID = source.frame_of_reference
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    roi.ROIGenerationDescription = f"{algorithm.name}, {algorithm.version}"[:64]
    return roi


def draw_roi(number: int, outlines: Sequence[tuple[SourceImage, Points]]) -> Dataset:
    """Return the contours of an ROI; none if there are no outlines."""
    roi = Dataset()
    roi.ReferencedROINumber, roi.ROIDisplayColor = number, list(MARKED.rgb)
    if outlines:
        roi.ContourSequence = [draw_contour(ndx, *each) for ndx, each in enumerate(outlines, 1)]
    return roi


def draw_contour(number: int, image: SourceImage, outline: Points) -> Dataset:
    contour = Dataset()
    contour.ContourNumber = number
    contour.ContourImageSequence = [refer_to(image)]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(outline)
    contour.ContourData = [f"{value:.{DIGITS}f}" for value in to_patient(image.slice, outline).ravel()]
    return contour


def to_patient(one: DicomSlice, points: Points) -> NDArray[np.float64]:
    """Turn pixels of a slice, (point, 2), into mm of the patient, (point, 3)."""
    steps_mm = points[:, ::-1] * one.pixel_size_xy  # to the next col, to the next row
    placed: NDArray[np.float64] = one.position_xyz + steps_mm @ np.reshape(one.cosines, (2, 3))
    return placed


def observe_roi(number: int, label: str) -> Dataset:
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.RTROIInterpretedType = observation.ROIInterpreter = ""  # no volume of a treatment plan
    return observation
