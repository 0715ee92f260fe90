import os
from pathlib import Path

import numpy as np
import pytest

from p2ch13.config import CROP_WIDTH_IRC, CropChoice, Folders, LabelOptions
from p2ch13.data import cache, index
from p2ch13.data.cache import CtCache
from p2ch13.data.ct import Ct
from p2ch13.util.disk import CacheError
from tests.support.scan_files import TINY_SCANS, Ball, ball_mask, make_hu, to_xyz, write_luna, write_scan


@pytest.fixture
def opened(monkeypatch) -> list[Path]:
    """List the scans that are opened."""
    paths: list[Path] = []

    class CountedCt(Ct):
        def __init__(self, path, *arguments):
            paths.append(path)
            super().__init__(path, *arguments)

    monkeypatch.setattr(index, "Ct", CountedCt)
    return paths


def test_values_are_those_of_the_scan(folders):
    for _ in range(2):  # computed, then read
        ct_cache = CtCache.open(folders)
        ct = ct_cache.index.get_ct("1.2.0")
        assert ct_cache.get_ct_sample_size("1.2.0") == (16, ct.positive_indexes)
        for nodule in ct.nodules:
            cached = ct_cache.get_ct_raw_candidate("1.2.0", nodule.center_xyz, CROP_WIDTH_IRC)
            for value, expected in zip(cached, ct.get_raw_candidate(nodule.center_xyz, CROP_WIDTH_IRC), strict=True):
                np.testing.assert_array_equal(value, expected)
                assert np.asarray(value).dtype == np.asarray(expected).dtype


# The keys of caches filled by earlier versions: changed, every one of them would have to be filled again.
SCAN = '[["1.2.1.mhd", 345, 1000000000000000000], ["1.2.1.raw", 332800, 1000000000000000000]], [[12.0, -12.0, 210.5]]'
CANDIDATE = '["raw candidate", "1.2.1", [12.0, -12.0, 210.5], [7, 96, 96]'
CENTERS = '["places of crops", "1.2.1", [[12.0, -12.0, 210.5, 8.399999999999999]], 3860553730, [5, 48]'


@pytest.mark.parametrize(
    ("labels", "threshold_hu", "rule"),
    [("box", -700, ""), ("refined", -600, ', "refined", 2, 1.25, [8.399999999999999]')],
)
def test_keys_of_filled_caches(tmp_path, labels, threshold_hu, rule):
    data_dir = write_luna(tmp_path / "luna", {"1.2.1": TINY_SCANS["1.2.1"]})
    for path in (data_dir / "subset0").iterdir():
        os.utime(path, (10**9, 10**9))
    choice = CropChoice(all_nodule_slices=True, slice_spacing_mm=2.5)
    for filled in (CropChoice(), choice):
        ct_cache = CtCache.open(Folders(data_dir, tmp_path / "cache"), LabelOptions(labels))
        ct_cache.fill("1.2.1", filled)
    scan = f"{threshold_hu}, {SCAN}{rule}]"
    keys = [
        f'["sample size", "1.2.1", {scan}',
        f"{CANDIDATE}, {scan}",
        f"{CANDIDATE}, 2.5, {scan}",
        f"{CENTERS}, {scan}",
    ]
    assert set(keys) < set(ct_cache._disk.iterkeys())
    assert ct_cache.folder / "version-3-diskcache-5" == Path(ct_cache._disk.directory)


def test_hu_is_clipped(folders):
    hu = make_hu(TINY_SCANS["1.2.1"])
    hu[:, 0, 0], hu[:, 99, 103] = -3024, 3000
    write_scan(folders.data_dir / "subset0" / "1.2.1.mhd", hu)
    ct_chunk, _, _ = CtCache.open(folders).get_ct_raw_candidate("1.2.1", to_xyz((8, 50, 52)), (7, 100, 104))
    assert (ct_chunk.min(), ct_chunk.max()) == (-1000, 1000)


def test_a_full_cache_opens_no_scan(folders, opened):
    ct_cache = CtCache.open(folders)
    assert not ct_cache.is_complete("1.2.0")
    ct_cache.fill("1.2.0")
    assert ct_cache.is_complete("1.2.0")
    assert len(opened) == 1
    again = CtCache.open(folders)
    again.fill("1.2.0")
    assert len(opened) == 1


def test_a_changed_scan_is_read_again(folders):
    CtCache.open(folders).fill("1.2.1")
    write_scan(folders.data_dir / "subset0" / "1.2.1.mhd", make_hu([Ball((7, 40, 60), 3)]))
    ct_cache = CtCache.open(folders)
    assert not ct_cache.is_complete("1.2.1")
    assert ct_cache.get_ct_sample_size("1.2.1") == (16, [4, 5, 6, 7, 8, 9, 10])  # 7 - 3 to 7 + 3


def test_changed_annotations_are_used(folders):
    ct_cache = CtCache.open(folders)
    for series_uid in ct_cache.index.series_list:
        ct_cache.fill(series_uid)
    path = folders.data_dir / "annotations.csv"
    old, new = (",".join(map(str, to_xyz(center_irc))) for center_irc in ((7, 40, 60), (3, 40, 60)))
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    ct_cache = CtCache.open(folders)
    assert [ct_cache.is_complete(uid) for uid in ct_cache.index.series_list] == [True, False, True, True]
    # The ball has radius 6 about slice 7; the annotation is in slice 3 now: 3 - 3 = 0 is lung, so that the box is 0..6.
    assert ct_cache.get_ct_sample_size("1.2.1") == (16, [1, 2, 3, 4, 5, 6])


def test_a_nearby_nodule_changes_a_crops_mask(tmp_path):
    """A crop's mask shows the other nodules of the series as well as its own."""
    balls = [Ball((8, 50, 52), 5), Ball((8, 70, 52), 4)]
    folders = Folders(write_luna(tmp_path / "luna", {"1.2.0": balls}), tmp_path / "cache")
    path = folders.data_dir / "annotations.csv"
    lines = path.read_text().splitlines()
    masks = []
    for line_count in (2, 3):  # the header and one nodule, then both
        path.write_text("\n".join(lines[:line_count]))
        center_xyz = to_xyz(balls[0].center_irc)
        masks.append(CtCache.open(folders).get_ct_raw_candidate("1.2.0", center_xyz, CROP_WIDTH_IRC)[1])
    window = (slice(5, 12), slice(2, 98), slice(4, 100))  # 96 rows from 50 - 48 on, 96 cols from 52 - 48 on
    np.testing.assert_array_equal(masks[0], ball_mask(balls[0])[window])
    np.testing.assert_array_equal(masks[1], (ball_mask(balls[0]) | ball_mask(balls[1]))[window])


def test_a_corrupt_value_is_recomputed(folders, caplog):
    ct_cache = CtCache.open(folders)
    ct_cache.fill("1.2.0")
    center_xyz = ct_cache.index.nodules["1.2.0"][0].center_xyz
    whole = ct_cache.get_ct_raw_candidate("1.2.0", center_xyz, CROP_WIDTH_IRC)[0]
    for path in folders.cache_dir.rglob("*.val"):
        path.write_bytes(path.read_bytes()[:-100])
    again = ct_cache.get_ct_raw_candidate("1.2.0", center_xyz, CROP_WIDTH_IRC)[0]
    np.testing.assert_array_equal(again, whole)
    assert ct_cache.rebuilt_count == 1
    assert "1.2.0" in caplog.text
    ct_cache.get_ct_raw_candidate("1.2.0", center_xyz, CROP_WIDTH_IRC)
    assert ct_cache.rebuilt_count == 1


def test_the_data_folder_is_not_written_to(folders):
    before = sorted(folders.data_dir.rglob("*"))
    ct_cache = CtCache.open(folders)
    for series_uid in ct_cache.index.series_list:
        ct_cache.fill(series_uid)
    assert sorted(folders.data_dir.rglob("*")) == before


def test_slice_spacing_is_part_of_the_key(folders):
    ct_cache = CtCache.open(folders)
    near, far = CropChoice(), CropChoice(slice_spacing_mm=3.0)
    ct_cache.fill("1.2.1", near)
    assert not ct_cache.is_complete("1.2.1", far)
    ct_cache.fill("1.2.1", far)
    assert ct_cache.is_complete("1.2.1", far)
    center_xyz = ct_cache.index.nodules["1.2.1"][0].center_xyz
    chunks = [ct_cache.get_ct_raw_candidate("1.2.1", center_xyz, CROP_WIDTH_IRC, mm)[0] for mm in (0.0, 3.0)]
    # Slices 4 to 10, and 1 to 13 by twos: the ball about slice 7 has a radius of 6 slices.
    assert [(chunk == 0).any(axis=(1, 2)).tolist() for chunk in chunks] == [[True] * 7, [True] * 7]
    assert (chunks[0][3] == chunks[1][3]).all()
    assert (chunks[0][1] != chunks[1][1]).any()


def test_a_cache_of_another_version_is_left_alone(folders, monkeypatch, opened):
    CtCache.open(folders).fill("1.2.0")
    (folders.cache_dir / "cache.db").write_text("another program's")
    before = {path: path.read_bytes() for path in folders.cache_dir.rglob("*.val")}
    monkeypatch.setattr(cache, "CACHE_VERSION", cache.CACHE_VERSION + 1)
    newer = CtCache.open(folders)
    assert not newer.is_complete("1.2.0")
    newer.fill("1.2.0")
    assert newer.is_complete("1.2.0")
    assert len(opened) == 2
    assert {path: path.read_bytes() for path in before} == before
    monkeypatch.undo()
    assert CtCache.open(folders).is_complete("1.2.0")


def test_a_corrupt_database_is_not_a_scans_error(folders):
    ct_cache = CtCache.open(folders)
    ct_cache.fill("1.2.0")
    (database,) = folders.cache_dir.rglob("cache.db")
    database.write_bytes(b"no database" * 999)
    again = CtCache.open(folders)
    for call in (lambda: again.is_complete("1.2.0"), lambda: again.fill("1.2.0"), again.volume):
        with pytest.raises(CacheError, match="cache"):
            call()
