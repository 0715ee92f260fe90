import errno
import json
import multiprocessing
import os
import pickle
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing, suppress

import diskcache
import numpy as np
import pytest
from diskcache.core import MODE_BINARY, MODE_PICKLE
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2ch13.util.disk import PREFIX, ArrayDisk, CacheError, CorruptEntryError, cache_errors, decode, encode, get_cache
from p2ch13.util.disk_read_only import is_read_only
from tests.support.checks import Intruder, refused
from tests.support.commands import REPOSITORY


def test_values_come_back_as_they_were(tmp_path):
    small, large = np.arange(6, dtype=np.int16).reshape(2, 3), np.random.default_rng(0).random((50, 60, 70)) > 0.5
    get_cache(tmp_path).set("key", [small, large, [1, 2, 3], "text", 0.5, None])
    first, second, *rest = get_cache(tmp_path).get("key")
    assert rest == [[1, 2, 3], "text", 0.5, None]
    np.testing.assert_array_equal(first, small)
    np.testing.assert_array_equal(second, large)
    assert (first.dtype, second.dtype) == (np.int16, bool)


def test_an_array_takes_its_own_bytes(tmp_path):
    array = np.zeros((7, 96, 96), dtype=np.int16)
    assert len(encode([array])) - array.nbytes < 100


def test_nothing_is_evicted(tmp_path):
    """diskcache's default limit is 1 GB."""
    cache = get_cache(tmp_path)
    assert cache.size_limit > 1e15
    assert cache.eviction_policy == "none"


def forge(text, arrays=b""):
    """Encode JSON with a matching checksum, as another program could."""
    body = text.encode() + arrays
    return PREFIX.pack(zlib.crc32(body), len(body) - len(arrays)) + body


WHOLE = encode([np.arange(5), "text"])
DAMAGED = [WHOLE[:-1], WHOLE[:3], b"", WHOLE + b"x"]  # cut short or extended
DAMAGED += [encode([{"dtype": "|O", "shape": [1]}, "0" * 64])]  # an array of Python objects
DAMAGED += [forge(text) for text in ("[" * 100_000, f'[{{"dtype": "<i2", "shape": [{10**30}]}}]')]  # too large


@pytest.mark.parametrize("data", DAMAGED, ids=range(len(DAMAGED)))
def test_a_value_that_is_refused(data):
    with pytest.raises(CorruptEntryError):
        decode(data)


def test_every_flipped_bit_is_noticed():
    data = encode([np.arange(3, dtype=np.int16), "a"])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptEntryError):
            decode(bytes(flipped))


def nest(children):
    described = st.fixed_dictionaries(
        {
            "dtype": st.text(alphabet="<>|=,()biufcOSUVM0123456789", max_size=6),
            "shape": st.lists(st.integers(), max_size=3),
        }
    )
    return described | st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), nest, max_leaves=8))
@example({"dtype": ",", "shape": []})  # a SyntaxError of NumPy
@settings(derandomize=True, max_examples=200, deadline=None)
def test_a_value_of_any_shape_is_decoded_or_refused(value):
    with suppress(CorruptEntryError):
        decode(forge(json.dumps([value]), bytes(16)))


def execute(folder, command, *values):
    """Run SQL on the database of a cache."""
    with closing(sqlite3.connect(folder / "cache.db")) as database, database:
        database.execute(command, values)


def plant(folder, code, as_file):
    """Replace every value of the cache with a pickle, in the database or in a file, as diskcache stores it."""
    if as_file:
        (folder / "ab" / "cd").mkdir(parents=True)
        name = f"ab/cd/{'0' * 28}.val"
        (folder / name).write_bytes(code)
        execute(folder, "UPDATE Cache SET mode = ?, filename = ?, value = NULL", MODE_PICKLE, name)
    else:
        execute(folder, "UPDATE Cache SET mode = ?, value = ?", MODE_PICKLE, sqlite3.Binary(code))


@pytest.mark.parametrize("as_file", [False, True])
def test_a_planted_pickle_does_not_run(tmp_path, as_file):
    """CVE-2025-69872: diskcache itself would unpickle this."""
    get_cache(tmp_path / "cache").set("key", [1])
    intruder = tmp_path / "intruder_was_here"
    plant(tmp_path / "cache", pickle.dumps(Intruder(intruder)), as_file)
    diskcache.Cache(str(tmp_path / "cache")).get("key")
    assert intruder.exists()  # the pickle would run
    intruder.unlink()
    with diskcache.Cache(str(tmp_path / "cache"), disk=ArrayDisk) as cache, pytest.raises(CorruptEntryError):
        cache.get("key")
    assert not intruder.exists()


def test_a_planted_key_does_not_run(tmp_path):
    cache = get_cache(tmp_path / "cache")
    cache.set("key", [1])
    code = pickle.dumps(Intruder(tmp_path / "intruder_was_here"))
    execute(tmp_path / "cache", "UPDATE Cache SET raw = 0, key = ?", sqlite3.Binary(code))
    with pytest.raises(CorruptEntryError):
        list(cache)
    assert not (tmp_path / "intruder_was_here").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "ab/cd/../../../secret", None, 5])
def test_a_value_file_cannot_be_outside_of_the_folder(tmp_path, name):
    (tmp_path / "secret").write_bytes(encode(["not of the cache"]))
    cache = get_cache(tmp_path / "cache")
    cache.set("key", [1])
    execute(tmp_path / "cache", "UPDATE Cache SET mode = ?, filename = ?", MODE_BINARY, name)
    with pytest.raises(CorruptEntryError):
        cache.get("key")
    cache.set("key", [2])  # which removes the old value's file
    assert (tmp_path / "secret").exists()
    assert cache.get("key") == [2]


def test_a_missing_value_file_is_noticed(tmp_path):
    cache = get_cache(tmp_path)
    cache.set("key", [np.zeros(100_000)])
    next(tmp_path.rglob("*.val")).unlink()
    with pytest.raises(CorruptEntryError):
        cache.get("key")


def fill(folder):
    """Fill a cache with values in the database and in files. Returns: its database."""
    cache = get_cache(folder)
    for ndx in range(500):
        cache.set(f"key {ndx}", ["small" * 20])
    cache.set("large", [np.zeros(100_000)])
    cache.close()
    return folder / "cache.db"


def overwrite(path, start, data):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: overwrite(path, 0, b"x" * 100), "file is not a database"),
        (lambda path: path.write_text("this is no database, although it has its name" * 99), "file is not a database"),
        (lambda path: overwrite(path, 4096, b"\xff" * 40_000), "malformed"),
        (lambda path: path.write_bytes(b""), "empty or missing"),
        (lambda path: path.unlink(), "empty or missing"),
        (replace_by_folder, "cache.db is a folder"),
    ],
)
def test_a_corrupt_database(tmp_path, damage, message):
    damage(fill(tmp_path / "cache"))
    with pytest.raises(CacheError) as error, cache_errors(tmp_path / "cache"):
        cache = get_cache(tmp_path / "cache")
        for ndx in range(500):
            cache.get(f"key {ndx}")
    assert error.value.path == tmp_path / "cache"
    assert message in str(error.value)  # SQLite's word, or ours for what it does not notice


def test_an_empty_database_without_values_is_filled(tmp_path):
    """As left by a process that was killed while it created one."""
    (tmp_path / "cache.db").write_bytes(b"")
    fill(tmp_path)
    assert get_cache(tmp_path).get("key 7") == ["small" * 20]


def test_a_locked_database(tmp_path, monkeypatch):
    monkeypatch.setattr("p2ch13.util.disk.LOCK_TIMEOUT_S", 0.1)
    cache = get_cache(tmp_path)
    cache.set("key", [1])
    with closing(sqlite3.connect(tmp_path / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert cache.get("key") == [1]  # reading goes on
        with refused(tmp_path), cache_errors(tmp_path):
            cache.set("key", [2])
        with refused(tmp_path, "--cache-dir") as caught:
            get_cache(tmp_path, "--cache-dir")
        assert str(caught.value).endswith(" --cache-dir")
    assert get_cache(tmp_path).get("key") == [1]


@pytest.mark.parametrize("options", [{}, {"eviction_policy": "none", "disk_min_file_size": 5}])
def test_another_programs_cache_is_not_changed(tmp_path, options):
    with diskcache.Cache(str(tmp_path), **options) as other:
        other.set("key", "value")
    with closing(sqlite3.connect(tmp_path / "cache.db")) as database:
        before = list(database.iterdump())
        with refused(tmp_path):
            get_cache(tmp_path)
        assert list(database.iterdump()) == before


def test_settings_are_not_run(tmp_path):
    """diskcache runs those named sqlite_... as SQL, and sets all as attributes."""
    get_cache(tmp_path).close()
    execute(tmp_path, "INSERT INTO Settings VALUES ('sqlite_journal_mode = delete; PRAGMA x', 1)")
    with refused(tmp_path):
        get_cache(tmp_path)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), sqlite3.OperationalError("database or disk is full")]
)
def test_a_full_disk(tmp_path, error):
    with refused(tmp_path, "--cache-dir") as caught, cache_errors(tmp_path, "--cache-dir"):
        raise error
    assert "make room" in str(caught.value)


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(tmp_path / "file" / "cache"):
        get_cache(tmp_path / "file" / "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write anywhere")
@pytest.mark.parametrize("is_filled", [False, True])
def test_a_folder_that_is_read_only(tmp_path, is_filled):
    folder = tmp_path / "cache"
    folder.mkdir()
    if is_filled:
        fill(folder).chmod(0o444)
    folder.chmod(0o555)
    try:
        with refused(folder):
            get_cache(folder)
    finally:
        folder.chmod(0o755)


OPEN_AND_CLOSE = """
import sys
from pathlib import Path
from p2ch13.util.disk import get_cache

with get_cache(Path(sys.argv[1])) as cache:
    cache.set("theirs", [2])
"""


def test_locks_are_kept_while_another_process_comes_and_goes(tmp_path):
    """Else its last connection, as far as it knows, would remove the log that this one goes on writing to."""
    cache = get_cache(tmp_path)
    cache.set("ours", [1])
    assert not is_read_only(tmp_path)
    subprocess.run([sys.executable, "-c", OPEN_AND_CLOSE, str(tmp_path)], check=True, cwd=REPOSITORY)
    assert cache.get("theirs") == [2]
    cache.set("later", [3])
    with closing(sqlite3.connect(tmp_path / "cache.db")) as database:
        keys = {key for (key,) in database.execute("SELECT key FROM Cache")}
    assert keys == {"ours", "theirs", "later"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_no_connection_is_carried_across_a_fork(tmp_path):
    cache = get_cache(tmp_path)
    cache.set("ours", [1])
    child = multiprocessing.get_context("fork").Process(target=cache.set, args=("theirs", [2]))
    child.start()
    assert not hasattr(cache._local, "con")
    child.join()
    assert child.exitcode == 0
    assert [cache.get(key) for key in ("ours", "theirs")] == [[1], [2]]
