import pytest

from p2ch13.labels.luna25 import LUNA25_FILE
from p2ch13.labels.patients import LUNA16_PATIENT, find_patients
from tests.support.checks import refused
from tests.support.scan_files import write_csv

COLUMNS = ["seriesuid", "patient"]


def test_without_a_file_each_series_is_of_a_patient_of_its_own(tmp_path):
    assert find_patients(tmp_path, ["1.2", "1.3"]) == {"1.2": "1.2", "1.3": "1.3"}


def test_luna16_has_one_patient_with_two_scans(tmp_path):
    found = find_patients(tmp_path, [*LUNA16_PATIENT, "1.2"])
    assert len(set(found.values())) == 2
    assert found["1.2"] == "1.2"


def test_luna25_names_its_patients(tmp_path):
    columns = ["PatientID", "SeriesInstanceUID", "CoordX", "CoordY", "CoordZ", "label"]
    rows = [(700, "1.2", 1, 2, 3, 0), (700, "1.3", 1, 2, 3, 1), (700, "1.2", 4, 5, 6, 1), (701, "1.4", 1, 2, 3, 0)]
    write_csv(tmp_path / LUNA25_FILE, columns, rows)
    (tmp_path / "annotations.csv").touch()  # whose nodules would be used
    found = find_patients(tmp_path, ["1.2", "1.3", "1.4"])
    assert found["1.2"] == found["1.3"]
    assert found["1.4"] not in (found["1.2"], "1.4")


def test_numbers_of_two_files_are_two_patients(tmp_path):
    for folder in ("subset_a", "subset_b"):
        (tmp_path / folder).mkdir()
    write_csv(tmp_path / "subset_a" / "patients.csv", COLUMNS, [("1.2", 1), ("1.3", 1), ("1.4", 2)])
    write_csv(tmp_path / "subset_b" / "patients.csv", COLUMNS, [("1.5", 1)])
    found = find_patients(tmp_path, ["1.2", "1.3", "1.4", "1.5", "1.6"])
    assert found["1.2"] == found["1.3"]
    assert len(set(found.values())) == 4


@pytest.mark.parametrize("rows", [[("1.2", 1), ("1.2", 2)], [("1.2", "")], [("", 1)]])
def test_a_row_that_cannot_be(tmp_path, rows):
    path = write_csv(tmp_path / "patients.csv", COLUMNS, rows)
    with refused(path=path, line=len(rows) + 1):
        find_patients(tmp_path, ["1.2"])


def test_a_series_in_two_files(tmp_path):
    (tmp_path / "subset_a").mkdir()
    write_csv(tmp_path / "patients.csv", COLUMNS, [("1.2", 1)])
    path = write_csv(tmp_path / "subset_a" / "patients.csv", COLUMNS, [("1.2", 1)])
    with refused(path=path):
        find_patients(tmp_path, ["1.2"])
