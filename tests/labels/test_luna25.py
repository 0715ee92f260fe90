import pytest

from p2ch13.labels.luna25 import LUNA25_DIAMETER_MM, read_luna25, read_luna25_patients
from tests.support.checks import refused
from tests.support.mask_files import LUNA25_COLUMNS, luna25_row
from tests.support.scan_files import write_csv


@pytest.fixture
def csv_path(tmp_path):
    rows = [
        luna25_row("1.2.0", (61.14, -163.28, -1177.75), label=1, patient=100001),
        luna25_row("1.2.0", (5, 69, -1100), label=0, patient=100001),
        luna25_row("1.2.0", (5, 69, -1100), label=0, patient=100001),  # again
        luna25_row("1.2.1", (-83.94738007, -16.75880432, 71.67498779), label=0, patient=100001),
        luna25_row("1.2.2", (1, 2, 3), label=1, patient=100002),
    ]
    return write_csv(tmp_path / "luna25.csv", LUNA25_COLUMNS, rows)


def test_centers_and_malignancy(csv_path):
    nodules = read_luna25(csv_path)
    assert [(n.series_uid, n.is_mal) for n in nodules] == [
        ("1.2.0", True), ("1.2.0", False), ("1.2.1", False), ("1.2.2", True)
    ]  # fmt: skip
    assert nodules[0].center_xyz == (61.14, -163.28, -1177.75)
    assert {n.diameter_mm for n in nodules} == {LUNA25_DIAMETER_MM}
    assert all(n.is_nodule and n.has_annotation for n in nodules)
    assert [n.series_uid for n in read_luna25(csv_path, {"1.2.1"})] == ["1.2.1"]


def test_patients_have_several_scans(csv_path):
    assert read_luna25_patients(csv_path) == {"1.2.0": "100001", "1.2.1": "100001", "1.2.2": "100002"}
    with csv_path.open("a") as file:
        print(*luna25_row("1.2.2", (1, 2, 3), label=1, patient=100003), sep=",", file=file)
    with refused(path=csv_path, line=7):
        read_luna25_patients(csv_path)


@pytest.mark.parametrize(("center", "label"), [((1, 2, "x"), 1), ((1, 2, 1e6), 1), ((1, 2, 3), 2), ((1, 2, 3), "x")])
def test_rows_that_cannot_be_used(tmp_path, center, label):
    path = write_csv(tmp_path / "luna25.csv", LUNA25_COLUMNS, [luna25_row("1.2", center, label=label)])
    with refused(path=path, line=2):
        read_luna25(path)


def test_a_missing_column(tmp_path):
    path = write_csv(tmp_path / "luna25.csv", LUNA25_COLUMNS[:6], [])
    with refused(path=path):
        read_luna25(path)
