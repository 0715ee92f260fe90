"""Checks of commands' messages and of files that could contain code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2ch13.util.errors import InputError


class Intruder:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def assert_one_line(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """Check that a command printed a single error line, with these parts and without a traceback."""
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in error
    for part in parts:
        assert part in lines[0]


@contextmanager
def refused(
    path: Path | None = None, option: str | None = None, line: int | None = None
) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """Check that the block raises an InputError of one line, with this path, line and option if given."""
    with pytest.raises(InputError) as caught:
        yield caught
    error = caught.value
    assert len(str(error).splitlines()) == 1
    assert (path, line, option) == (path and error.path, line and error.line, option and error.option)
