"""A cache on disk for arrays and plain values that never unpickles.

diskcache unpickles what it finds in its folder (CVE-2025-69872): a cache from an untrusted source could run code. Here
a value is JSON followed by the bytes of its arrays, and a key is a string.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import sqlite3
import struct
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
from diskcache.core import DBNAME, METADATA, MODE_BINARY, MODE_RAW

from p2ch13.util.errors import InputError, one_line

PREFIX = struct.Struct("<II")  # CRC-32 of the rest, length of the JSON text
NO_LIMIT = 2**62  # bytes: nothing is evicted
LOCK_TIMEOUT_S = 60.0
FORMAT = f"diskcache-{diskcache.__version__.partition('.')[0]}"  # names a folder: versions differ in their databases
# Settings stored in a folder are ignored: diskcache would run some of them as SQL.
SETTINGS = {**diskcache.DEFAULT_SETTINGS, "size_limit": NO_LIMIT, "eviction_policy": "none"}
opened: weakref.WeakSet[diskcache.Cache] = weakref.WeakSet()
VALUE_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")  # diskcache's names


class CacheError(InputError):
    """The cache itself, not one of its values, cannot be used."""


class CorruptEntryError(ValueError):
    """A cached value is corrupt, or another program stored it."""


class ArrayDisk(diskcache.Disk):  # type: ignore[misc]
    """Stores lists of numbers, strings and arrays as plain bytes, under strings."""

    def put(self, key: str) -> tuple[str, bool]:
        return key, True

    def get(self, key: str, raw: bool) -> str:
        if not raw:
            raise CorruptEntryError("a key that this cache did not write")
        return key

    def store(self, value: list[Any], read: bool, key: Any = diskcache.UNKNOWN) -> Any:
        return super().store(encode(value), False, key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> list[Any]:
        if mode not in (MODE_RAW, MODE_BINARY) or (mode == MODE_BINARY and not is_value_file(filename)):
            raise CorruptEntryError("a value that this cache did not write")
        try:
            data = super().fetch(mode, filename, value, False)
        except OSError as error:  # diskcache would treat the value as missing
            raise CorruptEntryError(one_line(error)) from None
        return decode(data)

    def remove(self, file_path: str) -> None:
        if is_value_file(file_path):
            super().remove(file_path)


def is_value_file(name: object) -> bool:
    """Return whether a name in the database is that of a value's file, within the cache's folder."""
    return isinstance(name, str) and VALUE_FILE.fullmatch(name.replace("\\", "/")) is not None


def encode(value: list[Any]) -> bytes:
    """Encode as [CRC-32][JSON length][JSON][bytes of the arrays]; the JSON holds each array's type and shape."""
    described = [
        {"dtype": item.dtype.str, "shape": item.shape} if isinstance(item, np.ndarray) else item for item in value
    ]
    text = json.dumps(described).encode()
    body = b"".join([text, *(item.tobytes() for item in value if isinstance(item, np.ndarray))])
    return PREFIX.pack(zlib.crc32(body), len(text)) + body


def decode(data: Any) -> list[Any]:
    """Invert `encode`; arrays are read-only. Raises: CorruptEntryError."""
    try:
        checksum, text_length = PREFIX.unpack_from(data)
        body = memoryview(data)[PREFIX.size :]
        if zlib.crc32(body) != checksum:
            raise CorruptEntryError("wrong checksum")
        offset = text_length
        value = json.loads(bytes(body[:text_length]))
        for ndx, item in enumerate(value):
            if isinstance(item, dict):
                dtype, shape = np.dtype(item["dtype"]), item["shape"]
                count = int(np.prod(shape, dtype=np.int64))
                value[ndx] = np.frombuffer(body, dtype, count, offset).reshape(shape)
                offset += count * dtype.itemsize
    except (struct.error, ValueError, TypeError, KeyError, ArithmeticError, RecursionError, SyntaxError) as error:
        raise CorruptEntryError(str(error)) from None
    return list(value)


def get_cache(folder: Path, option: str | None = None) -> diskcache.Cache:
    """Open the cache in `folder`, creating it if it is missing. Nothing is ever evicted.

    Raises: CacheError if the folder cannot be used; `option` chooses another.
    """
    with cache_errors(folder, option):
        folder.mkdir(parents=True, exist_ok=True)
        check_database(folder)
        cache = diskcache.Cache(str(folder), timeout=LOCK_TIMEOUT_S, disk=ArrayDisk, **SETTINGS)
    close_before_forks()
    opened.add(cache)
    return cache


@functools.cache
def close_before_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=close_connections)


def close_connections() -> None:
    """Close the connections of this thread to its caches, before a fork: SQLite's may not be used in a child.

    https://www.sqlite.org/howtocorrupt.html; diskcache opens new ones as they are needed, but a child would first close
    those that it has from its parent.
    """
    for cache in list(opened):
        cache.close()


def check_database(folder: Path) -> None:
    """Check that a database, if there is one, is ours, intact and writable; wait for a lock up to `LOCK_TIMEOUT_S`.

    diskcache would wait forever, and change the settings of another program's cache.
    Raises: OSError, sqlite3.Error.
    """
    path = folder / DBNAME
    if path.is_dir():
        raise sqlite3.DatabaseError(f"{DBNAME} is a folder")
    has_values = any(folder.glob("[0-9a-f][0-9a-f]/*/*.val"))
    if has_values and not (path.exists() and path.stat().st_size):
        raise sqlite3.DatabaseError(f"{DBNAME} is empty or missing")
    with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        has_settings = ("Settings",) in tables
        settings = database.execute("SELECT key, value FROM Settings").fetchall() if has_settings else []
        database.execute("ROLLBACK")
    check_tables(tables, settings)


def check_tables(tables: Iterable[Sequence[Any]], settings: Iterable[Sequence[Any]]) -> None:
    """Check the names of a database's tables, and its settings; another process may be about to write missing ones.

    Raises: OSError if another program has written them.
    """
    foreign = [key for key, value in settings if key not in METADATA and (key, value) not in SETTINGS.items()]
    if foreign or not {name for (name,) in tables} <= {"Settings", "Cache"}:
        raise OSError("another program's cache")


@contextmanager
def cache_errors(folder: Path, option: str | None = None) -> Iterator[None]:
    """Turn errors of SQLite and diskcache into a CacheError with the folder and the cure."""
    try:
        yield
    except (OSError, sqlite3.Error, diskcache.Timeout) as error:
        message = explain(error) + (f" with {option}" if option else "")
        raise CacheError(message, path=folder, option=option) from None


def explain(error: OSError | sqlite3.Error | diskcache.Timeout) -> str:
    reason = getattr(error, "strerror", None) or one_line(error)
    if isinstance(error, diskcache.Timeout) or "locked" in reason:
        return "another process has locked the cache, or it is read-only; end that process, or choose another folder"
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return f"corrupt cache ({reason}); remove this folder, which will be filled again, or choose another"
    if "full" in reason or getattr(error, "errno", None) == errno.ENOSPC:
        return f"the disk is full ({reason}); make room, or choose another folder"
    return f"not usable as cache ({reason}); choose another folder"
