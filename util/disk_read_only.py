"""Read a cache whose folder cannot be written: a read-only mount, a container's image, another user's folder."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from diskcache.core import DBNAME

from p2ch13.util.disk import ArrayDisk, check_tables

REFUSALS = (errno.EROFS, errno.EACCES, errno.EPERM)  # of a folder in which nobody, or not this user, may write
# While another user's process writes, SQLite needs the files beside the database that all share. Without such a process
# there are none, and none can be created.
ACCESS = ("mode=ro", "mode=ro&immutable=1")


class ReadOnlyCache:
    """The entries of a cache on disk, and in memory those that are added.

    diskcache writes to the database when it opens one. Each look-up opens it anew, so that the cache can be sent to
    other processes.

    Raises: OSError, sqlite3.Error.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._disk = ArrayDisk(str(folder))
        self._added: dict[str, list[Any]] = {}
        check_tables(
            self._select("SELECT name FROM sqlite_master WHERE type = 'table'"),
            self._select("SELECT key, value FROM Settings"),
        )

    def __contains__(self, key: str) -> bool:
        return key in self._added or bool(self._select("SELECT 1 FROM Cache WHERE key = ? AND raw = 1", key))

    def get(self, key: str) -> list[Any] | None:
        """Return an entry; None if there is none. Raises: CorruptEntryError."""
        if key in self._added:
            return self._added[key]
        rows = self._select("SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1", key)
        for mode, filename, value in rows:
            return self._disk.fetch(mode, filename, value, False)
        return None

    def set(self, key: str, value: list[Any]) -> None:
        self._added[key] = value

    def volume(self) -> int:
        """Return the size of the cache on disk, in bytes."""
        ((size,),) = self._select("SELECT COALESCE(SUM(size), 0) FROM Cache")
        file_size = (self._folder / DBNAME).stat().st_size
        return int(file_size + size)

    def _select(self, query: str, *values: str) -> list[Sequence[Any]]:
        error: sqlite3.OperationalError | None = None
        for access in ACCESS:
            try:
                uri = f"file:{quote_from_bytes(bytes(self._folder.absolute() / DBNAME))}?{access}"
                with closing(sqlite3.connect(uri, uri=True)) as database:
                    return database.execute(query, values).fetchall()
            except sqlite3.OperationalError as failure:
                error = failure
        raise error or sqlite3.OperationalError(DBNAME)


def is_read_only(folder: Path) -> bool:
    """Whether a folder has a cache and may not be written.

    The database is not opened: closing it would release the locks of all connections of this process to it, and another
    process that then closes its own would remove what they write to.
    """
    database = folder / DBNAME
    if not database.is_file():
        return False
    if not os.access(database, os.W_OK):
        return True
    try:
        with tempfile.TemporaryFile(dir=folder):
            return False
    except OSError as error:
        return error.errno in REFUSALS
