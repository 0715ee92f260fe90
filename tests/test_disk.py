import pickle
import sqlite3

import numpy as np
import pytest

from tests.conftest import Intruder
from util.disk import DamagedEntryError, decode, encode, get_cache
from util.errors import InputError


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
    """diskcache's own limit is 1 GB in all."""
    cache = get_cache(tmp_path)
    assert cache.size_limit > 1e15
    assert cache.eviction_policy == "none"


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:3], lambda data: b"", lambda data: data + b"x"]
)
def test_a_value_cut_short_or_extended_is_noticed(damage):
    with pytest.raises(DamagedEntryError):
        decode(damage(encode([np.arange(5), "text"])))


def test_every_flipped_bit_is_noticed():
    data = encode([np.arange(3, dtype=np.int16), "a"])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedEntryError):
            decode(bytes(flipped))


def test_arrays_of_python_objects_are_not_made():
    with pytest.raises(DamagedEntryError):
        decode(encode([{"dtype": "|O", "shape": [1]}, "0" * 64]))


def test_a_planted_pickle_does_not_run(tmp_path):
    """CVE-2025-69872: diskcache itself would unpickle this."""
    cache = get_cache(tmp_path / "cache")
    cache.set("key", [1])
    code = pickle.dumps(Intruder(tmp_path / "intruder_was_here"))
    with sqlite3.connect(tmp_path / "cache" / "cache.db") as database:
        database.execute("UPDATE Cache SET mode = 4, value = ?", (sqlite3.Binary(code),))
    with pytest.raises(DamagedEntryError):
        cache.get("key")
    with sqlite3.connect(tmp_path / "cache" / "cache.db") as database:
        database.execute("UPDATE Cache SET raw = 0, key = ?", (sqlite3.Binary(code),))
    with pytest.raises(DamagedEntryError):
        list(cache)
    assert not (tmp_path / "intruder_was_here").exists()


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file.*: cannot be used as cache .* --cache-dir"):
        get_cache(tmp_path / "file" / "cache")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cache.db").write_text("this is no database, although it has its name" * 99)
    with pytest.raises(InputError, match="cannot be used as cache"):
        get_cache(tmp_path / "cache")
