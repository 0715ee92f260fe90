"""Run commands as a shell does, in this process or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2ch13.util.errors import run_command

REPOSITORY = Path(__file__).parents[2]


def exit_status(main: Callable[[], int | None]) -> Any:
    """Run a command's `main`; return the exit status that a shell would see."""
    with pytest.raises(SystemExit) as end:
        run_command(main)
    return end.value.code


def run_python(*arguments: object, status: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python in the checkout, unless the options say where, and check its exit status, if one is given."""
    command, pipes = [sys.executable, *map(str, arguments)], {"capture_output": True, "text": True, "cwd": REPOSITORY}
    done: subprocess.CompletedProcess[str] = subprocess.run(command, **{**pipes, **options}, check=False)
    assert status is None or done.returncode == status, done.stderr
    return done
