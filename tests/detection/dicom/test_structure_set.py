"""RT Structure Sets, filled by matplotlib from the coordinates of patient and images alone."""

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from pydicom import dcmread

from p2ch13.detection.dicom.writer import RTSTRUCT
from tests.detection.dicom.conftest import SHAPE_IRC
from tests.support.dicom_files import SERIES_UID, write_enhanced, write_series

SAGITTAL = (0, 1, 0, 0, 0, -1)
OBLIQUE = (0.8, 0.6, 0, -0.6, 0.8, 0)


def plane_of(image, frame):
    """Position, directions and pixel size of an image, as (3,), (2, 3) and (2,): to the next col and row."""
    if frame is None:
        return image.ImagePositionPatient, np.reshape(image.ImageOrientationPatient, (2, 3)), image.PixelSpacing[::-1]
    own, shared = image.PerFrameFunctionalGroupsSequence[frame - 1], image.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    return own.PlanePositionSequence[0].ImagePositionPatient, np.reshape(orientation, (2, 3)), spacing[::-1]


def fill(structure_set, number, files):
    """Mask of an ROI in each image or frame: {(instance, frame or None): (row, col)}."""
    images = {image.SOPInstanceUID: image for image in map(dcmread, files)}
    (roi,) = [roi for roi in structure_set.ROIContourSequence if roi.ReferencedROINumber == number]
    filled = {}
    for contour in roi.ContourSequence:
        assert contour.ContourGeometricType == "CLOSED_PLANAR"
        points = np.reshape(np.array(contour.ContourData, dtype=float), (-1, 3))
        assert contour.NumberOfContourPoints == len(points) >= 4
        assert (points[0] != points[-1]).any()
        (reference,) = contour.ContourImageSequence
        frame = reference.get("ReferencedFrameNumber")
        image = images[reference.ReferencedSOPInstanceUID]
        assert reference.ReferencedSOPClassUID == image.SOPClassUID
        position, axes, pixel_mm = plane_of(image, frame)
        offsets = points - np.array(position, dtype=float)
        assert abs(offsets @ np.cross(*axes)).max() < 2e-3  # mm, off the plane
        polygon = Polygon(offsets @ axes.T / pixel_mm)  # col, row
        centers = np.argwhere(np.ones(SHAPE_IRC[1:]))[:, ::-1]
        mask = filled.setdefault((image.SOPInstanceUID, frame), np.zeros(SHAPE_IRC[1:], dtype=bool))
        mask |= polygon.contains_points(centers).reshape(mask.shape)
    return filled


SERIES = {
    "up": lambda folder, hu: write_series(folder, hu),
    "down": lambda folder, hu: write_series(folder, hu, step_xyz=(0, 0, -2.5)),
    "sagittal": lambda folder, hu: write_series(folder, hu, cosines=SAGITTAL),
    "oblique": lambda folder, hu: write_series(folder, hu, cosines=OBLIQUE),
    "enhanced": lambda folder, hu: [write_enhanced(folder / "ct.dcm", hu, order=[3, 1, 0, 2, 4, 5, 7, 6])],
}


@pytest.mark.parametrize("kind", SERIES)
def test_contours_filled_are_the_mask(tmp_path, hu, write, kind):
    files = SERIES[kind](tmp_path / "scan", hu)
    written = write(tmp_path / "scan", [RTSTRUCT])
    structure_set = dcmread(written.paths[RTSTRUCT])
    assert [roi.ROINumber for roi in structure_set.StructureSetROISequence] == [1, 2, 3, 4]
    for nodule in written.nodules:
        filled = fill(structure_set, nodule.number, files)
        for one, labels in zip(written.ct.header.dicom_slices, written.stored, strict=True):
            frame = one.frame + 1 if kind == "enhanced" else None
            mask = filled.pop((one.instance, frame), np.zeros(SHAPE_IRC[1:], dtype=bool))
            np.testing.assert_array_equal(mask, labels == nodule.number)
        assert not filled


def test_attributes(tmp_path, hu, write):
    write_series(tmp_path / "scan", hu)
    written = write(tmp_path / "scan", [RTSTRUCT])
    structure_set = dcmread(written.paths[RTSTRUCT])
    assert (structure_set.Modality, structure_set.PatientID, structure_set.StudyInstanceUID) == (
        "RTSTRUCT",
        "1",
        "1.2.3.1",
    )
    assert structure_set.SeriesNumber == 1004
    (frame_of_reference,) = structure_set.ReferencedFrameOfReferenceSequence
    assert frame_of_reference.FrameOfReferenceUID == "1.2.3.2"
    (study,) = frame_of_reference.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    assert (study.ReferencedSOPInstanceUID, series.SeriesInstanceUID) == ("1.2.3.1", SERIES_UID)
    assert len(series.ContourImageSequence) == len(hu)
    rois = zip(structure_set.StructureSetROISequence, structure_set.ROIContourSequence, written.nodules, strict=True)
    for roi, contours, nodule in rois:
        assert roi.ROIName == f"Nodule {nodule.number} (probability 1.00)"
        assert roi.ReferencedFrameOfReferenceUID == "1.2.3.2"
        assert roi.ROIGenerationAlgorithm == "AUTOMATIC"
        assert float(roi.ROIVolume) == pytest.approx(nodule.finding.volume_mm3 / 1000, abs=1e-4)  # cm3
        assert len(contours.ROIDisplayColor) == 3
    observed = [(each.ObservationNumber, each.ReferencedROINumber) for each in structure_set.RTROIObservationsSequence]
    assert observed == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_without_findings_an_roi_has_no_contours(tmp_path, hu, write):
    write_series(tmp_path / "scan", hu)
    structure_set = dcmread(write(tmp_path / "scan", [RTSTRUCT], lambda hu: np.zeros(hu.shape, bool)).paths[RTSTRUCT])
    (roi,), (contours,) = structure_set.StructureSetROISequence, structure_set.ROIContourSequence
    assert (roi.ROIName, "ContourSequence" in contours) == ("No nodule found", False)


def test_a_contour_longer_than_explicit_vr_allows(tmp_path, write):
    """A checkerboard's contour, with a hole in each second pixel: more than 65,534 bytes."""
    hu = np.zeros((1, 61, 61), np.int16)
    hu[:, 1::2, 1::2] = -900
    write_series(tmp_path / "scan", hu)
    structure_set = dcmread(write(tmp_path / "scan", [RTSTRUCT]).paths[RTSTRUCT])
    (contour,) = structure_set.ROIContourSequence[0].ContourSequence
    assert len("\\".join(map(str, contour.ContourData))) > 2**16
    points = np.reshape(np.array(contour.ContourData, dtype=float), (-1, 3))
    polygon = Polygon((points[:, :2] - (-30, -40)) / (0.5, 0.75))
    mask = polygon.contains_points(np.argwhere(hu[0] > -1000)[:, ::-1]).reshape(hu[0].shape)
    np.testing.assert_array_equal(mask, hu[0] > -700)
