"""Unannotated lungs: their places, known lesions, and the scans of a folder."""

import os

import numpy as np
import pytest

from p2ch13.labels.known_lesions import read_known_lesions
from p2ch13.training.backgrounds import LESION_MARGIN_MM, find_scans, find_thicker, find_wall, read_backgrounds
from tests.support.background_files import (
    LESION_COLUMNS,
    LUNG_IRC,
    VX_SIZE_XYZ,
    read_one,
    write_backgrounds,
    write_lesions,
)
from tests.support.checks import refused
from tests.support.dicom_files import write_series
from tests.support.scan_files import make_chest, write_csv, write_scan


@pytest.fixture
def folder(tmp_path):
    return write_backgrounds(tmp_path / "lungs")


def read(folder, spacing_mm=0.0):
    return read_backgrounds(folder, folder.parent / "maps", spacing_mm)


def test_a_background_is_a_chest(tmp_path):
    background = read_one(tmp_path)
    assert (background.series_uid, background.path.name) == ("a", "a.nii.gz")
    assert background.hu.shape == background.wall.shape == make_chest().shape
    assert background.hu.dtype == np.int16
    assert background.hu.min() == -1000
    assert not background.wall[LUNG_IRC]
    assert background.wall[4, 40, 64]  # between the lungs
    assert background.wall[4, 5, 5]  # the room
    assert background.look.noise_hu == pytest.approx(20, rel=0.05)
    assert background.slice_step == 1
    _, rows, cols = background.lung_box
    assert (rows.start, rows.stop) == pytest.approx((20, 61), abs=2)  # of the ellipses, 120 mm high
    assert (cols.start, cols.stop) == pytest.approx((30, 99), abs=2)


@pytest.mark.parametrize(("spacing_mm", "step"), [(0, 1), (2, 1), (6, 2), (9, 3)])
def test_context_slices_are_as_far_apart_as_the_networks(folder, spacing_mm, step):
    background = read(folder, spacing_mm)[0]
    assert background.slice_step == step
    assert background.context(0).tolist() == [0, 0, 0, 0, step, min(2 * step, 7), min(3 * step, 7)]


def test_places_lie_in_the_lungs(tmp_path):
    """The farther from the wall, the later; the middle of a lung is 36 mm away."""
    background = read_one(tmp_path)
    chest = make_chest()
    assert (chest[tuple(background.places.T)] == -860).all()
    assert (np.diff(background.depths_mm) >= 0).all()
    at_middle = (background.places == LUNG_IRC).all(axis=1)
    assert at_middle.sum() == 1
    assert background.depths_mm[at_middle][0] == pytest.approx(15, abs=4)  # the first slice is nearer than the wall
    assert len(background.vessels) == 0


def test_vessels_are_places(tmp_path):
    chest = make_chest((20, 96, 128))
    chest[:, 40, 42] = 40
    folder = tmp_path / "lungs"
    write_scan(folder / "a.nii.gz", chest, vx_size_xyz=VX_SIZE_XYZ)
    (background,) = read(folder)
    assert {tuple(place) for place in background.vessels[:, 1:].tolist()} == {(40, 42)}


def test_wall_holds_no_vessels():
    """A vessel of 2 pixels in a lung is none, a block of 20 is, and so is a dense rim at the lung's border."""
    hu = np.full((1, 100, 100), -860, dtype=np.int16)
    lungs = np.zeros(hu.shape, dtype=bool)
    lungs[:, 10:90, 10:90] = True
    hu[~lungs] = 40
    hu[0, 30:32, 20:60], hu[0, 50:70, 40:60], hu[0, 10:12, 40:60] = 40, 40, 40
    wall = find_wall(hu, lungs, pixel_mm=1.0)
    assert wall[~lungs].all()
    assert not wall[0, 30:32, 20:60].any()
    assert wall[0, 52:68, 42:58].all()
    assert wall[0, 10:12, 42:58].all()
    assert not wall[hu == -860].any()


def test_centers_are_drawn_everywhere_and_in_the_lungs(tmp_path):
    background = read_one(tmp_path)
    rng = np.random.default_rng(0)
    centers = np.array([background.draw_center(rng, 8.0) for _ in range(400)])
    nearest = np.clip(centers.round().astype(int), 0, np.array(background.hu.shape) - 1)
    assert (~background.wall[tuple(nearest.T)]).mean() > 0.9
    assert set(nearest[:, 0].tolist()) == set(range(8))
    assert 0.3 < (centers[:, 2] > 64).mean() < 0.7  # both lungs


def test_known_lesions_are_kept_clear(tmp_path):
    """A ball of 30 mm in a lung; with the margin, nothing of a nodule is nearer than 19 mm to its center."""
    background = read_one(tmp_path, [(LUNG_IRC, 30.0)])
    rng = np.random.default_rng(0)
    centers = np.array([background.draw_center(rng, 10.0) for _ in range(300)])
    away_mm = np.linalg.norm((centers - LUNG_IRC) * 3.0, axis=1)
    assert away_mm.min() > 15 + LESION_MARGIN_MM + 5
    for away_irc, is_clear in (((0, 0, 8), True), ((0, 7, 0), False)):  # 24 and 21 mm
        center = np.add(LUNG_IRC, away_irc).astype(float)
        assert background.is_clear(center, 4.0) == is_clear


def test_no_center_where_all_is_lesion(tmp_path):
    background = read_one(tmp_path, [((4, 40, 64), 600.0)])
    assert background.draw_center(np.random.default_rng(0), 5.0) is None


@pytest.mark.parametrize(
    ("index", "row", "col", "shows"),
    [
        (4, 30, 40, True),  # it is in the window
        (4, 44, 47, False),  # 12 and 15 mm away: 19.2
        (4, 44, 46, True),  # 12 and 12 mm
        (4, 47, 42, False),  # 21 mm below it
        (4, 46, 42, True),  # 18 mm
        (0, 30, 40, True),  # 12 mm above it
        (7, 43, 49, False),  # 9, 9 and 21 mm
    ],
)
def test_windows_that_show_a_lesion(tmp_path, index, row, col, shows):
    """Of 30 mm at (4, 40, 42) and voxels of 3 mm, with a margin of 4 mm: nearer than 19 mm."""
    background = read_one(tmp_path, [(LUNG_IRC, 30.0)])
    assert background.shows_lesion(index, row, col, 32) == shows


@pytest.mark.parametrize(
    ("middle", "first"), [((48, 64), (16, 32)), ((3, 3), (0, 0)), ((95, 127), (32, 64)), ((40.4, 60.6), (8, 29))]
)
def test_windows_stay_inside(tmp_path, middle, first):
    assert read_one(tmp_path).window_at(*middle) == first


def test_scans_of_all_kinds_and_folders(tmp_path):
    folder = write_backgrounds(tmp_path / "lungs", ["b"])
    write_backgrounds(folder / "deep" / "deeper", ["a"])
    write_backgrounds(folder / "phantoms" / "images", ["c"])
    write_backgrounds(folder / "phantoms" / "masks", ["c"])
    write_backgrounds(folder / ".hidden", ["d"])
    write_series(folder / "dicom" / "patient", make_chest(), PixelSpacing=[3, 3])
    scans = find_scans(folder)
    (dicom,) = set(scans) - {"a", "b", "c"}
    assert scans[dicom].path == folder / "dicom" / "patient"
    assert scans["c"].path.parent.name == "images"
    assert [each.series_uid for each in read(folder)] == list(scans) == sorted(scans)


def test_a_scan_that_is_there_twice_is_refused(folder):
    write_backgrounds(folder / "again", ["b"])
    with refused(path=folder / "again" / "b.nii.gz"):
        read(folder)


def test_folders_that_cannot_be_used(tmp_path, folder):
    with refused(path=tmp_path / "none", option="--backgrounds"):
        read(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with refused(path=tmp_path / "empty"):
        read(tmp_path / "empty")


@pytest.mark.parametrize(
    "hu",
    [
        np.full((8, 96, 96), 40, dtype=np.int16),  # no lungs
        make_chest()[:, 20:70, :],  # 50 rows
    ],
)
def test_scans_that_cannot_be_used(folder, hu):
    path = write_scan(folder / "c.nii.gz", hu, vx_size_xyz=VX_SIZE_XYZ)
    with refused(path=path):
        read(folder)


def test_a_cut_short_scan_is_refused(folder):
    path = folder / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with refused(path=path):
        read(folder)


@pytest.mark.parametrize("first_column", ["series", "seriesuid"])
def test_lesions_under_both_names(tmp_path, first_column):
    path = write_csv(
        tmp_path / "known_lesions.csv",
        [first_column, *LESION_COLUMNS[1:], "remark"],
        [("a", 1, 2, 3, 22, "a mass, seen in slice 3")],
    )
    (lesion,) = read_known_lesions(path)
    assert (lesion.series_uid, lesion.center_xyz, lesion.diameter_mm) == ("a", (1, 2, 3), 22)


@pytest.mark.parametrize(
    ("header", "row", "line"),
    [
        (LESION_COLUMNS, ("a", 1, 2, "far", 5), 2),
        (LESION_COLUMNS, ("a", 1, 2, 3, 0), 2),
        (LESION_COLUMNS, ("a", 1, 2, 3, -5), 2),
        (LESION_COLUMNS, ("a", 1, 2, 3, "nan"), 2),
        (("name", *LESION_COLUMNS[1:]), ("a", 1, 2, 3, 5), None),
        (LESION_COLUMNS[:4], ("a", 1, 2, 3), None),
    ],
)
def test_broken_lists_are_refused(folder, header, row, line):
    path = write_csv(folder / "known_lesions.csv", header, [row])
    with refused(path=path) as caught:
        read(folder)
    assert line is None or caught.value.line == line


def test_an_empty_list_is_refused(folder):
    path = folder / "known_lesions.csv"
    path.touch()
    with refused(path=path):
        read(folder)


def test_lesions_of_other_scans_are_refused(folder):
    path = write_csv(folder / "known_lesions.csv", LESION_COLUMNS, [("c", 0, 0, 0, 5)])
    with refused(path=path):
        read(folder)


def test_lesions_outside_of_their_scan_are_refused(folder):
    """Such as those in another frame, which would leave the true place a negative."""
    write_csv(folder / "known_lesions.csv", LESION_COLUMNS, [("b", -500, 0, 210, 5)])
    with refused(path=folder / "b.nii.gz"):
        read(folder)


def test_voxels_without_a_place_are_refused(folder, tmp_path):
    (tmp_path / "maps").write_text("a file")
    with refused(path=tmp_path / "maps"):
        read(folder)


def test_a_full_disk_is_named(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with refused(path=tmp_path / "maps") as caught:
        read(folder)
    assert "No space left on device" in str(caught.value)


def test_voxels_leave_no_file(folder, tmp_path):
    backgrounds = read(folder)
    assert list((tmp_path / "maps").iterdir()) == []
    for background in backgrounds:
        before = background.hu.copy()
        background.release()
        assert np.array_equal(background.hu, before)


def test_a_checksum_tells_voxels_and_lesions(tmp_path):
    one, same, other = (
        read_one(tmp_path / name, lesions) for name, lesions in (("1", []), ("2", []), ("3", [(LUNG_IRC, 5.0)]))
    )
    assert one.checksum == same.checksum != other.checksum
    chest = make_chest()
    write_scan(tmp_path / "4" / "a.nii.gz", chest, vx_size_xyz=VX_SIZE_XYZ)
    assert read(tmp_path / "4")[0].checksum != one.checksum


@pytest.mark.parametrize(
    ("slice_mm", "counts"),
    [(0.625, [5, 8]), (1.0, [3, 5]), (1.25, [2, 4]), (2.0, [2]), (2.5, [2]), (3.0, [2]), (5, [])],
)
def test_how_many_slices_make_a_thick_one(slice_mm, counts):
    """About 3 and 5 mm."""
    assert find_thicker(slice_mm) == counts


def test_thickened_backgrounds(folder):
    """The means of two slices; what lies in the lung is where it was."""
    write_lesions(folder, [("a", LUNG_IRC, 20.0)])
    thin, thick = read_backgrounds(folder, folder.parent / "maps", 6.0, thickened=True)[:2]
    assert [each.series_uid for each in (thin, thick)] == ["a", "a"]
    assert thick.hu.shape == (4, *thin.hu.shape[1:])
    pairs = thin.hu.astype(float).reshape(4, 2, *thin.hu.shape[1:])
    is_tissue = pairs.min(axis=1) > -1000  # of air, the clipped values would be averaged here
    assert np.abs(thick.hu - pairs.mean(axis=1))[is_tissue].max() <= 0.5
    assert (thin.vx_size_irc.tolist(), thick.vx_size_irc.tolist()) == ([3, 3, 3], [6, 3, 3])
    assert (thin.slice_step, thick.slice_step) == (2, 1)
    assert thick.volume.to_xyz((1, 0, 0)) == pytest.approx(thin.volume.to_xyz((2.5, 0, 0)))
    assert thick.lesion_irc.tolist() == [[2, *LUNG_IRC[1:]]]  # index 4 of the thin ones
    assert thick.look.noise_hu == pytest.approx(thin.look.noise_hu / 2**0.5, rel=0.1)


def test_a_scan_can_be_left_out(folder):
    """Its lesions may stay in the list."""
    write_lesions(folder, [("a", LUNG_IRC, 20.0), ("b", LUNG_IRC, 20.0)])
    (background,) = read_backgrounds(folder, folder.parent / "maps", 0.0, left_out="a")
    assert background.series_uid == "b"
    with refused(path=folder, option="--left-out-background"):
        read_backgrounds(folder, folder.parent / "maps", 0.0, left_out="c")
    (folder / "b.nii.gz").unlink()
    write_lesions(folder, [("a", LUNG_IRC, 20.0)])
    with refused(path=folder, option="--left-out-background"):
        read_backgrounds(folder, folder.parent / "maps", 0.0, left_out="a")
