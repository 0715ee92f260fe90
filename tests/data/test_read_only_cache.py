"""A cache that was filled once and may not be written since."""

import sqlite3

import pytest

from p2ch13.data.cache import CtCache
from p2ch13.util.disk import get_cache
from p2ch13.util.disk_read_only import ReadOnlyCache
from tests.support.read_only import read_only, run_as_user
from tests.support.scan_files import TINY_SCANS

TRAINING = ("--val-stride", "2", "--samples-per-epoch", "8", "--depth", "2", "--precision", "fp32", "--epochs", "1")


def fill(folders, series_list=TINY_SCANS):
    ct_cache = CtCache.open(folders)
    for series_uid in series_list:
        ct_cache.fill(series_uid)
    ct_cache._disk.close()
    return folders.cache_dir


def options_of(folders):
    return "--data-dir", folders.data_dir, "--cache-dir", folders.cache_dir


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_precache_has_nothing_to_do(folders):
    before = content_of(fill(folders))
    with read_only(folders.cache_dir):
        done = run_as_user("-m", "p2ch13.precache", *options_of(folders), "--num-workers", "2")
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stdout
    assert ": 4 scans, 6 nodules, 1." in done.stdout
    assert content_of(folders.cache_dir) == before


@pytest.mark.parametrize("has_all", [True, False])
def test_training_reads_it_and_keeps_what_is_missing_in_memory(folders, tmp_path, has_all):
    before = content_of(fill(folders, list(TINY_SCANS)[: 4 if has_all else 2]))
    own = ("--models-dir", tmp_path / "models", "--runs-dir", tmp_path / "runs")
    with read_only(folders.cache_dir):
        done = run_as_user("-m", "p2ch13.training", *options_of(folders), *own, *TRAINING)
    assert done.returncode == 0, done.stderr
    assert content_of(folders.cache_dir) == before


def test_precache_of_one_that_lacks_scans_is_refused(folders):
    before = content_of(fill(folders, ["1.2.0"]))
    with read_only(folders.cache_dir):
        done = run_as_user("-m", "p2ch13.precache", *options_of(folders))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "3 of 4 scans" in line
    assert "--cache-dir" in line
    assert content_of(folders.cache_dir) == before


def test_precache_of_one_with_a_scan_that_is_gone(folders):
    fill(folders)
    (folders.data_dir / "subset0" / "1.2.1.raw").unlink()
    with read_only(folders.cache_dir):
        done = run_as_user("-m", "p2ch13.precache", *options_of(folders))
    assert done.returncode == 1
    assert "Skipped: " in done.stdout


def test_an_empty_folder_that_may_not_be_written_is_refused(folders):
    folders.cache_dir.mkdir()
    with read_only(folders.cache_dir):
        done = run_as_user("-m", "p2ch13.precache", *options_of(folders))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def test_entries_are_read_and_new_ones_stay_in_memory(tmp_path):
    with get_cache(tmp_path) as cache:
        cache.set("a", [1, "b"])
        volume = cache.volume()
    cache = ReadOnlyCache(tmp_path)
    assert ("a" in cache, "c" in cache, cache.get("a"), cache.get("c")) == (True, False, [1, "b"], None)
    cache.set("c", [2])
    cache.set("a", [3])
    assert ("c" in cache, cache.get("c"), cache.get("a")) == (True, [2], [3])
    assert ReadOnlyCache(tmp_path).get("a") == [1, "b"]
    assert cache.volume() == pytest.approx(volume, rel=0.5)


def test_another_writer_is_read_along(tmp_path):
    with get_cache(tmp_path) as writer:
        cache = ReadOnlyCache(tmp_path)
        writer.set("late", [1])
        assert cache.get("late") == [1]


def test_a_database_of_another_program_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "cache.db") as database:
        database.execute("CREATE TABLE Settings (key, value)")
        database.execute("CREATE TABLE Other (key)")
    database.close()
    with pytest.raises(OSError, match="another program"):
        ReadOnlyCache(tmp_path)


def test_folders_of_unusual_names(tmp_path):
    folder = tmp_path / "a b?c#d%20"
    with get_cache(folder) as cache:
        cache.set("a", [1])
    assert ReadOnlyCache(folder).get("a") == [1]
