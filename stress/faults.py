"""Compile and use `faults.c`, a library that lets one write of a process fail, and logs what all of them do.

It stands between programs and the C library (LD_PRELOAD): what Python, SQLite and SimpleITK write goes through it.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_suffix(".c")
COMPILER = ("cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
CONTROL = struct.Struct("<qqq")  # writes until now, the one that fails, its error
LOG_HEAD = struct.Struct("<cqqqq")
ERRORS = (errno.EIO, errno.ENOSPC)


def is_possible() -> bool:
    """Whether this machine has a compiler, and a system that takes such a library."""
    return shutil.which(COMPILER[0]) is not None and Path("/proc/self/fd").is_dir()


def compile_library(folder: Path, watched: Path) -> dict[str, str]:
    """Compile the library. Returns: the environment of programs whose writes to a watched folder it meets."""
    library, control, log = folder / "faults.so", folder / "control", folder / "log"
    subprocess.run([*COMPILER, "-o", library, SOURCE, "-ldl"], check=True)
    control.write_bytes(bytes(CONTROL.size))
    log.write_bytes(b"")
    files = {"FAULTS_FOLDER": watched, "FAULTS_CONTROL": control, "FAULTS_LOG": log}
    return {"LD_PRELOAD": str(library), **{name: str(path) for name, path in files.items()}}


class Faults:
    """The library as programs in its environment see it, and this process is one of them."""

    def __init__(self) -> None:
        with Path(os.environ["FAULTS_CONTROL"]).open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), CONTROL.size)
        self._log = Path(os.environ["FAULTS_LOG"])

    @property
    def count(self) -> int:
        """The number of writes since the start."""
        count: int = CONTROL.unpack(self._control)[0]
        return count

    def start(self, fail_at: int = 0, error: int = errno.EIO) -> None:
        """Count and log anew. Args: fail_at: the write that fails, from 1 on; 0: none."""
        self._control[:] = CONTROL.pack(0, fail_at, error)
        os.truncate(self._log, 0)

    def read_log(self) -> list[Operation]:
        return list(parse_log(self._log.read_bytes()))


class Operation(NamedTuple):
    """An entry of the log.

    Attributes:
        what: c: a file was created or, with an offset of 0, emptied; w: bytes were written; t: a file was cut, or made
            longer, to the offset; s: a file or folder was synced; r: something was renamed; u: a name was removed.
        inode: of the file; offset: of the bytes; name: of the file, or the earlier one; data: bytes, or the new name.
    """

    what: str
    inode: int
    offset: int
    name: str
    data: bytes


def parse_log(log: bytes) -> Iterator[Operation]:
    at = 0
    while at < len(log):
        what, inode, offset, name_length, size = LOG_HEAD.unpack_from(log, at)
        at += LOG_HEAD.size
        name, data = log[at : at + name_length], log[at + name_length : at + name_length + size]
        at += name_length + size
        yield Operation(what.decode(), inode, offset, os.fsdecode(name), data)
