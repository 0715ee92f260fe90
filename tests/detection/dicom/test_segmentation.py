"""DICOM Segmentations, read by highdicom and, as plain bits, by pydicom."""

import numpy as np
import pytest
from pydicom import dcmread

from p2ch13.detection.dicom.writer import SEG
from tests.detection.dicom.conftest import SHAPE_IRC
from tests.support.dicom_files import PIXEL_SPACING, SERIES_UID, SLICE_SPACING, write_enhanced, write_series

highdicom = pytest.importorskip("highdicom")

SAGITTAL = (0, 1, 0, 0, 0, -1)


def segment_masks(path, uids):
    """(slice of the file, row, col, segment), by the images that frames refer to."""
    segmentation = highdicom.seg.segread(path)
    return segmentation.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)


@pytest.mark.parametrize(
    "geometry", [{"step_xyz": (0, 0, 2.5)}, {"step_xyz": (0, 0, -2.5)}, {"cosines": SAGITTAL}], ids=str
)
def test_a_segment_for_each_finding(tmp_path, hu, write, geometry):
    files = write_series(tmp_path / "scan", hu, **geometry)
    written = write(tmp_path / "scan", [SEG])
    uids = [dcmread(file).SOPInstanceUID for file in files]
    masks = segment_masks(written.paths[SEG], uids)
    assert masks.shape[-1] == len(written.nodules) == 4
    np.testing.assert_array_equal(masks.any(axis=-1), hu > -700)  # in the order in which the files were written
    places = {file: ndx for ndx, file in enumerate(written.ct.header.dicom_files)}
    stored = written.stored[[places[file] for file in files]]
    for nodule in written.nodules:
        np.testing.assert_array_equal(masks[..., nodule.number - 1], stored == nodule.number)


def test_attributes(tmp_path, hu, write):
    write_series(tmp_path / "scan", hu)
    written = write(tmp_path / "scan", [SEG])
    segmentation = highdicom.seg.segread(written.paths[SEG])
    assert segmentation.Modality == "SEG"
    assert segmentation.StudyInstanceUID == "1.2.3.1"
    assert segmentation.FrameOfReferenceUID == "1.2.3.2"
    assert segmentation.PatientID == "1"
    assert segmentation.SeriesNumber == 1003
    assert segmentation.SegmentationType == "BINARY"
    (series,) = segmentation.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SERIES_UID
    assert len(series.ReferencedInstanceSequence) == len(segmentation.SourceImageSequence) == len(hu)
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.PixelSpacing == list(PIXEL_SPACING)
    assert measures.SliceThickness == measures.SpacingBetweenSlices == SLICE_SPACING
    for nodule, description in zip(written.nodules, segmentation.SegmentSequence, strict=True):
        assert description.SegmentNumber == nodule.number
        assert description.SegmentLabel == f"Nodule {nodule.number} (probability 1.00)"
        assert (description.TrackingUID, description.TrackingID) == (nodule.uid, f"Nodule {nodule.number}")
        assert description.SegmentAlgorithmName == "seg.best"
        assert description.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Nodule"


def test_a_series_that_lost_information_by_compression(tmp_path, hu, write):
    write_series(tmp_path / "scan", hu, LossyImageCompression="01", LossyImageCompressionRatio="4.5")
    segmentation = dcmread(write(tmp_path / "scan", [SEG]).paths[SEG])
    assert (segmentation.LossyImageCompression, segmentation.LossyImageCompressionRatio) == ("01", 4.5)


def test_frames_are_those_with_a_part_of_their_segment(tmp_path, hu, write):
    """The second reader unpacks the bits itself."""
    write_series(tmp_path / "scan", hu)
    written = write(tmp_path / "scan", [SEG])
    dataset = dcmread(written.paths[SEG])
    pixel_count = int(np.prod(SHAPE_IRC[1:]))
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    frames = dataset.PerFrameFunctionalGroupsSequence
    assert dataset.NumberOfFrames == len(frames)
    found = set()
    for place, frame in enumerate(frames):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        ndx = round((frame.PlanePositionSequence[0].ImagePositionPatient[2] - 200) / SLICE_SPACING)
        found.add((number, ndx))
        mask = bits[place * pixel_count :][:pixel_count].reshape(SHAPE_IRC[1:])
        assert mask.any()
        np.testing.assert_array_equal(mask, written.stored[ndx] == number)
    numbers = range(1, len(written.nodules) + 1)
    assert found == {
        (number, ndx) for number in numbers for ndx in np.flatnonzero((written.stored == number).any((1, 2)))
    }


def test_without_findings_all_frames_of_one_segment_are_empty(tmp_path, hu, write):
    write_series(tmp_path / "scan", hu)
    written = write(tmp_path / "scan", [SEG], is_marked=lambda hu: np.zeros(hu.shape, bool))
    segmentation = highdicom.seg.segread(written.paths[SEG])
    assert list(segmentation.segment_numbers) == [1]
    assert segmentation.NumberOfFrames == len(hu)
    assert not segmentation.pixel_array.any()
    assert segmentation.SegmentSequence[0].SegmentLabel == "No nodule found"


@pytest.mark.slow
def test_more_findings_than_a_byte_counts(tmp_path, write):
    hu = np.full((3, 32, 35), -900, np.int16)
    hu[0, ::2, ::2] = 0  # 288 single voxels
    files = write_series(tmp_path / "scan", hu)
    written = write(tmp_path / "scan", [SEG])
    masks = segment_masks(written.paths[SEG], [dcmread(file).SOPInstanceUID for file in files])
    assert masks.shape == (3, 32, 35, 288)
    np.testing.assert_array_equal((masks * np.arange(1, 289)).sum(axis=-1), written.stored)


def enhanced_masks(path, written):
    """(frame of the scan, row, col, segment), by the frames that frames refer to; each slice's image and number."""
    segmentation = dcmread(path)
    masks = np.zeros((*written.stored.shape, len(written.nodules)), dtype=bool)
    frames = np.atleast_3d(segmentation.pixel_array)
    for frame, mask in zip(segmentation.PerFrameFunctionalGroupsSequence, frames, strict=True):
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        (ndx,) = [
            ndx
            for ndx, one in enumerate(written.ct.header.dicom_slices)
            if (one.instance, one.frame + 1) == (source.ReferencedSOPInstanceUID, source.ReferencedFrameNumber)
        ]
        masks[ndx, ..., frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1] |= mask > 0
    return masks


def split_enhanced(folder, hu):
    """Two files of one series, with the lower and the upper slices."""
    for part, (first, last) in enumerate([(0, 3), (3, len(hu))]):
        path = write_enhanced(folder / f"{part}.dcm", hu[first:last])
        dataset = dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{SERIES_UID}.7{part}"
        for ndx, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            frame.PlanePositionSequence[0].ImagePositionPatient = [-30, -40, 200 + (first + ndx) * SLICE_SPACING]
        dataset.save_as(path)


def with_localizer(folder, hu):
    """The first frame is none of the scan."""
    path = write_enhanced(folder / "ct.dcm", np.concatenate([hu[:1], hu]), per_frame=GROUPS)
    dataset = dcmread(path)
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[0].CTImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    dataset.save_as(path)


GROUPS = (
    *("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
    *("PixelValueTransformationSequence", "CTImageFrameTypeSequence"),
)
ENHANCED = {
    "in order": lambda folder, hu: write_enhanced(folder / "ct.dcm", hu),
    "mixed": lambda folder, hu: write_enhanced(folder / "ct.dcm", hu, order=[3, 1, 0, 2, 4, 5, 7, 6]),
    "two files": split_enhanced,
    "a part of a file": with_localizer,
}


@pytest.mark.parametrize("kind", ENHANCED)
def test_frames_of_images(tmp_path, hu, write, kind):
    ENHANCED[kind](tmp_path / "scan", hu)
    written = write(tmp_path / "scan", [SEG])
    np.testing.assert_array_equal(written.ct.hu, hu)
    masks = enhanced_masks(written.paths[SEG], written)
    for nodule in written.nodules:
        np.testing.assert_array_equal(masks[..., nodule.number - 1], written.stored == nodule.number)


def test_highdicom_finds_the_frames_of_an_image(tmp_path, hu, write):
    path = write_enhanced(tmp_path / "scan" / "ct.dcm", hu)
    written = write(tmp_path / "scan", [SEG])
    segmentation = highdicom.seg.segread(written.paths[SEG])
    masks = segmentation.get_pixels_by_source_frame(
        dcmread(path).SOPInstanceUID, range(1, len(hu) + 1), assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(masks.any(axis=-1), hu > -700)
