"""Files that are whole or not there."""

from __future__ import annotations

import csv
import io
import os
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

    The bytes go to a hidden file beside it, which takes the name at the end and is removed if anything fails before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, whole or not at all. A value that is not defined, NaN, becomes an empty field."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if value != value else value for value in row] for row in rows])
    with write_whole(path) as file:
        file.write(text.getvalue().encode())
