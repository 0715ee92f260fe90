"""All CSV files that users bring, in the spellings that other programs give them."""

import logging
import re

import pytest

from p2ch13.data.layouts import list_nodules
from p2ch13.evaluation.external import read_findings
from p2ch13.labels.candidates import read_annotations, read_excluded, read_non_nodules, read_rated
from p2ch13.labels.known_lesions import read_known_lesions
from p2ch13.labels.luna25 import LUNA25_FILE, read_luna25, read_luna25_patients
from p2ch13.labels.patients import read_patients
from tests.support.checks import refused

SCANS = {"1.2.0", "1.2.1"}
POSITION = "seriesuid,coordX,coordY,coordZ"
LUNA25 = "PatientID,SeriesInstanceUID,CoordX,CoordY,CoordZ,label"


def series_and_center(rows):
    return [(row.series_uid, *row.center_xyz) for row in rows]


def read_candidates(path, scans):
    return read_non_nodules(path.rename(path.with_name("candidates.csv")).parent, scans)


def read_nodules_of_luna25(path, scans):
    return list_nodules(path.rename(path.with_name(LUNA25_FILE)).parent, scans)


def read_all_findings(path, scans):
    return [finding for of_series in read_findings(path, scans).values() for finding in of_series]


# Each file: its header, what stands around UID and center in a row, its reader.
FILES = {
    "annotations.csv": (f"{POSITION},diameter_mm", "{},5.5", read_annotations),
    "annotations_with_malignancy.csv": (f"{POSITION},diameter_mm,mal_bool", "{},5.5,True", read_rated),
    "annotations_excluded.csv": (f"{POSITION},diameter_mm", "{},-1", read_excluded),
    "candidates.csv": (f"{POSITION},class", "{},0", read_candidates),
    "known_lesions.csv": (f"{POSITION},diameter_mm,remark", "{},5.5,a mass", read_known_lesions),
    "findings": (f"{POSITION},probability", "{},0.75", read_all_findings),
    "LUNA25": (LUNA25, "7,{},1", read_luna25),
    "LUNA25 in a data folder": (LUNA25, "7,{},1", read_nodules_of_luna25),
}
KEEP_OTHERS = ("known_lesions.csv", "findings")  # whose callers look for rows of other series


def write(tmp_path, name, places, change=lambda text: text):
    header, row, read = FILES[name]
    text = "\n".join([header, *(row.format(place) for place in places), ""])
    path = tmp_path / "a.csv"
    path.write_bytes(change(text).encode())
    return path, read


@pytest.fixture(autouse=True)
def all_messages(caplog):
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize("name", FILES)
def test_each_file_in_semicolons_decimal_commas_and_capitals(tmp_path, name, caplog):
    path, read = write(
        tmp_path,
        name,
        ["1.2.0,-1.5,2.25,30", "1.2.1,4,5,6.125"],
        lambda text: "\ufeff" + text.upper().replace("\n", " \r\n").replace(",", " ; ").replace("-1.5", "-1,5")
        .replace("2.25", "2,25").replace("6.125", "6,125").replace("5.5", "5,5").replace("0.75", "0,75") + ";;\r\n",
    )  # fmt: skip
    assert sorted(series_and_center(read(path, SCANS))) == [("1.2.0", -1.5, 2.25, 30), ("1.2.1", 4, 5, 6.125)]
    (message,) = caplog.messages
    assert "2 of 2 rows spell" in message


@pytest.mark.parametrize(
    "spelled", ["1.2.0 ", "\xa01.2.0", "1.2.0.mhd", "1.2.0.nii.gz", "'1.2.0", "subset0/1.2.0.mhd", "1.2.0\0"]
)
@pytest.mark.parametrize("name", FILES)
def test_each_file_with_uids_in_another_spelling(tmp_path, name, spelled, caplog):
    path, read = write(tmp_path, name, [f"{spelled},1,2,3", "1.2.1,4,5,6"])
    assert sorted(series_and_center(read(path, SCANS))) == [("1.2.0", 1, 2, 3), ("1.2.1", 4, 5, 6)]
    (message,) = caplog.messages
    assert "1 of 2 rows" in message
    assert "line 2" in message


@pytest.mark.parametrize("spelled", ["7", "7.0", "07", "0007"])
@pytest.mark.parametrize("name", FILES)
def test_each_file_with_numbers_that_lost_their_zeros(tmp_path, name, spelled):
    path, read = write(tmp_path, name, [f"{spelled},1,2,3"])
    assert series_and_center(read(path, {"0007", "0008"})) == [("0007", 1, 2, 3)]


@pytest.mark.parametrize("name", sorted({*FILES} - {"annotations_excluded.csv"}))
def test_each_file_with_a_row_that_is_there_twice(tmp_path, name, caplog):
    path, read = write(tmp_path, name, ["1.2.0,1,2,3", "1.2.1,4,5,6", "1.2.0,1.0,2,3.00", "1.2.0,1,2,4"])
    found = sorted(series_and_center(read(path, SCANS)))
    assert found == [("1.2.0", 1, 2, 3), ("1.2.0", 1, 2, 4), ("1.2.1", 4, 5, 6)]
    (message,) = caplog.messages
    assert "1 of 4 rows" in message
    assert "line 4 line 2" in message


@pytest.mark.parametrize("name", FILES)
def test_each_file_with_rows_of_scans_that_are_not_on_disk(tmp_path, name, caplog):
    path, read = write(tmp_path, name, ["9.9,1,2,3", "1.2.1,4,5,6", "9.9,1,2,4"])
    found = sorted(series_and_center(read(path, SCANS)))
    if name in KEEP_OTHERS:
        assert found == [("1.2.1", 4, 5, 6), ("9.9", 1, 2, 3), ("9.9", 1, 2, 4)]
    else:
        assert found == [("1.2.1", 4, 5, 6)]
        (message,) = caplog.messages
        assert "2 of 3 rows" in message


@pytest.mark.parametrize("name", sorted({*FILES} - {*KEEP_OTHERS}))
def test_each_file_of_another_data_set(tmp_path, name):
    path, read = write(tmp_path, name, ["1.9.0,1,2,3", "1.9.1,4,5,6"])
    with refused() as caught:
        read(path, SCANS)
    for part in (caught.value.path.name, "2 rows", "2 scans", "1.9.0", "1.2.0"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_each_file_without_rows(tmp_path, name):
    path, read = write(tmp_path, name, [])
    assert read(path, SCANS) == []


@pytest.mark.parametrize(
    ("place", "name"), [(place, name) for place in (",1,2,3", "1.2.0,1,2,x", "1.2.0,1,2") for name in FILES]
)
def test_each_file_with_a_row_that_cannot_be_read(tmp_path, name, place):
    path, read = write(tmp_path, name, ["1.2.1,4,5,6", place])
    with refused(line=3):
        read(path, SCANS)


@pytest.mark.parametrize(
    ("text", "is_mal"),
    [("TRUE", True), ("1", True), ("1.0", True), ("FALSE", False), ("0", False), ("0.0", False), ("", None)],
)
def test_malignancy_as_spreadsheets_write_it(tmp_path, text, is_mal):
    path = tmp_path / "a.csv"
    path.write_text(f"{POSITION},diameter_mm,mal_bool\n1.2.0,1,2,3,4,{text}\n")
    assert [nodule.is_mal for nodule in read_rated(path)] == [is_mal]
    path.write_text(f"{LUNA25}\n7,1.2.0,1,2,3,{text}\n")
    assert [nodule.is_mal for nodule in read_luna25(path)] == [is_mal]


@pytest.mark.parametrize(("text", "count"), [(" 0", 1), ("0.0", 1), ("FALSE", 1), ("1", 0), ("1.0", 0), ("TRUE", 0)])
def test_classes_as_spreadsheets_write_them(tmp_path, text, count):
    (tmp_path / "candidates.csv").write_text(f"{POSITION},class\n1.2.0,1,2,3,{text}\n")
    assert len(read_non_nodules(tmp_path, SCANS)) == count


@pytest.mark.parametrize("text", ["", "2", "0.5", "maybe"])
def test_a_class_that_is_none(tmp_path, text):
    (tmp_path / "candidates.csv").write_text(f"{POSITION},class\n1.2.0,1,2,3,{text}\n")
    with refused(path=tmp_path / "candidates.csv", line=2):
        read_non_nodules(tmp_path, SCANS)


def test_rows_of_one_place_in_other_digits_are_pointed_out(tmp_path, caplog):
    path, _ = write(tmp_path, "annotations.csv", ["1.2.0,1,2,3", "1.2.0,1.05,2,3", "1.2.0,1,2,3.5", "1.2.1,1,2,3"])
    assert len(read_annotations(path, SCANS)) == 4
    (message,) = caplog.messages
    assert "1.2.0" in message


def test_patients_in_other_spellings(tmp_path, caplog):
    path = tmp_path / "patients.csv"
    path.write_text("Patient ID;SeriesUID\n12; 1.2.0.mhd\n13;'1.2.1\n12;1.2.0.mhd\n9;9.9\n", "utf-8-sig")
    assert read_patients(path, SCANS) == {"1.2.0": "12", "1.2.1": "13"}
    assert len(caplog.messages) == 3  # spelled otherwise, not on disk, there twice
    path.write_text(f"{LUNA25}\n12,1.2.0 ,1,2,3,1\n12,1.2.0,4,5,6,0\n13,1.2.1,1,2,3,0\n")
    assert read_luna25_patients(path, SCANS) == {"1.2.0": "12", "1.2.1": "13"}


@pytest.mark.parametrize("rows", ["1.2.0,1\n1.2.0,2\n", "1.2.0,1\n1.2.0 ,2\n", "1.2.1,2\n1.2.0,\n"])
def test_a_series_of_two_patients_or_of_none(tmp_path, rows):
    path = tmp_path / "patients.csv"
    path.write_text(f"seriesuid,patient\n{rows}")
    with refused(path=path, line=3):
        read_patients(path, SCANS)


@pytest.mark.parametrize("read", [read_patients, read_luna25_patients])
def test_patients_of_another_data_set(tmp_path, read):
    path = tmp_path / "a.csv"
    path.write_text("seriesuid,patient,PatientID\n1.9.0,1,1\n")
    with refused(path=path) as caught:
        read(path, SCANS)
    for part in ("1.9.0", "1.2.0"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_each_file_with_units_in_its_header(tmp_path, name):
    path, read = write(tmp_path, name, ["1.2.0,1,2,3"])
    header, _, rows = path.read_text().partition("\n")
    path.write_text("\n".join([re.sub("(coord[XYZ])", r"\1 [mm]", header, flags=re.IGNORECASE), rows]))
    (row,) = read(path, SCANS)
    assert (row.series_uid, *row.center_xyz) == ("1.2.0", 1, 2, 3)
