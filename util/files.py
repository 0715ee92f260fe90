"""Atomic file writes, writable folders, free disk space, memory maps."""

from __future__ import annotations

import codecs
import csv
import glob
import io
import mmap
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from p2ch13.util.errors import InputError
from p2ch13.util.interruption import signals_deferred

FileName: TypeAlias = str | os.PathLike[str]
IS_WINDOWS = os.name == "nt"
LARGE_READ_BYTES = 2**16  # smaller ones need no look at what is left
SURROGATE = re.compile("[\udc80-\udcff]")  # Python's for a byte that is no UTF-8


def make_writable_folder(folder: Path, option: str) -> None:
    """Create a folder if it is missing, and check that files can be written there, before hours of work depend on it.

    Raises: InputError if not; `option` chooses another folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror}); choose another folder with {option}", path=folder, option=option
        ) from None


def check_free_disk(folder: Path, needed: int, purpose: str, option: str) -> None:
    """Raises: InputError, with both numbers, if the disk has fewer bytes free; `option` chooses another folder."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"{purpose} needs {in_gb(needed)}, {in_gb(free)} are free; make room, or choose another disk with {option}",
            path=folder,
            option=option,
        )


def in_gb(byte_count: float) -> str:
    """Format a number of bytes in units of 1e9, as disks and download pages do."""
    return f"{byte_count / 1e9:.1f} GB"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears as `path` once all of it is on disk. Missing folders are created."""
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        yield file


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path to write to, for libraries that open files themselves and recognize a format by its suffix.

    It names a hidden file beside `path`, which is renamed at the end, or removed after an error. A file that a killed
    process left is removed by the next atomic write in its folder.
    Raises: OSError that names `path`, if the disk is full.
    """
    unfinished = make_room_beside(path)
    try:
        yield unfinished
        sync(unfinished)
        unfinished.replace(path)
        sync(path.parent)  # so that the name survives a power failure as well
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.strerror and str(error.filename) in ("None", str(unfinished)):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@contextmanager
def written_together(folder: Path, name: str) -> Iterator[Path]:
    """Yield a hidden folder whose files all move into `folder` at the end.

    After an error, `folder` stays as it was. Ctrl-C and SIGTERM wait while files are renamed; SIGKILL and a power
    failure do not, and can leave a part of the set.

    Args: name: of the set of files, for the hidden folder.
    Raises: InputError and OSError from inside, with the files' final names.
    """
    unfinished = make_room_beside(folder / name)
    shutil.rmtree(unfinished, ignore_errors=True)  # left by an earlier process with this process ID
    unfinished.mkdir()
    try:
        yield unfinished
        files = sorted(unfinished.iterdir())
        for file in files:
            sync(file)  # or a power failure could leave an empty file in an old one's place
        with signals_deferred():
            for file in files:
                file.replace(folder / file.name)
        sync(folder)
    except InputError as error:
        path = None if error.path is None else Path(str(error.path).replace(str(unfinished), str(folder)))
        message = error.message.replace(str(unfinished), str(folder))
        raise InputError(message, path=path, line=error.line, option=error.option) from None
    except OSError as error:
        if error.strerror and str(unfinished) in str(error.filename):
            named = str(error.filename).replace(str(unfinished), str(folder))
            raise OSError(error.errno, error.strerror, named) from None
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def make_room_beside(path: Path) -> Path:
    """Return the hidden path for an unfinished file; create its folder and remove leftovers in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    return path.with_name(f".{platform.node()}.{os.getpid()}.tmp.{path.name}")


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk; on Windows, which cannot open folders, files only."""
    is_folder = path.is_dir()
    if is_folder and IS_WINDOWS:
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)  # Windows syncs writable files only
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove unfinished files of this machine's processes that have ended."""
    for path in folder.glob(f".{glob.escape(platform.node())}.*.tmp.*"):
        process_id = path.name.removeprefix(f".{platform.node()}.").partition(".")[0]
        if process_id.isdecimal() and not is_running(int(process_id)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def is_running(process_id: int) -> bool:
    """Return whether a process exists; always true on Windows, where signal 0 is Ctrl-C."""
    if IS_WINDOWS:
        return True
    try:
        os.kill(process_id, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # PermissionError: another user's
    return True


class BoundedReader(io.BufferedReader):
    """A file that is open for reading, for libraries that believe the lengths in it.

    Python reserves memory for all the bytes that a call asks for, 4 GB for four bytes of a DICOM file; here, no more
    than are left in the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGE_READ_BYTES:
            size = min(size, max(0, self._size - self.tell()))
        return super().read(size)


def as_text(name: Path | str) -> str:
    """Return a path or name as text that can be written as UTF-8.

    Python keeps bytes of file names that are no UTF-8 as surrogates, which no file or terminal takes. They become the
    letters that Latin-1, the likeliest other encoding, has for them.
    """
    return SURROGATE.sub(lambda match: chr(ord(match[0]) - 0xDC00), str(name))


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """Yield a path to a file, whose folder exists, for libraries that take text in UTF-8 alone, such as SimpleITK.

    It is the path itself, or a link to it in a temporary folder, if its bytes are no UTF-8: SimpleITK would end the
    process.
    """
    with tempfile.TemporaryDirectory() as folder:
        name = os.fsencode(path)
        if is_utf8(name):
            yield name.decode()
        else:
            link = Path(folder) / as_text(f"file{''.join(path.suffixes[-2:])}")
            link.symlink_to(path.absolute())
            yield str(link)


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically. NaN becomes an empty field."""
    with atomic_write(path) as file:
        writer = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(["" if value != value else as_field(value) for value in row] for row in rows)


def as_field(value: object) -> object:
    return as_text(value) if isinstance(value, str | Path) else value


def advise(file_map: mmap.mmap, advice: str) -> None:
    """Tell the system how a memory map is used, by a constant of `mmap` such as "MADV_RANDOM"; not on Windows."""
    if hasattr(mmap, advice):  # `madvise` exists wherever its constants do
        file_map.madvise(getattr(mmap, advice))
