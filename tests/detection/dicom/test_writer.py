"""All objects of series of all kinds, as validators see them; and what is refused before a scan is searched."""

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from p2ch13.data.ct import Ct
from p2ch13.detection.dicom import writer as module
from p2ch13.detection.dicom.source import OPTIONAL, REPEATED
from p2ch13.detection.dicom.writer import ENDINGS, RTSTRUCT, SEG, SR, DicomWriter, check_library
from tests.support.checks import refused
from tests.support.dicom_files import ABSENT, rewrite, rewrite_all, write_enhanced, write_series
from tests.support.scan_files import write_scan
from tests.support.tools import assert_valid_dicom

ANONYMIZED = dict.fromkeys(
    (*REPEATED, *OPTIONAL, "SeriesNumber", "InstanceNumber", "PositionReferenceIndicator", "Laterality"), ABSENT
)
EMPTY = dict.fromkeys((*REPEATED, *OPTIONAL, "SeriesNumber", "PositionReferenceIndicator", "SpecificCharacterSet"), "")
ODD = {
    "PatientName": b"x" * 70,
    "PatientID": b"1\\2 ",
    "PatientBirthDate": b"unknown ",
    "PatientSex": b"female",
    "StudyDate": b"2020-01-31",
    "StudyTime": b"09:30:00",
    "StudyID": b"x" * 18,
    "AccessionNumber": b"x" * 18,
    "SeriesNumber": b"three ",
    "SpecificCharacterSet": "ISO_IR 999",
}


def write_compressed(folder, hu):
    lossy = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": "4.5",
        "LossyImageCompressionMethod": "ISO_10918_1",
    }
    for file in write_series(folder, hu, **lossy):
        dataset = dcmread(file)
        dataset.compress(RLELossless)
        dataset.save_as(file)


def write_private(folder, hu):
    """Elements of a vendor, whose meaning nobody knows."""
    for file in write_series(folder, hu):
        dataset = dcmread(file)
        block = dataset.private_block(0x0009, "VENDOR", create=True)
        block.add_new(0x01, "UN", b"\xff\x00")
        dataset.save_as(file)


def write_long_numbers(folder, hu):
    """With more digits than the standard allows, as programs write that print all of a float's."""
    for ndx, file in enumerate(write_series(folder, hu, PixelSpacing=b"0.70312500000000011\\0.703125000000000111 ")):
        position = f"-171.699996948242188\\-166.123456789012345\\{200 + 2.5000000000000013 * ndx:.15f}"
        cosines = b"0.99999999999999989\\0.00000012345678901\\0\\-0.00000012345678901\\0.99999999999999989\\0"
        even = position + " " * (len(position) % 2)
        rewrite(file, ImagePositionPatient=even.encode(), ImageOrientationPatient=cosines + b" " * (len(cosines) % 2))


def write_odd_uids(folder, hu):
    """UIDs that break the standard are the images' own all the same; one of even, one of odd length."""
    rewrite_all(write_series(folder, hu, series_uid="1.2.03"), StudyInstanceUID=b"1.2.04", FrameOfReferenceUID="1.2.3")


SERIES = {
    "plain": write_series,
    "anonymized": lambda folder, hu: write_series(folder, hu, **ANONYMIZED),
    "empty": lambda folder, hu: write_series(folder, hu, **EMPTY),
    "odd": lambda folder, hu: write_series(folder, hu, **ODD),
    "names in Cyrillic": lambda folder, hu: write_series(
        folder, hu, SpecificCharacterSet="ISO_IR 192", PatientName="Иванов^Илья"
    ),
    "without thickness": lambda folder, hu: write_series(folder, hu, SliceThickness=ABSENT),
    "long numbers": write_long_numbers,
    "sagittal": lambda folder, hu: write_series(folder, hu, cosines=(0, 1, 0, 0, 0, -1)),
    "compressed": write_compressed,
    "private elements": write_private,
    "enhanced": lambda folder, hu: write_enhanced(folder / "ct.dcm", hu, order=[3, 1, 0, 2, 4, 5, 7, 6]),
}


@pytest.mark.parametrize("kind", SERIES)
def test_validators_find_no_error(tmp_path, hu, write, kind):
    pytest.importorskip("highdicom")
    SERIES[kind](tmp_path / "scan", hu)
    written = write(tmp_path / "scan")
    assert set(written.paths) == {SEG, RTSTRUCT, SR}
    for path in written.paths.values():
        assert_valid_dicom(path)


@pytest.mark.parametrize("kind", ["plain", "anonymized", "enhanced"])
def test_validators_find_no_error_without_findings(tmp_path, hu, write, kind):
    pytest.importorskip("highdicom")
    SERIES[kind](tmp_path / "scan", hu)
    for path in write(tmp_path / "scan", is_marked=lambda hu: np.zeros(hu.shape, bool)).paths.values():
        assert_valid_dicom(path)


@pytest.mark.parametrize("kind", ["plain", "enhanced"])
def test_a_report_of_outlines_is_valid(tmp_path, hu, write, kind):
    pytest.importorskip("highdicom")
    SERIES[kind](tmp_path / "scan", hu)
    assert_valid_dicom(write(tmp_path / "scan", [SR]).paths[SR])


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_odd_uids_are_kept(tmp_path, hu, write):
    pytest.importorskip("highdicom")
    write_odd_uids(tmp_path / "scan", hu)
    for path in write(tmp_path / "scan").paths.values():
        made = dcmread(path)
        assert (made.StudyInstanceUID, made.PatientID) == ("1.2.04", "1")
        assert "1.2.03.5" in str(made)


def test_objects_name_the_same_nodules(tmp_path, hu, write):
    """The series and instances of the objects are new, and of one study."""
    highdicom = pytest.importorskip("highdicom")
    write_series(tmp_path / "scan", hu)
    paths = write(tmp_path / "scan").paths
    segments = highdicom.seg.segread(paths[SEG]).SegmentSequence
    groups = highdicom.sr.srread(paths[SR]).content.get_volumetric_roi_measurement_groups()
    assert [each.TrackingUID for each in segments] == [each.tracking_uid for each in groups]
    assert [each.SegmentLabel for each in segments] == [
        roi.ROIName for roi in dcmread(paths[RTSTRUCT]).StructureSetROISequence
    ]
    made = [dcmread(path) for path in paths.values()]
    assert len({one.SeriesInstanceUID for one in made} | {one.SOPInstanceUID for one in made}) == 6
    assert {one.StudyInstanceUID for one in made} == {"1.2.3.1"}
    assert [one.SeriesNumber for one in made] == [1003, 1004, 1005]
    assert all("for research only" in one.SeriesDescription for one in made)
    again = [dcmread(path).SOPInstanceUID for path in write(tmp_path / "scan").paths.values()]
    assert not set(again) & {one.SOPInstanceUID for one in made}


@pytest.mark.parametrize("objects", [[SEG], [RTSTRUCT], [SR], list(ENDINGS)], ids=" ".join)
def test_what_is_refused(tmp_path, hu, objects):
    """Each message says which options to omit."""
    path = write_scan(tmp_path / "a.mha", hu)
    with refused(path=path) as caught:
        DicomWriter.of(Ct(path), objects, [])
    assert caught.value.message.endswith(f"omit {' '.join(objects)}")
    write_series(tmp_path / "scan", hu, FrameOfReferenceUID=ABSENT)
    with refused(path=tmp_path / "scan") as caught:
        DicomWriter.of(Ct(tmp_path / "scan"), objects, [])
    assert caught.value.message.endswith(f"omit {' '.join(objects)}")
    assert DicomWriter.of(Ct(path), [], []) is None


@pytest.mark.parametrize(
    ("objects", "named"),
    [([SEG], SEG), ([SR], SR), ([SEG, RTSTRUCT, SR], f"{SEG} {SR}"), ([RTSTRUCT], None), ([], None)],
)
def test_without_highdicom(monkeypatch, objects, named):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    if named is None:
        check_library(objects)
    else:
        with refused(option=named):
            check_library(objects)
