"""Structured Reports, read by highdicom and, as plain items, by pydicom."""

import numpy as np
import pytest
from pydicom import dcmread

from p2ch13.detection.dicom.writer import SEG, SR
from tests.support.dicom_files import SERIES_UID, write_enhanced, write_series

highdicom = pytest.importorskip("highdicom")

MM, HU, PERCENT = "mm", "[hnsf'U]", "%"


def read_numbers(group):
    """Name, value and unit of each measurement of a group, by pydicom alone."""
    numbers = [item for item in group.ContentSequence if item.ValueType == "NUM"]
    values = [item.MeasuredValueSequence[0] for item in numbers]
    names = [item.ConceptNameCodeSequence[0].CodeMeaning for item in numbers]
    units = [value.MeasurementUnitsCodeSequence[0].CodeValue for value in values]
    return [(name, float(value.NumericValue), unit) for name, value, unit in zip(names, values, units, strict=True)]


def read_groups(path):
    (container,) = [
        item
        for item in dcmread(path).ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    ]
    return list(container.ContentSequence)


@pytest.mark.parametrize("objects", [[SR], [SEG, SR]], ids=["outlines", "segments"])
def test_measurements(tmp_path, hu, write, objects):
    """Of the measures that the fixture makes up."""
    write_series(tmp_path / "scan", hu)
    written = write(tmp_path / "scan", objects)
    groups = read_groups(written.paths[SR])
    assert len(groups) == len(written.nodules) == 4
    for nodule, group in zip(written.nodules, groups, strict=True):
        number = nodule.number
        assert read_numbers(group) == [
            ("Long axis", 10.0 + number, MM),
            ("Short axis", pytest.approx(7.3 + number), MM),
            ("Diameter", pytest.approx(8.7 + number), MM),  # 8.66 before
            ("Volume", pytest.approx(nodule.finding.volume_mm3, abs=0.051), "mm3"),
            ("Attenuation Coefficient", -123 - number, HU),
            ("Certainty of Finding", 100, PERCENT),
        ]


def test_what_a_group_says(tmp_path, hu, write):
    write_series(tmp_path / "scan", hu)
    written = write(tmp_path / "scan", [SEG, SR])
    report = highdicom.sr.srread(written.paths[SR])
    assert (report.Modality, report.PatientID, report.SeriesNumber) == ("SR", "1", 1005)
    assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    segmentation = dcmread(written.paths[SEG])
    groups = report.content.get_volumetric_roi_measurement_groups()
    for nodule, group, side in zip(written.nodules, groups, ["Left", "Right", None, "Left"], strict=True):
        assert (group.tracking_identifier, group.tracking_uid) == (f"Nodule {nodule.number}", nodule.uid)
        assert group.finding_type.meaning == "Nodule"
        (site,) = group.finding_sites
        assert site.value.meaning == "Lung"
        assert (site.laterality.meaning if side else site.laterality) == side
        segment = group.referenced_segment
        assert segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert segment.referenced_segment_numbers == [nodule.number]
    evidence = {instance for *_, instance, _ in report.get_evidence()}
    assert {f"{SERIES_UID}.{ndx}" for ndx in range(1, 9)} | {segmentation.SOPInstanceUID} == evidence


@pytest.mark.parametrize("kind", ["images", "frames"])
def test_outlines_without_a_segmentation(tmp_path, hu, write, kind):
    """The region of each slice, in pixels from the upper left corner, is closed and lies around the finding."""
    if kind == "images":
        write_series(tmp_path / "scan", hu)
    else:
        write_enhanced(tmp_path / "scan" / "ct.dcm", hu)
    written = write(tmp_path / "scan", [SR])
    report = highdicom.sr.srread(written.paths[SR])
    groups = report.content.get_volumetric_roi_measurement_groups()
    places = {(one.instance, one.frame): ndx for ndx, one in enumerate(written.ct.header.dicom_slices)}
    for nodule, group in zip(written.nodules, groups, strict=True):
        slices = set()
        for region in group.roi:
            reference = region.ContentSequence[0].ReferencedSOPSequence[0]
            frame = reference.get("ReferencedFrameNumber", 1) - 1
            ndx = places[reference.ReferencedSOPInstanceUID, frame]
            slices.add(ndx)
            points = region.value
            np.testing.assert_array_equal(points[0], points[-1])
            rows, cols = np.nonzero(written.stored[ndx] == nodule.number)
            corners = (cols.min(), rows.min()), (cols.max() + 1, rows.max() + 1)  # of pixels, not their centers
            np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], corners, atol=0.011)
        assert slices == set(np.flatnonzero((written.stored == nodule.number).any(axis=(1, 2))))


@pytest.mark.parametrize("objects", [[SR], [SEG, SR]], ids=["outlines", "segments"])
def test_without_findings_nodules_are_absent(tmp_path, hu, write, objects):
    write_series(tmp_path / "scan", hu)
    written = write(tmp_path / "scan", objects, lambda hu: np.zeros(hu.shape, bool))
    *_, container = dcmread(written.paths[SR]).ContentSequence
    assert container.ConceptNameCodeSequence[0].CodeMeaning == "Qualitative Evaluations"
    (item,) = container.ContentSequence
    assert (item.ConceptNameCodeSequence[0].CodeMeaning, item.ConceptCodeSequence[0].CodeMeaning) == (
        "Nodule",
        "Absent",
    )
