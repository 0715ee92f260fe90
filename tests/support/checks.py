"""What tests check of every command and of every file that code could be in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import ANY

import pytest

from p2ch13.util.errors import InputError


class Intruder:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def assert_one_line(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """A command has ended in one line that names what is wrong, and in no traceback."""
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in error
    for part in parts:
        assert part in lines[0]


@contextmanager
def refused(
    path: Path | None = ANY, option: str | None = ANY, line: int | None = ANY
) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """What runs inside raises an InputError of one line, about this path, line and option where they are given.

    None stands for an error about no path, line or option.
    """
    with pytest.raises(InputError) as caught:
        yield caught
    error = caught.value
    assert len(str(error).splitlines()) == 1
    assert (path, line, option) == (error.path, error.line, error.option)


def messages_of_reader(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the reader of DICOM has logged: tiny scans are also said to be small."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("p2ch13.volumes.dicom")]
