"""What objects repeat of a series, whichever of its attributes are absent, empty or odd."""

import pytest
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import RLELossless

from p2ch13.data.ct import Ct
from p2ch13.detection.dicom.objects import Algorithm, new_series, repeat_attributes
from p2ch13.detection.dicom.source import OPTIONAL, REPEATED, read_source
from tests.support.checks import refused
from tests.support.dicom_files import ABSENT, SERIES_UID, rewrite, rewrite_all, write_enhanced, write_series


def repeated(folder):
    return repeat_attributes(read_source(Ct(folder).header))


VALUES = {  # in the file -> in the objects
    "PatientName": [
        ("Doe^Jane", "Doe^Jane"),
        (ABSENT, ""),
        ("", ""),
        (b"x" * 66, ""),
        (b"Doe\\Jane", ""),
        (b"a\x07b ", ""),
    ],
    "PatientID": [("LIDC-1", "LIDC-1"), (b" 7 ", "7"), (ABSENT, ""), (b"x" * 66, ""), (b"1\\2 ", "")],
    "PatientBirthDate": [
        *[("19700131", "19700131"), (b"1970.01.31", "19700131"), (ABSENT, ""), ("", "")],
        *[(b"unknown ", ""), (b"19701399", ""), (b"1970", ""), (b"000Y", "")],
    ],
    "PatientSex": [("F", "F"), ("O", "O"), (b"m ", "M"), (ABSENT, ""), (b"female", ""), (b"U ", "")],
    "StudyDate": [("20200131", "20200131"), (ABSENT, ""), (b"31.1.2020 ", ""), (b"2020-01-31", "")],
    "StudyTime": [("093000", "093000"), ("093000.25", "093000.25"), ("", ""), (b"09:30:00", ""), (b"999999", "")],
    "StudyID": [("1", "1"), (ABSENT, ""), (b"x" * 18, "")],
    "AccessionNumber": [("A7", "A7"), (ABSENT, ""), (b"x" * 18, "")],
    "ReferringPhysicianName": [("Roe^R", "Roe^R"), (ABSENT, "")],
    "StudyDescription": [("CT", "CT"), (ABSENT, None), (b"a\nb ", None)],
    "PatientIdentityRemoved": [("NO", "NO"), (b"maybe ", None)],
}


@pytest.mark.parametrize(
    ("keyword", "value", "expected"), [(keyword, *row) for keyword, rows in VALUES.items() for row in rows]
)
def test_values(tmp_path, hu, keyword, value, expected):
    write_series(tmp_path, hu[:2], **{keyword: value})
    found = repeated(tmp_path)
    assert found.get(keyword) == expected
    assert set(REPEATED) <= {element.keyword for element in found}  # type 2: all of them, if only empty


def test_an_attribute_that_a_file_has(tmp_path, hu):
    """Of an anonymizer that was not thorough, or a series from two devices."""
    files = write_series(tmp_path, hu, **dict.fromkeys((*REPEATED, *OPTIONAL), ABSENT), FrameOfReferenceUID=ABSENT)
    rewrite(files[3], StudyDate="20200131", FrameOfReferenceUID="1.2.3.9")
    source = read_source(Ct(tmp_path).header)
    assert (source.attributes["StudyDate"], source.frame_of_reference) == ("20200131", "1.2.3.9")


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"])
@pytest.mark.parametrize("value", [ABSENT, ""])
def test_what_objects_cannot_be_without(tmp_path, hu, keyword, value):
    write_series(tmp_path / "scan", hu, **{keyword: value})
    with refused(path=tmp_path / "scan"):
        read_source(Ct(tmp_path / "scan").header)


@pytest.mark.parametrize("value", [ABSENT, "", f"{SERIES_UID}.1"], ids=["absent", "empty", "another file's"])
def test_images_that_no_reference_could_name(tmp_path, hu, value):
    files = write_series(tmp_path, hu)
    rewrite(files[4], SOPInstanceUID=value)
    with refused(path=files[4]):
        read_source(Ct(tmp_path).header)


CHARACTER_SETS = {
    "Latin-1": ("ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
    "UTF-8": ("ISO_IR 192", "Wang^XiaoDong=王^小东".encode(), "Wang^XiaoDong=王^小东"),
    "GB18030": ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
    "Cyrillic": ("ISO_IR 144", "Иванов^Илья".encode("iso8859_5"), "Иванов^Илья"),
    "Greek": ("ISO_IR 126", "Διονυσιος".encode("iso8859_7"), "Διονυσιος"),
    "Japanese": (
        ["", "ISO 2022 IR 87"],
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
        "Yamada^Tarou=山田^太郎",
    ),
    "not declared, UTF-8": (ABSENT, "Müller^Jörg".encode(), "Müller^Jörg"),
    "not declared, another": (ABSENT, "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
    "unknown": ("ISO_IR 999", b"Mueller^Joerg", "Mueller^Joerg"),
}


@pytest.mark.parametrize("kind", CHARACTER_SETS)
def test_names_in_other_alphabets(tmp_path, hu, kind):
    """They are written in Latin-1 or UTF-8, and say so."""
    character_set, name, expected = CHARACTER_SETS[kind]
    padded = name + b" " * (len(name) % 2)
    files = write_series(tmp_path / "scan", hu[:2])
    rewrite_all(files, SpecificCharacterSet=character_set)
    rewrite_all(files, PatientName=padded)
    found = repeated(tmp_path / "scan")
    found.save_as(tmp_path / "object.dcm", implicit_vr=True, little_endian=True)
    assert str(dcmread(tmp_path / "object.dcm", force=True).PatientName) == expected


def test_an_identity_that_was_removed_says_how(tmp_path, hu):
    """By its codes alone in the series; an object has to have them or a text."""
    files = write_series(tmp_path, hu[:2], PatientIdentityRemoved="YES")
    assert repeated(tmp_path).DeidentificationMethod
    rewrite_all(files, DeidentificationMethod=["by hand", "twice"])
    assert list(repeated(tmp_path).DeidentificationMethod) == ["by hand", "twice"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", 1003),
        (ABSENT, 1000),
        ("", 1000),
        (b"abc ", 1000),
        ("-5", 1000),
        (b"2147483647", 1000),
        (b"99999999999 ", 1000),
    ],
)
def test_series_numbers(tmp_path, hu, value, expected):
    write_series(tmp_path, hu[:2], SeriesNumber=value)
    assert new_series(read_source(Ct(tmp_path).header), 1000, "")["series_number"] == expected


def test_images_and_frames(tmp_path, hu):
    write_series(tmp_path / "images", hu, step_xyz=(0, 0, -2.5))
    images = read_source(Ct(tmp_path / "images").header).images
    assert [image.instance for image in images] == [f"{SERIES_UID}.{ndx}" for ndx in range(8, 0, -1)]
    assert {(image.frame_number, image.sop_class) for image in images} == {(None, "1.2.840.10008.5.1.4.1.1.2")}
    write_enhanced(tmp_path / "frames" / "ct.dcm", hu, order=[1, 0, 2, 3, 4, 5, 6, 7])
    frames = read_source(Ct(tmp_path / "frames").header).images
    assert [image.frame_number for image in frames] == [2, 1, 3, 4, 5, 6, 7, 8]
    assert {(image.instance, image.sop_class) for image in frames} == {
        (f"{SERIES_UID}.1", "1.2.840.10008.5.1.4.1.1.2.1")
    }


def test_a_file_that_names_no_class(tmp_path, hu):
    files = write_series(tmp_path, hu, SOPClassUID=ABSENT)
    for file in files:
        dataset = dcmread(file)
        del dataset.file_meta.MediaStorageSOPClassUID
        dataset.save_as(file, enforce_file_format=False)
    images = read_source(Ct(tmp_path).header).images
    assert {image.sop_class for image in images} == {"1.2.840.10008.5.1.4.1.1.2"}


def test_files_without_a_preamble(tmp_path, hu):
    for file in write_series(tmp_path, hu, PatientID="8"):
        dataset = dcmread(file)
        dataset.file_meta = FileMetaDataset()
        dataset.preamble = None
        dataset.save_as(file, enforce_file_format=False, implicit_vr=True, little_endian=True)
    source = read_source(Ct(tmp_path).header)
    assert source.attributes["PatientID"] == "8"
    assert [image.instance for image in source.images] == [f"{SERIES_UID}.{ndx}" for ndx in range(1, 9)]


def test_compressed_files(tmp_path, hu):
    for file in write_series(tmp_path, hu, LossyImageCompression="01", LossyImageCompressionRatio=["4.5", "2"]):
        dataset = dcmread(file)
        dataset.compress(RLELossless)
        dataset.save_as(file)
    attributes = read_source(Ct(tmp_path).header).attributes
    assert attributes["LossyImageCompression"] == "01"
    assert attributes["LossyImageCompressionRatio"] == "4.5\\2"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["seg.best"], "seg.best"),
        (["a", "b"], "a+b"),
        ([" "], "p2ch13"),
        (["x" * 99], "x" * 64),
        (["肺\\n\n"], "__n_"),
    ],
)
def test_the_algorithm_is_named_by_its_networks(names, expected):
    assert Algorithm.of(names).name == expected
