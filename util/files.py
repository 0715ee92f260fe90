"""Files that are whole or not there."""

from __future__ import annotations

import csv
import glob
import io
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from p2ch13.util.errors import InputError
from p2ch13.util.interruption import signals_deferred

IS_WINDOWS = os.name == "nt"


def make_writable_folder(folder: Path, option: str) -> None:
    """Make a folder if need be, and see that files can be written there, before hours of work depend on it.

    Raises: InputError if not, naming the folder and the option that chooses another.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another with {option}") from None


def check_free_disk(folder: Path, needed: int, purpose: str, option: str) -> None:
    """Raises: InputError, with both numbers, if the folder's disk has fewer bytes free; `option` chooses another."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"{folder}: {purpose} needs {in_gb(needed)}, and {in_gb(free)} are free; make room, or choose another disk "
            f"with {option}"
        )


def in_gb(byte_count: float) -> str:
    """GB as disks and download pages count them."""
    return f"{byte_count / 1e9:.1f} GB"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written, which appears as `path` only when all of it is on disk. Missing folders are made."""
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        yield file


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """The same by name, for libraries that open files themselves and go by their suffix.

    The bytes go to a hidden file beside it, which takes the name at the end and is removed if anything fails before;
    what a killed process has left of that kind goes with the next file that is written there.
    Raises: OSError that names the file, if the disk is full.
    """
    unfinished = make_room_beside(path)
    try:
        yield unfinished
        sync(unfinished)
        unfinished.replace(path)
        sync(path.parent)  # the name, too, is there after a power failure
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.strerror and str(error.filename) in ("None", str(unfinished)):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@contextmanager
def written_together(folder: Path, name: str) -> Iterator[Path]:
    """Yield a hidden folder whose files move into `folder` when all of them are there, and none of them before.

    If anything fails, `folder` stays as it was. Ctrl-C and SIGTERM wait while the files are renamed; SIGKILL and a
    power failure do not, and could leave a part of the set.

    Args: name: of the set of files, for the hidden folder.
    Raises: InputError and OSError from inside, which name the files as they were to be called.
    """
    unfinished = make_room_beside(folder / name)
    shutil.rmtree(unfinished, ignore_errors=True)  # of an earlier process with this one's number
    unfinished.mkdir()
    try:
        try:
            yield unfinished
        except InputError as error:
            raise InputError(str(error).replace(str(unfinished), str(folder))) from None
        except OSError as error:
            if error.strerror and str(unfinished) in str(error.filename):
                named = str(error.filename).replace(str(unfinished), str(folder))
                raise OSError(error.errno, error.strerror, named) from None
            raise
        with signals_deferred():
            for path in sorted(unfinished.iterdir()):
                path.replace(folder / path.name)
        sync(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def make_room_beside(path: Path) -> Path:
    """The hidden path beside another one at which it is written; its folder is made, and leftovers in it removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    return path.with_name(f".{platform.node()}.{os.getpid()}.tmp.{path.name}")


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk; Windows, which opens no folders, syncs files only."""
    is_folder = path.is_dir()
    if is_folder and IS_WINDOWS:
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)  # Windows syncs only what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of processes that are no more; those of other machines are not ours to judge."""
    for path in folder.glob(f".{glob.escape(platform.node())}.*.tmp.*"):
        process_id = path.name.removeprefix(f".{platform.node()}.").partition(".")[0]
        if process_id.isdecimal() and not is_running(int(process_id)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def is_running(process_id: int) -> bool:
    """Whether there is such a process; always true on Windows, where signal 0 would be Ctrl-C to it."""
    if IS_WINDOWS:
        return True
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, whole or not at all. A value that is not defined, NaN, becomes an empty field."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if value != value else value for value in row] for row in rows])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
