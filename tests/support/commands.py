"""Commands as a shell runs them."""

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
    """Run a command in this process and return the exit status that a shell would see."""
    with pytest.raises(SystemExit) as end:
        run_command(main)
    return end.value.code


def run_python(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, from the repository's root."""
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=REPOSITORY)
