"""Interrupt a program where a test wants it, not where it happens to be: on a busy machine it may be over by then."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


def hold(where: str, reached: str, count: int = 1) -> None:
    """Have this process wait in the `count`-th call of a function, which does not begin, until a file is removed.

    Args:
        where: "module:function" or "module:Class.method".
        reached: the file; it is made when the call is there.
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
    """Start Python code in a process of its own. Returns when it is held, with its output in pipes."""
    code = f"from tests.support.hold import hold; hold({where!r}, {str(reached)!r}, {count})\n{program}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    process: subprocess.Popen[str] = subprocess.Popen(command, **{**pipes, **options})
    wait_for(reached, process)
    return process


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until there is such a file, which the process makes."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
