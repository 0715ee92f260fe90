"""`python -m p2ch13.evaluate`"""

from __future__ import annotations

from collections.abc import Sequence

from p2ch13.evaluate_options import parse_options
from p2ch13.util.errors import run_command
from p2ch13.util.launch import Launch
from p2ch13.util.logconf import set_up_logging


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Score what a command line names. Returns: the exit status, 1 if a scan was left out because it cannot be read.

    Raises: SystemExit for --help and a mistyped option, InputError for what cannot be used.
    """
    options = parse_options(sys_argv)  # before torch is imported, which takes seconds
    from p2ch13.evaluation.pipeline import evaluate

    set_up_logging(Launch())
    return evaluate(options)


if __name__ == "__main__":
    run_command(main)
