"""Which files are of one series, which are none of a scan, and which series is chosen."""

import logging
import os
import shutil

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import ExplicitVRLittleEndian

from p2ch13.data.ct import Ct
from p2ch13.volumes.dicom.search import choose_largest, find_series
from tests.support.checks import refused
from tests.support.dicom_files import ABSENT, SERIES_UID, rewrite, rewrite_all, write_series

OTHER_UID = "1.2.826.0.1.3680043.8.498.8"
CORONAL = [1, 0, 0, 0, 0, -1]
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"


def counts(search):
    return {each.name: len(each.slices) for each in search.series}


def write_object(path, sop_class, modality, **attributes):
    """A DICOM object without pixels."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = sop_class
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3.77"
    data.SeriesInstanceUID, data.PatientID, data.StudyInstanceUID = "1.2.3.7", "1", "1.2.3.1"
    if modality is not ABSENT:
        data.Modality = modality
    for name, value in attributes.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


OTHER_OBJECTS = [
    ("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", "RTSTRUCT"),
    ("1.2.840.10008.5.1.4.1.1.88.22", "SR", "SR"),
    ("1.2.840.10008.5.1.4.1.1.11.1", "PR", "PR"),
    ("1.2.840.10008.5.1.4.1.1.104.1", "DOC", "DOC"),
    ("1.2.840.10008.5.1.4.1.1.66.4", "SEG", "SEG"),
    ("1.2.840.10008.1.3.10", ABSENT, "Media Storage Directory Storage"),
    ("1.2.840.10008.5.1.4.1.1.4", "MR", "MR"),
    ("1.2.840.10008.5.1.4.1.1.128", ABSENT, "Positron Emission Tomography Image Storage"),
]


@pytest.mark.parametrize(("sop_class", "modality", "kind"), OTHER_OBJECTS)
@pytest.mark.parametrize("name", ["zz.dcm", "a", "dicomdir", "DICOMDIR"])
def test_other_objects_are_counted(tmp_path, hu, sop_class, modality, kind, name):
    write_series(tmp_path, hu)
    write_object(tmp_path / name, sop_class, modality)
    search = find_series(tmp_path)
    assert counts(search) == {SERIES_UID: 6}
    assert dict(search.left_out) == {kind: 1}
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


# Attributes of an image that is no slice of a scan, and how it is counted.
LEFT_OUT = [
    ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ImageOrientationPatient": CORONAL}, "localizer"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"]}, "localizer"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "SCOUT"], "RescaleSlope": ABSENT}, "localizer"),
    ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "secondary capture"),
    ({"SOPClassUID": SECONDARY}, "secondary capture"),
    ({"SOPClassUID": f"{SECONDARY}.4"}, "secondary capture"),
    ({"SOPClassUID": SECONDARY, "Modality": "OT"}, "secondary capture"),
    ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "color picture"),
    *(
        ({"ImageType": ["DERIVED", "SECONDARY", *kind]}, "projection")
        for kind in (
            ("MIP",),
            ("AXIAL", "CT_SOM5 MIP"),
            ("REFORMATTED", "MIN IP"),
            ("PROJECTION IMAGE",),
            ("OTHER", "VRT"),
            ("OTHER", "CSA MPR CURVED"),
            ("AXIAL_MIP",),
            ("MPR", "MIP10"),
        )
    ),
    ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "SeriesDescription": "Lung MIP 10.0"}, "projection"),
    ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"], "RescaleType": "MGML"}, "material map"),
    ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM"]}, "material map"),
]


@pytest.mark.parametrize(("attributes", "kind"), LEFT_OUT)
@pytest.mark.parametrize("place", [0, 3, 6])
def test_images_that_are_no_slices_of_a_scan(tmp_path, hu, attributes, kind, place):
    """In the series itself, as the first, a middle or the last file."""
    names = [f"{ndx}.dcm" for ndx in range(7) if ndx != place]
    write_series(tmp_path, hu, names=names)
    (extra,) = write_series(tmp_path, hu[:1], names=[f"{place}.dcm"])
    rewrite(extra, SOPInstanceUID="1.2.3.99", ImagePositionPatient=[0, 0, 50], **attributes)
    search = find_series(tmp_path)
    assert counts(search) == {SERIES_UID: 6}
    assert dict(search.left_out) == {kind: 1}
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


@pytest.mark.parametrize(("attributes", "kind"), LEFT_OUT)
def test_a_larger_series_of_what_is_no_scan(tmp_path, hu, attributes, kind):
    write_series(tmp_path / "ct", hu[:3])
    write_series(tmp_path / "other", hu, series_uid=OTHER_UID, **attributes)
    assert counts(find_series(tmp_path)) == {SERIES_UID: 3}
    with refused(path=tmp_path / "other") as caught:
        Ct(tmp_path / "other")
    assert kind in str(caught.value)


@pytest.mark.parametrize(
    "image_type", [["DERIVED", "SECONDARY", "MPR"], ["DERIVED", "SECONDARY", "AXIAL"], ["DERIVED", "PRIMARY"]]
)
def test_the_largest_original_series(tmp_path, hu, image_type, caplog):
    """The others are named, and can be asked for."""
    write_series(tmp_path, hu[:3], names=list("abc"), ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    write_series(tmp_path, hu, series_uid=OTHER_UID, ImageType=image_type)
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(Ct(tmp_path).hu, hu[:3])
    assert f"{OTHER_UID} (6 slices, derived)" in caplog.text
    np.testing.assert_array_equal(Ct(tmp_path, series_uid=OTHER_UID).hu, hu)


def test_lossy_compression_is_no_reason_to_leave_a_series_out(tmp_path, hu):
    """Its first value is DERIVED then, and there is no other series."""
    write_series(tmp_path, hu, ImageType=["DERIVED", "PRIMARY", "AXIAL"], LossyImageCompression="01")
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


def test_a_series_in_several_folders(tmp_path, hu):
    """Parts of it, some files twice, and a folder in a folder."""
    files = write_series(tmp_path / "a", hu)
    for ndx, folder in ((1, "b"), (4, "b"), (5, "a/c")):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.move(files[ndx], tmp_path / folder)
    shutil.copy(files[0], tmp_path / "b" / "copy")
    (series,) = find_series(tmp_path).series
    assert series.folder == tmp_path
    assert len(series.slices) == 6
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


def test_an_instance_with_other_pixels(tmp_path, hu):
    files = write_series(tmp_path, hu)
    other = shutil.copy(files[2], tmp_path / "zz.dcm")
    rewrite(other, RescaleIntercept=-1000)
    with refused(path=other):
        Ct(tmp_path)


def test_one_instance_uid_for_all_slices(tmp_path, hu):
    """As a program may write that removes what identifies patients."""
    write_series(tmp_path, hu, SOPInstanceUID="1.2.3")
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


def test_a_copy_under_another_instance_uid(tmp_path, hu):
    """As a program may write that removes what identifies patients; here of the whole series, then of one file."""
    for name, uids in {"other": "1.2.9.{}", "none": ABSENT}.items():
        for folder, count in ((tmp_path / name, 6), (tmp_path / f"{name}-1", 1)):
            for ndx, file in enumerate(write_series(folder, hu)[:count]):
                copy = shutil.copy(file, folder / f"copy-{ndx}.dcm")
                rewrite(copy, SOPInstanceUID=uids.format(ndx) if isinstance(uids, str) else ABSENT)
            np.testing.assert_array_equal(Ct(folder).hu, hu)


def test_a_copy_at_another_place(tmp_path, hu):
    """It would be one more slice, where the series goes on."""
    files = write_series(tmp_path, hu)
    copy = shutil.copy(files[-1], tmp_path / "copy.dcm")
    rewrite(copy, ImagePositionPatient=[-30, -40, 215])
    with refused():
        Ct(tmp_path)


def test_a_description_of_an_original_series_leaves_nothing_out(tmp_path, hu):
    write_series(tmp_path, hu, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], SeriesDescription="1.0 for MIP")
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


def test_a_directory_file_stands_for_its_folder(tmp_path, hu):
    files = FileSet()
    for file in write_series(tmp_path / "from", hu, StudyDate="20200101", StudyTime="120000", StudyID="1"):
        files.add(file)
    files.write(tmp_path / "disc")
    np.testing.assert_array_equal(Ct(tmp_path / "disc" / "DICOMDIR").hu, hu)


def test_links_to_folders_and_files(tmp_path, hu):
    files = write_series(tmp_path / "archive", hu)
    (tmp_path / "scans" / "patient").mkdir(parents=True)
    for file in files[:3]:
        (tmp_path / "scans" / "patient" / file.name).symlink_to(file)
    (tmp_path / "rest").mkdir()
    for file in files[3:]:
        shutil.move(file, tmp_path / "rest")
    (tmp_path / "scans" / "link").symlink_to(tmp_path / "rest")
    (tmp_path / "rest" / "around").symlink_to(tmp_path / "scans")
    np.testing.assert_array_equal(Ct(tmp_path / "scans").hu, hu)


def test_hidden_folders_are_passed_over(tmp_path, hu):
    write_series(tmp_path, hu)
    write_series(tmp_path / ".trash", hu, series_uid=OTHER_UID)
    (tmp_path / "._000.dcm").write_bytes(b"\0\5\x16\7" + bytes(200))  # of macOS
    assert counts(find_series(tmp_path)) == {SERIES_UID: 6}


ORIGINS = [{"PatientID": "P2"}, {"StudyInstanceUID": "1.2.3.9"}, {"FrameOfReferenceUID": "1.2.3.8"}]


@pytest.mark.parametrize("attributes", ORIGINS)
def test_without_series_uid_origin_and_folder_tell_series_apart(tmp_path, hu, attributes):
    first = write_series(tmp_path / "scans", hu[:4], names=list("abcd"), SeriesInstanceUID=ABSENT)
    second = write_series(tmp_path / "scans", hu[4:], names=list("ef"), SeriesInstanceUID=b"", **attributes)
    for ndx, file in enumerate(second):
        rewrite(file, ImagePositionPatient=[-30, -40, 210 + 2.5 * ndx], SOPInstanceUID=f"1.2.{ndx}")
    search = find_series(tmp_path)
    assert counts(search) == {"scans-1": 4, "scans-2": 2}
    assert [each.files for each in search.series] == [tuple(first), tuple(second)]
    np.testing.assert_array_equal(Ct(search.series[1]).hu, hu[4:])


def test_series_without_uid_are_named_after_their_folders(tmp_path, hu):
    for folder in ("patient1", "patient2/CT", "patient3/CT", "."):
        write_series(tmp_path / "all" / folder, hu[:2], SeriesInstanceUID=ABSENT)
    names = {each.name: each.folder for each in find_series(tmp_path / "all").series}
    assert names == {
        "all": tmp_path / "all",
        "patient1": tmp_path / "all" / "patient1",
        "patient2-CT": tmp_path / "all" / "patient2" / "CT",
        "patient3-CT": tmp_path / "all" / "patient3" / "CT",
    }


@pytest.mark.parametrize("attributes", [*ORIGINS, {"Modality": "PT"}])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_one_series_uid_of_two_origins(tmp_path, hu, attributes, place):
    """The file that differs from most is named, in the first place or the last."""
    files = write_series(tmp_path, hu)
    rewrite(files[place], **attributes)
    with refused(path=files[place]):
        Ct(tmp_path)


def test_a_name_that_is_no_utf8(tmp_path, hu):
    """Folders and files in Latin-1; a series without UID is called by what that reads as."""
    # Pixels so large that nothing is said of the scan's size: xdist cannot pass on a test's log with such a name.
    write_series(tmp_path / "slices", hu, SeriesInstanceUID=ABSENT, PixelSpacing=[5, 5])
    (tmp_path / "slices" / "002.dcm").rename(tmp_path / "slices" / os.fsdecode(b"\xe4.dcm"))
    (tmp_path / "slices").rename(tmp_path / os.fsdecode(b"M\xfcller"))
    (series,) = find_series(tmp_path).series
    assert series.name == "Müller"
    np.testing.assert_array_equal(Ct(series).hu, hu)
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


def test_a_damaged_file_may_be_of_any_series_in_its_folder(tmp_path, hu):
    """Unless its tags tell which one."""
    write_series(tmp_path / "a", hu)
    write_series(tmp_path / "b", hu, series_uid=OTHER_UID)
    lost = tmp_path / "a" / "zz"
    lost.write_bytes((tmp_path / "a" / "005.dcm").read_bytes()[:160])
    first, second = find_series(tmp_path).series
    assert (first.name, second.fault) == (SERIES_UID, None)
    with refused(path=lost):
        Ct(first)
    np.testing.assert_array_equal(Ct(second).hu, hu)


def test_a_file_stands_for_its_series(tmp_path, hu):
    """In its folder; other series there are left alone."""
    write_series(tmp_path, hu)
    other = write_series(tmp_path, hu[:3] + 7, series_uid=OTHER_UID, names=["x", "y", "z"])
    write_series(tmp_path / "below", hu[:1], names=["w"], series_uid=OTHER_UID)
    assert counts(find_series(other[1])) == {OTHER_UID: 3}
    np.testing.assert_array_equal(Ct(other[1]).hu, hu[:3] + 7)


def test_a_file_that_is_of_no_series(tmp_path, hu):
    files = write_series(tmp_path, hu)
    report = write_object(tmp_path / "report.dcm", "1.2.840.10008.5.1.4.1.1.88.22", "SR")
    rewrite(files[0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for path in (report, files[0]):
        with refused(path=path):
            Ct(path)


def test_a_file_of_a_broken_series_tells_what_is_wrong_with_it(tmp_path, hu):
    files = write_series(tmp_path, hu)
    rewrite(files[4], RescaleSlope=ABSENT)
    for path in (files[0], files[4]):
        with refused(path=files[4]):
            Ct(path)


def test_alternatives_share_a_folder_and_a_study(tmp_path, hu):
    write_series(tmp_path / "a", hu)
    write_series(tmp_path / "a", hu[:2], series_uid=f"{SERIES_UID}.1", names=list("xy"))
    write_series(tmp_path / "b", hu[:3], series_uid=f"{SERIES_UID}.2")
    write_series(tmp_path / "a", hu[:4], series_uid=f"{SERIES_UID}.3", names=list("klmn"), PatientID="2")
    groups = [sorted(len(each.slices) for each in group) for group in find_series(tmp_path).alternatives()]
    assert sorted(groups) == [[2, 6], [3], [4]]
    assert sorted(len(choose_largest(group).slices) for group in find_series(tmp_path).alternatives()) == [3, 4, 6]


def test_what_was_computed_of_a_series_is_no_scan_of_its_own(tmp_path, hu):
    """In whichever folder of its study; without a study, in its folder."""
    derived = {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}
    write_series(tmp_path / "one" / "a", hu[:3])
    write_series(tmp_path / "one" / "b", hu, series_uid=OTHER_UID, **derived)
    assert [each.name for each in find_series(tmp_path / "one").originals()] == [SERIES_UID]
    assert [each.name for each in find_series(tmp_path / "one" / "b").originals()] == [OTHER_UID]
    for folder in ("a", "b", "c"):
        write_series(tmp_path / "two" / folder, hu, series_uid=f"1.2.{folder}", StudyInstanceUID=ABSENT)
    write_series(
        tmp_path / "two" / "a", hu[:2], series_uid="1.2.3", names=["x", "y"], StudyInstanceUID=ABSENT, **derived
    )
    write_series(tmp_path / "two" / "d", hu, series_uid="1.2.4", StudyInstanceUID=ABSENT, **derived)
    names = [each.name for each in find_series(tmp_path / "two").originals()]
    assert names == ["1.2.4", "1.2.a", "1.2.b", "1.2.c"]


def test_of_many_series_a_few_are_named(tmp_path, hu):
    for ndx in range(30):
        write_series(tmp_path / str(ndx), hu[:1], series_uid=f"1.2.{ndx}")
    with refused(path=tmp_path) as caught:
        find_series(tmp_path).choose("1.9")
    assert len(str(caught.value)) < 300
    assert "20 more" in str(caught.value)


def test_a_series_whose_files_all_lack_what_identifies_them(tmp_path, hu):
    files = write_series(tmp_path / "x", hu)
    for name in ("Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        rewrite_all(files, **{name: ABSENT})
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)
