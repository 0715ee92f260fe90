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

from util.errors import InputError


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
def write_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written, which appears as `path` only when all of it is on disk. Missing folders are made."""
    with unfinished_file(path) as unfinished, unfinished.open("wb") as file:
        yield file


@contextmanager
def unfinished_file(path: Path) -> Iterator[Path]:
    """The same by name, for libraries that open files themselves and go by their suffix.

    The bytes go to a hidden file beside it, which takes the name at the end and is removed if anything fails before;
    what a killed process has left of that kind goes with the next file that is written there.
    Raises: OSError that names the file, if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    unfinished = path.with_name(f".{platform.node()}.{os.getpid()}.tmp.{path.name}")
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


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of processes that are no more; those of other machines are not ours to judge."""
    for path in folder.glob(f".{glob.escape(platform.node())}.*.tmp.*"):
        process_id = path.name.removeprefix(f".{platform.node()}.").partition(".")[0]
        if process_id.isdecimal() and not is_running(int(process_id)):
            path.unlink(missing_ok=True)


def is_running(process_id: int) -> bool:
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
    with write_whole(path) as file:
        file.write(text.getvalue().encode())
