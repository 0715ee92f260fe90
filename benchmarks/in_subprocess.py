"""Call a function in a fresh Python process, with memory, threads and settings of its own."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, TypeVar

Result = TypeVar("Result")


def in_subprocess(function: Callable[..., Result], *arguments: Any) -> Result:
    """Return the function's result. `pickle` has to be able to store function, arguments and result."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.in_subprocess"],
        input=pickle.dumps((function, arguments)),
        capture_output=True,
    )
    if done.returncode:
        raise RuntimeError(f"{function.__name__}{arguments} failed:\n{done.stderr.decode()}")
    result: Result = pickle.loads(done.stdout)
    return result


def main() -> None:
    logging.disable(logging.INFO)
    function, arguments = pickle.load(sys.stdin.buffer)
    with redirect_stdout(sys.stderr):  # the result alone goes to stdout
        result = function(*arguments)
    sys.stdout.buffer.write(pickle.dumps(result))


if __name__ == "__main__":
    main()
