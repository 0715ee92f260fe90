"""Hold a process at a given call, so that a test interrupts it there even on a busy machine."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.commands import REPOSITORY


def hold(where: str, reached: str, count: int = 1) -> None:
    """Make this process wait at the start of the `count`-th call of a function until a file is removed.

    Args:
        where: "module:function" or "module:Class.method".
        reached: the file; it is created when the call is reached.
    """
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    function, calls = getattr(owner, name), 0

    def wait_at_last_call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            Path(reached).touch()
            while Path(reached).exists():
                time.sleep(0.01)
        return function(*args, **kwargs)

    setattr(owner, name, wait_at_last_call)


def start_held(
    program: str, where: str, reached: Path, count: int = 1, arguments: Sequence[object] = (), **options: Any
) -> subprocess.Popen[str]:
    """Start Python code in a process and return when it is held; its output goes to pipes."""
    code = f"from tests.support.hold import hold; hold({where!r}, {str(reached)!r}, {count})\n{program}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    process: subprocess.Popen[str] = subprocess.Popen(command, **{**pipes, **options})
    wait_for(reached, process)
    return process


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the process has created a file."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
