import numpy as np
import pytest
from pydicom import dcmread

from p2ch13.data.ct import Ct
from p2ch13.detection.outputs import write_dicom_segmentation
from tests.support.checks import refused
from tests.support.dicom_files import SERIES_UID, write_series
from tests.support.scan_files import Ball, make_hu

highdicom = pytest.importorskip("highdicom")


@pytest.fixture
def hu():
    return make_hu([Ball((2, 8, 9), 2)], (6, 20, 22))


@pytest.mark.parametrize("step_xyz", [(0, 0, 2.5), (0, 0, -2.5)])
def test_read_back(tmp_path, hu, step_xyz):
    write_series(tmp_path / "scan", hu, step_xyz=step_xyz)
    ct = Ct(tmp_path / "scan")
    path = tmp_path / "seg.dcm"
    write_dicom_segmentation(path, ct.hu > -700, ct)
    segmentation = highdicom.seg.segread(path)
    assert segmentation.Modality == "SEG"
    assert segmentation.StudyInstanceUID == "1.2.3.1"
    assert segmentation.PatientID == "1"
    assert segmentation.SeriesNumber == 1003
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES_UID
    assert list(segmentation.segment_numbers) == [1]
    assert segmentation.get_segment_description(1).segmented_property_type.meaning == "Nodule"
    assert segmentation.NumberOfFrames == 5  # those with a part of the ball
    # Each frame refers to its file; by_uid has the order in which the files were written.
    uids = [dcmread(file).SOPInstanceUID for file in sorted((tmp_path / "scan").iterdir())]
    by_uid = segmentation.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(by_uid[..., 0], hu > -700)


def test_without_nodules_all_frames_are_there(tmp_path, hu):
    write_series(tmp_path / "scan", hu)
    write_dicom_segmentation(tmp_path / "seg.dcm", np.zeros(hu.shape, dtype=bool), Ct(tmp_path / "scan"))
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert segmentation.NumberOfFrames == 6
    assert not segmentation.pixel_array.any()


def test_a_series_without_a_required_attribute(tmp_path, hu):
    for file in write_series(tmp_path / "scan", hu):
        data = dcmread(file)
        del data.FrameOfReferenceUID
        data.save_as(file)
    with refused(path=tmp_path / "scan"):
        write_dicom_segmentation(tmp_path / "seg.dcm", hu > -700, Ct(tmp_path / "scan"))
    assert not (tmp_path / "seg.dcm").exists()
