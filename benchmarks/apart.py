"""Call a function in a fresh Python process, whose memory, threads and settings are no other's."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """The function's result. Function, arguments and result must be such as `pickle` can name or copy."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.apart"],
        input=pickle.dumps((function, arguments)),
        capture_output=True,
    )
    if done.returncode:
        raise RuntimeError(f"{function.__name__}{arguments} has failed:\n{done.stderr.decode()}")
    result: Result = pickle.loads(done.stdout)
    return result


def main() -> None:
    logging.disable(logging.INFO)
    function, arguments = pickle.load(sys.stdin.buffer)
    result = function(*arguments)
    sys.stdout.buffer.write(pickle.dumps(result))


if __name__ == "__main__":
    main()
