"""Which lines of the readers were run, in all of the processes that read, by coverage.py.

Lines that run when a module is imported do not count: processes begin with all readers imported.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coverage import Coverage

from stress.commands import REPOSITORY

FOLDER = "STRESS_COVERAGE"  # variable that names the folder of the processes' counts
READERS = ("p2ch13/volumes/*", "p2ch13/labels/*", "p2ch13/network/checkpoint.py", "p2ch13/network/unreadable.py")


class Reached:
    """Attributes: `percent`, of the readers' lines that were run; None if they were not counted."""

    percent: float | None = None

    def describe(self) -> str:
        return "" if self.percent is None else f"; {self.percent:.0f}% of the readers' lines"


def make_counter(folder: str) -> Coverage:
    """Make a counter of this process. Args: folder: of the counts of all processes."""
    paths = [str(REPOSITORY / path) for path in READERS]
    return Coverage(data_file=str(Path(folder) / "lines"), data_suffix=True, include=paths, config_file=False)


@contextmanager
def reached_lines(is_wanted: bool) -> Iterator[Reached]:
    """Yield what processes that are started inside the block have reached, known at its end."""
    reached = Reached()
    if not is_wanted:
        yield reached
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        try:
            yield reached
        finally:
            del os.environ[FOLDER]
        counter = make_counter(folder)
        counter.combine()
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            reached.percent = counter.report(file=nowhere)


@contextmanager
def counting_lines() -> Iterator[None]:
    """Count the lines that this process runs inside the block, if that is wanted; not if it is killed."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        yield
        return
    counter = make_counter(folder)
    counter.start()
    try:
        yield
    finally:
        counter.stop()
        counter.save()
