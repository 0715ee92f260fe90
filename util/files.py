"""Files that are whole or not there."""

from __future__ import annotations

import csv
import io
import os
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
