"""The scans that a path leads to."""

import shutil
from pathlib import Path

from p2ch13.detection.inputs import find_inputs
from tests.support.checks import refused
from tests.support.dicom_files import SERIES_UID, write_series
from tests.support.scan_files import Ball, make_hu, write_scan

SHAPE_IRC = (10, 40, 44)
BALLS = [Ball((5, 20, 22), 4), Ball((3, 8, 9), 2)]


def test_leftovers_of_a_killed_run_are_skipped(tmp_path):
    """Such as a DICOM segmentation in its hidden folder."""
    write_series(tmp_path / "patient", make_hu(BALLS, SHAPE_IRC))
    write_series(tmp_path / "out" / ".host.1.tmp.1.2.3", make_hu(BALLS, SHAPE_IRC), series_uid="1.2.99")
    assert [scan.path.name for scan in find_inputs(tmp_path)] == ["patient"]


def test_find_inputs(tmp_path):
    hu = make_hu([], (3, 20, 22))
    write_scan(tmp_path / "luna" / "subset0" / "1.2.mhd", hu)
    write_scan(tmp_path / "luna" / "1.3.nii.gz", hu)
    assert [scan.name for scan in find_inputs(tmp_path / "luna")] == ["1.3", "1.2"]
    write_series(tmp_path / "dicom" / "a", hu)
    write_series(tmp_path / "dicom" / "b" / "c", hu, series_uid="1.2.9")
    found = find_inputs(tmp_path / "dicom")
    assert [(scan.path.name, scan.series_uid) for scan in found] == [("a", SERIES_UID), ("c", "1.2.9")]
    assert [scan.path.name for scan in find_inputs(tmp_path / "dicom", "1.2.9")] == ["c"]
    with refused(path=tmp_path / "nowhere"):
        find_inputs(tmp_path / "nowhere")


def test_inputs_of_dicom(tmp_path, caplog):
    """An archive or a file of a series where a folder can be, and files of other formats beside DICOM's."""
    hu = make_hu([], (4, 20, 22))
    files = write_series(tmp_path / "ct", hu)
    write_series(tmp_path / "ct", hu[:2], series_uid="1.2.9", names=["x", "y"])
    archive = shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "ct")
    for path, names in ((tmp_path / "ct", [SERIES_UID]), (files[1], [SERIES_UID]), (Path(archive), [SERIES_UID])):
        assert [scan.name for scan in find_inputs(path)] == names
    assert [scan.name for scan in find_inputs(tmp_path / "ct" / "y")] == ["1.2.9"]
    assert [scan.name for scan in find_inputs(Path(archive), "1.2.9")] == ["1.2.9"]
    write_scan(tmp_path / "ct" / "other.nrrd", hu)
    assert [scan.name for scan in find_inputs(tmp_path / "ct")] == ["other", SERIES_UID]


def test_each_patient_and_study_of_a_folder(tmp_path):
    """Series of one study in one folder are alternatives; of another patient or study, they are not."""
    hu = make_hu([], (4, 20, 22))
    for ndx, (patient, study, count) in enumerate((("1", "1.1", 3), ("1", "1.1", 4), ("1", "1.2", 2), ("2", "1.3", 1))):
        names = [f"{ndx}{number}" for number in range(count)]
        uids = {"series_uid": f"1.2.{ndx}", "PatientID": patient, "StudyInstanceUID": study}
        write_series(tmp_path, hu[:count], names=names, **uids)
    assert [scan.name for scan in find_inputs(tmp_path)] == ["1.2.1", "1.2.2", "1.2.3"]
