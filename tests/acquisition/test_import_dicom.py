import os
import shutil

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from p2ch13.acquisition import import_dicom
from p2ch13.config import Folders
from p2ch13.data.cache import CtCache
from p2ch13.data.ct import Ct
from p2ch13.import_dicom import main
from p2ch13.labels.patients import find_patients
from p2ch13.volumes.dicom.search import find_series
from p2ch13.volumes.files import find_scans, read_header
from tests.support.checks import assert_one_line
from tests.support.commands import exit_status, run_python
from tests.support.dicom_files import (
    ABSENT,
    ORIGIN_XYZ,
    SERIES_UID,
    SLICE_SPACING,
    rewrite,
    write_enhanced,
    write_series,
)
from tests.support.scan_files import POSITION, write_csv, write_scan

OTHER_UID, CR_UID, REPORT_UID = (f"{SERIES_UID}.{ndx}" for ndx in range(3))
TURNED = (0.8, 0.6, 0, -0.6, 0.8, 0)


@pytest.fixture
def source(tmp_path, hu):
    """Two patients in The Cancer Imaging Archive's layout, the first with a chest radiograph as well."""
    root = tmp_path / "LIDC-IDRI"
    write_series(root / "LIDC-IDRI-0001" / "study-a" / "CT", hu)
    (root / "LIDC-IDRI-0001" / "study-a" / "CT" / "069.xml").write_text("<LidcReadMessage/>")
    write_series(root / "LIDC-IDRI-0001" / "study-b" / "CR", hu[:1], series_uid=CR_UID, Modality="CR")
    write_series(root / "LIDC-IDRI-0002" / "study-c" / "CT", hu + 7, series_uid=OTHER_UID, cosines=TURNED)
    (root / "LICENSE").write_text("CC BY 3.0")
    return root


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "luna"


def run(source, data_dir, *options):
    return exit_status(lambda: main([str(source), "--data-dir", str(data_dir), *options]))


def same_scan(one, other):
    np.testing.assert_array_equal(one.hu, other.hu)
    np.testing.assert_array_equal(one.origin_xyz, other.origin_xyz)
    np.testing.assert_array_equal(one.vx_size_xyz, other.vx_size_xyz)
    np.testing.assert_array_equal(one.direction, other.direction)


def imported(data_dir, series_uid=SERIES_UID):
    return data_dir / "subset_dicom" / f"{series_uid}.mhd"


def test_a_folder_of_patients(source, data_dir, hu):
    done = run_python("-m", "p2ch13.import_dicom", source, "--data-dir", data_dir, status=None)
    assert done.returncode == 0, done.stderr
    assert "2 CT series, 0 of them in" in done.stdout
    assert "CR (1)" in done.stdout
    assert "Imported 2 scans, skipped 0" in done.stdout
    assert "has no annotations.csv: training and evaluation need it" in done.stdout
    assert find_scans(data_dir) == {uid: imported(data_dir, uid) for uid in (SERIES_UID, OTHER_UID)}
    assert len(list(data_dir.rglob("*.*"))) == 5  # two scans of two files, and patients.csv
    same_scan(Ct(imported(data_dir)), Ct(source / "LIDC-IDRI-0001" / "study-a" / "CT"))
    turned = Ct(imported(data_dir, OTHER_UID))
    same_scan(turned, Ct(source / "LIDC-IDRI-0002" / "study-c" / "CT"))
    np.testing.assert_array_equal(turned.hu, hu + 7)
    assert turned.direction[:, 0] == pytest.approx((0.8, 0.6, 0))
    assert turned.header.mapped_file is not None  # a memory map


def test_patients_have_numbers_and_no_names(tmp_path, hu, data_dir):
    """Neither an ID nor a hash of it; a number stays, and is another patient's in no later import."""
    first, second = tmp_path / "first", tmp_path / "second"
    for ndx, patient_id in enumerate(["Doe", "Roe", "Doe", ""]):
        write_series(first / str(ndx), hu, series_uid=f"1.2.{ndx}", PatientID=patient_id)
    assert run(first, data_dir, "--num-workers", "1") == 0
    path = data_dir / "subset_dicom" / "patients.csv"
    assert path.read_text().split() == ["seriesuid,patient", "1.2.0,1", "1.2.1,2", "1.2.2,1", "1.2.3,3"]
    before = path.stat().st_mtime_ns
    assert run(first, data_dir, "--num-workers", "1") == 0
    assert path.stat().st_mtime_ns == before
    for ndx, patient_id in ((1, "Roe"), (4, "Roe"), (5, "Poe")):
        write_series(second / str(ndx), hu, series_uid=f"1.2.{ndx}", PatientID=patient_id)
    assert run(second, data_dir, "--num-workers", "1") == 0
    assert path.read_text().split()[5:] == ["1.2.4,2", "1.2.5,4"]
    patients = find_patients(data_dir, find_scans(data_dir))
    assert patients["1.2.0"] == patients["1.2.2"] != patients["1.2.1"] == patients["1.2.4"]


def test_training_reads_what_was_imported(source, data_dir, tmp_path, capsys):
    data_dir.mkdir()
    center_xyz = (ORIGIN_XYZ[0] + 9 * 0.5, ORIGIN_XYZ[1] + 8 * 0.75, ORIGIN_XYZ[2] + 3 * SLICE_SPACING)
    write_csv(data_dir / "annotations.csv", [*POSITION, "diameter_mm"], [(SERIES_UID, *center_xyz, 5)])
    assert run(source, data_dir, "--num-workers", "1") == 0
    assert "annotations.csv" not in capsys.readouterr().out
    ct_chunk, pos_chunk, center_irc = CtCache.open(Folders(data_dir, tmp_path / "cache")).get_ct_raw_candidate(
        SERIES_UID, center_xyz, (3, 8, 8)
    )
    assert tuple(center_irc) == (3, 8, 9)
    assert pos_chunk[1, 4, 4]
    assert 0 <= ct_chunk[1, 4, 4] < 50


@pytest.mark.parametrize("slope", [1, 0.5, 3])
def test_descending_slices_and_rescaling(tmp_path, data_dir, hu, slope):
    write_series(tmp_path / "ct", hu // 3 * 3 - 1, slope=slope, step_xyz=(0, 0, -SLICE_SPACING))
    assert run(tmp_path / "ct", data_dir, "--num-workers", "1") == 0
    ct = Ct(imported(data_dir))
    np.testing.assert_array_equal(ct.hu, (hu // 3 * 3 - 1)[::-1])
    assert ct.origin_xyz == pytest.approx((-30, -40, 200 - 5 * SLICE_SPACING))


def test_broken_series_are_named_and_the_others_imported(source, data_dir, hu, capsys):
    write_series(source / "0003", hu, series_uid=f"{SERIES_UID}.3")[3].unlink()
    damaged = write_series(source / "0004", hu, series_uid=f"{SERIES_UID}.4")[5]
    damaged.write_bytes(damaged.read_bytes()[:-300])
    mixed = write_series(source / "0005", hu, series_uid=f"{SERIES_UID}.5")[2]
    rewrite(mixed, PixelSpacing=[0.8, 0.5])
    assert run(source, data_dir) == 1
    skipped = [line.split("Skipped: ")[1] for line in capsys.readouterr().out.splitlines() if "Skipped: " in line]
    assert len(skipped) == 3
    assert [line.partition(": ")[0] for line in skipped] == [str(source / "0003" / "004.dcm"), str(damaged), str(mixed)]
    assert set(find_scans(data_dir)) == {SERIES_UID, OTHER_UID}


def test_imported_series_are_skipped_until_they_change(source, data_dir, hu, capsys):
    assert run(source, data_dir) == 0
    times = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.*")}
    capsys.readouterr()
    assert run(source, data_dir) == 0
    output = capsys.readouterr().out
    assert "2 CT series, 2 of them in" in output
    assert "Imported 0 scans, skipped 0" in output
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.*")} == times

    write_series(source / "LIDC-IDRI-0001" / "study-a" / "CT", hu - 3)
    imported(data_dir, OTHER_UID).with_suffix(".raw").write_bytes(b"short")
    assert run(source, data_dir) == 0
    assert "Imported 2 scans" in capsys.readouterr().out
    np.testing.assert_array_equal(Ct(imported(data_dir)).hu, hu - 3)
    np.testing.assert_array_equal(Ct(imported(data_dir, OTHER_UID)).hu, hu + 7)


def test_a_scan_of_luna16_is_not_imported(source, data_dir, hu, capsys):
    path = write_scan(data_dir / "subset3" / f"{SERIES_UID}.mhd", hu)
    assert run(source, data_dir) == 0
    assert "2 CT series, 1 of them in" in capsys.readouterr().out
    assert find_scans(data_dir) == {SERIES_UID: path, OTHER_UID: imported(data_dir, OTHER_UID)}


def test_a_partial_import_is_no_scan(source, data_dir, monkeypatch):
    """The process ends between the voxels and the header."""

    def stop(*args):
        raise KeyboardInterrupt

    series = find_series(source).choose(SERIES_UID)
    conversion = import_dicom.prepare(import_dicom.SeriesImport(series, imported(data_dir)))
    import_dicom.import_series(conversion)
    monkeypatch.setattr(import_dicom, "metaimage_header", stop)
    with pytest.raises(KeyboardInterrupt):
        import_dicom.import_series(conversion)
    assert [path.name for path in (data_dir / "subset_dicom").iterdir()] == [f"{SERIES_UID}.raw"]
    monkeypatch.undo()
    assert run(source, data_dir) == 0
    assert read_header(imported(data_dir)).shape_irc == (6, 20, 22)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")
@pytest.mark.parametrize("series_uid", ["../../1.2.5", "/1.2.5", ".1.2", "1.2/", "C:1.2", "1.2\\n3", "1" * 200])
def test_a_series_uid_that_is_no_name(tmp_path, data_dir, hu, series_uid, capsys):
    write_series(tmp_path / "dicom" / "bad", hu, series_uid=series_uid)
    write_series(tmp_path / "dicom" / "good", hu)
    assert run(tmp_path / "dicom", data_dir, "--num-workers", "1") == 1
    assert set(find_scans(data_dir)) == {SERIES_UID}
    assert f"Skipped: {tmp_path / 'dicom' / 'bad' / '000.dcm'}: " in capsys.readouterr().out
    assert {path.parent for path in tmp_path.rglob("*.mhd")} == {data_dir / "subset_dicom"}


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")
@pytest.mark.parametrize("series_uid", ["ANON0001", "1.2..5", "patient-1_b", "1" * 70])
def test_a_series_uid_that_is_a_name(tmp_path, data_dir, hu, series_uid):
    """Pseudonyms, and what breaks the rules of UIDs otherwise."""
    write_series(tmp_path / "dicom", hu, series_uid=series_uid)
    assert run(tmp_path / "dicom", data_dir, "--num-workers", "1") == 0
    np.testing.assert_array_equal(Ct(imported(data_dir, series_uid)).hu, hu)


def test_reports_without_pixels_are_ignored(source, data_dir, capsys):
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.file_meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID = f"{REPORT_UID}.1"
    report.SeriesInstanceUID, report.Modality = REPORT_UID, "SR"
    report.save_as(source / "LIDC-IDRI-0002" / "study-c" / "CT" / "report.dcm", enforce_file_format=True)
    assert run(source, data_dir) == 0
    assert "CR (1), SR (1)" in capsys.readouterr().out
    assert len(find_scans(data_dir)) == 2


def test_one_series_in_two_folders(tmp_path, data_dir, hu):
    """Half of the files in each, and some of them in both."""
    files = write_series(tmp_path / "dicom" / "part1", hu)
    (tmp_path / "dicom" / "part2").mkdir()
    for file in files[3:]:
        file.rename(tmp_path / "dicom" / "part2" / file.name)
    for file in files[:2]:
        shutil.copy(file, tmp_path / "dicom" / "part2")
    assert run(tmp_path / "dicom", data_dir, "--num-workers", "1") == 0
    np.testing.assert_array_equal(Ct(imported(data_dir)).hu, hu)


def test_series_without_uid_are_named_after_their_folders(tmp_path, data_dir, hu):
    """Another scan of such a name is not replaced."""
    for ndx, name in enumerate(("patient1", "patient2")):
        write_series(tmp_path / "dicom" / name, hu + ndx, SeriesInstanceUID=ABSENT, PatientID=f"P{ndx}")
    for _ in range(2):
        assert run(tmp_path / "dicom", data_dir, "--num-workers", "1") == 0
        for ndx, name in enumerate(("patient1", "patient2")):
            np.testing.assert_array_equal(Ct(imported(data_dir, name)).hu, hu + ndx)
    write_series(tmp_path / "other" / "patient1", hu + 9, SeriesInstanceUID=ABSENT)
    assert run(tmp_path / "other", data_dir, "--num-workers", "1") == 2
    np.testing.assert_array_equal(Ct(imported(data_dir, "patient1")).hu, hu)


def test_what_was_computed_of_a_scan_is_not_imported(tmp_path, data_dir, hu, capsys):
    """Projections never; reformats only if their study has no original series."""
    derived = ["DERIVED", "SECONDARY", "MPR"]
    write_series(tmp_path / "dicom" / "a", hu[:3])
    write_series(tmp_path / "dicom" / "b", hu, series_uid=OTHER_UID, ImageType=derived)
    write_series(tmp_path / "dicom" / "c", hu, series_uid="1.2.3.4", ImageType=[*derived, "MIP"])
    write_series(tmp_path / "dicom" / "d", hu, series_uid="1.2.3.5", ImageType=derived, StudyInstanceUID="1.2.3.6")
    write_series(tmp_path / "dicom" / "e", hu[:1], series_uid="1.2.3.7", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert run(tmp_path / "dicom", data_dir, "--num-workers", "1") == 0
    assert set(find_scans(data_dir)) == {SERIES_UID, "1.2.3.5"}
    output = capsys.readouterr().out
    assert "localizer (1), projection (6)" in output
    assert f"{OTHER_UID} (6 slices, derived)" in output


def test_enhanced_files_and_a_single_file(tmp_path, data_dir, hu):
    write_enhanced(tmp_path / "dicom" / "ct.dcm", hu, order=[3, 0, 5, 1, 4, 2])
    assert run(tmp_path / "dicom" / "ct.dcm", data_dir, "--num-workers", "1") == 0
    np.testing.assert_array_equal(Ct(imported(data_dir)).hu, hu)


@pytest.mark.parametrize("place", [0, 3, 5])
def test_values_without_a_scale_are_not_imported(tmp_path, data_dir, hu, place, capsys):
    files = write_series(tmp_path / "dicom", hu)
    rewrite(files[place], RescaleSlope=ABSENT, RescaleIntercept=ABSENT)
    assert run(tmp_path / "dicom", data_dir, "--num-workers", "1") == 2
    assert_one_line(capsys, f"{files[place]}: ", "RescaleSlope")
    assert not list(data_dir.rglob("*.mhd"))


def test_two_acquisitions_of_one_place(tmp_path, data_dir, hu, capsys):
    """The larger one is imported, and that is said."""
    write_series(tmp_path / "dicom", hu, AcquisitionNumber=1)
    later = write_series(tmp_path / "dicom", hu[:4] + 9, names=list("abcd"), AcquisitionNumber=2)
    for ndx, file in enumerate(later):
        rewrite(file, SOPInstanceUID=f"1.2.{ndx}", InstanceNumber=100 + ndx)
    assert run(tmp_path / "dicom", data_dir, "--num-workers", "1") == 0
    np.testing.assert_array_equal(Ct(imported(data_dir)).hu, hu)
    assert "2 acquisitions or phases" in capsys.readouterr().out


def test_a_name_that_is_no_utf8(tmp_path, data_dir, hu):
    write_series(tmp_path / "dicom" / "slices", hu, PixelSpacing=[5, 5])
    (tmp_path / "dicom" / "slices").rename(tmp_path / "dicom" / os.fsdecode(b"M\xfcller"))
    assert run(tmp_path / "dicom", data_dir, "--num-workers", "1") == 0
    np.testing.assert_array_equal(Ct(imported(data_dir)).hu, hu)


def test_mistakes_end_in_one_line(tmp_path, data_dir, hu, capsys):
    (tmp_path / "empty").mkdir()
    write_series(tmp_path / "gap", hu)[3].unlink()
    for name, path in (("nowhere", "nowhere: "), ("empty", "empty: "), ("gap", "gap/004.dcm: ")):
        assert run(tmp_path / name, data_dir) == 2
        assert_one_line(capsys, path)
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "gap", tmp_path / "file" / "luna") == 2
    assert_one_line(capsys, "luna: ", "--data-dir")
    assert run(tmp_path / "gap", data_dir, "--subset-folder", "../other") == 2
    assert "argument --subset-folder: " in capsys.readouterr().err


def test_a_full_disk_is_noticed_before_the_import(source, data_dir, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert run(source, data_dir) == 2
    assert_one_line(capsys, f"{data_dir}: ", "--data-dir")


def test_another_subset_folder(source, data_dir):
    assert run(source, data_dir, "--subset-folder", "subset0") == 0
    assert find_scans(data_dir) == {uid: data_dir / "subset0" / f"{uid}.mhd" for uid in (SERIES_UID, OTHER_UID)}
