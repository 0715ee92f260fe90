"""A cache on disk that holds arrays and plain values, and no pickle.

diskcache unpickles whatever lies in its folder (CVE-2025-69872), so that a cache folder from elsewhere could run code.
Here a value is a JSON text with the bytes of its arrays behind it, and a key is a string.
"""

from __future__ import annotations

import errno
import json
import re
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
from diskcache.core import DBNAME, METADATA, MODE_BINARY, MODE_RAW

from p2ch13.util.errors import InputError, one_line

PREFIX = struct.Struct("<II")  # CRC-32 of the rest, length of the JSON text
NO_LIMIT = 2**62  # bytes: what is cached stays cached
LOCK_TIMEOUT_S = 60.0
FORMAT = f"diskcache-{diskcache.__version__.partition('.')[0]}"  # for the names of folders: not all versions' are alike
# No settings are taken over from a folder: of diskcache's own, some would be run as SQL.
SETTINGS = {**diskcache.DEFAULT_SETTINGS, "size_limit": NO_LIMIT, "eviction_policy": "none"}
VALUE_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")  # as diskcache names them


class CacheError(InputError):
    """Not a value or a scan but the cache itself cannot be used."""


class DamagedEntryError(ValueError):
    """A cached value is not what was stored: cut short, altered, or put there by another program."""


class ArrayDisk(diskcache.Disk):  # type: ignore[misc]
    """Stores lists of numbers, strings, and arrays as plain bytes. Keys are strings."""

    def put(self, key: str) -> tuple[str, bool]:
        return key, True

    def get(self, key: str, raw: bool) -> str:
        if not raw:
            raise DamagedEntryError("a key that this cache has not written")
        return key

    def store(self, value: list[Any], read: bool, key: Any = diskcache.UNKNOWN) -> Any:
        return super().store(encode(value), False, key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> list[Any]:
        if mode not in (MODE_RAW, MODE_BINARY) or (mode == MODE_BINARY and not is_value_file(filename)):
            raise DamagedEntryError("a value that this cache has not written")
        try:
            data = super().fetch(mode, filename, value, False)
        except OSError as error:  # of which diskcache would say nothing
            raise DamagedEntryError(one_line(error)) from None
        return decode(data)

    def remove(self, file_path: str) -> None:
        if is_value_file(file_path):
            super().remove(file_path)


def is_value_file(name: object) -> bool:
    """Whether this can be a value's file: a name in the database must not lead out of the cache's folder."""
    return isinstance(name, str) and VALUE_FILE.fullmatch(name.replace("\\", "/")) is not None


def encode(value: list[Any]) -> bytes:
    """[CRC-32][JSON length][JSON][bytes of the arrays]; an array's place in the JSON holds its type and shape."""
    arrays = [np.ascontiguousarray(item) for item in value if isinstance(item, np.ndarray)]
    text = json.dumps(
        [
            {"dtype": item.dtype.str, "shape": list(item.shape)} if isinstance(item, np.ndarray) else item
            for item in value
        ]
    ).encode()
    body = b"".join([text, *(array.tobytes() for array in arrays)])
    return PREFIX.pack(zlib.crc32(body), len(text)) + body


def decode(data: Any) -> list[Any]:
    """The value that `encode` was given; its arrays are read-only. Raises: DamagedEntryError."""
    try:
        checksum, text_length = PREFIX.unpack_from(data)
        body = memoryview(data)[PREFIX.size :]
        if zlib.crc32(body) != checksum:
            raise DamagedEntryError("its checksum does not match")
        offset = text_length
        value = json.loads(bytes(body[:text_length]))
        for ndx, item in enumerate(value):
            if isinstance(item, dict):
                dtype, shape = np.dtype(item["dtype"]), item["shape"]
                count = int(np.prod(shape, dtype=np.int64))
                value[ndx] = np.frombuffer(body, dtype, count, offset).reshape(shape)
                offset += count * dtype.itemsize
    except (struct.error, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise DamagedEntryError(str(error)) from None
    return list(value)


def get_cache(folder: Path) -> diskcache.Cache:
    """Open the cache in `folder`, making it if need be. Nothing is ever evicted.

    Raises: CacheError if the folder cannot be used.
    """
    with cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        check_database(folder)
        return diskcache.Cache(str(folder), timeout=LOCK_TIMEOUT_S, disk=ArrayDisk, **SETTINGS)


def check_database(folder: Path) -> None:
    """See that a database, if there is one, is one of ours, whole, and can be written within the time for a lock.

    diskcache itself would wait without end, and change the settings of a cache that is another program's.
    Raises: CacheError, sqlite3.Error.
    """
    path = folder / DBNAME
    if path.is_dir():
        raise sqlite3.DatabaseError(f"{DBNAME} is a folder")
    has_values = any(folder.glob("[0-9a-f][0-9a-f]/*/*.val"))
    if has_values and not (path.exists() and path.stat().st_size):
        raise sqlite3.DatabaseError(f"{DBNAME} is empty or missing")
    with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        rows = database.execute("SELECT key, value FROM Settings").fetchall() if "Settings" in tables else []
        database.execute("ROLLBACK")
    # Those that are missing are about to be written by another process.
    foreign = [key for key, value in rows if key not in METADATA and (key, value) not in SETTINGS.items()]
    if foreign or not tables <= {"Settings", "Cache"}:
        raise CacheError(f"{folder}: a cache that another program has made; choose another folder with --cache-dir")


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turn what SQLite and diskcache raise into a CacheError that names the folder and the cure."""
    try:
        yield
    except diskcache.Timeout:
        raise CacheError(f"{folder}: {LOCKED}") from None
    except (OSError, sqlite3.Error) as error:
        raise CacheError(f"{folder}: {explain(error)}") from None


LOCKED = (
    "the cache is locked by another process, or cannot be written; end that one, or choose another with --cache-dir"
)


def explain(error: OSError | sqlite3.Error) -> str:
    """What is wrong with a cache, and the cure."""
    reason = getattr(error, "strerror", None) or one_line(error)
    if "locked" in reason:
        return LOCKED
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return f"a damaged cache ({reason}); remove this folder, and precache.py makes it anew"
    if "full" in reason or getattr(error, "errno", None) == errno.ENOSPC:
        return f"the disk is full ({reason}); make room, or choose another with --cache-dir"
    return f"cannot be used as cache ({reason}); choose another with --cache-dir"
