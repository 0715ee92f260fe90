"""A cache on disk that holds arrays and plain values, and no pickle.

diskcache unpickles whatever lies in its folder (CVE-2025-69872), so that a cache folder from elsewhere could run code.
Here a value is a JSON text with the bytes of its arrays behind it, and a key is a string.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
from diskcache.core import MODE_BINARY, MODE_RAW

from util.errors import InputError

PREFIX = struct.Struct("<II")  # CRC-32 of the rest, length of the JSON text
NO_LIMIT = 2**62  # bytes: what is cached stays cached
LOCK_TIMEOUT_S = 60.0


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
        if mode not in (MODE_RAW, MODE_BINARY):
            raise DamagedEntryError("a value that this cache has not written")
        return decode(super().fetch(mode, filename, value, False))


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
    except (struct.error, ValueError, TypeError, KeyError) as error:
        raise DamagedEntryError(str(error)) from None
    return list(value)


def get_cache(folder: Path) -> diskcache.Cache:
    """Open the cache in `folder`, making it if need be. Nothing is ever evicted.

    Raises: InputError if the folder cannot be used.
    """
    try:
        return diskcache.Cache(
            str(folder),
            timeout=LOCK_TIMEOUT_S,
            disk=ArrayDisk,
            size_limit=NO_LIMIT,
            eviction_policy="none",
        )
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"{folder}: cannot be used as cache ({error}); choose another with --cache-dir") from None
