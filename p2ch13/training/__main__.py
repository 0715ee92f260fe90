"""`python -m p2ch13.training`"""

from __future__ import annotations

from collections.abc import Sequence

from p2ch13.training.options import parse_config
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.process_rank import ProcessRank


def main(sys_argv: Sequence[str] | None = None) -> None:
    """Train by the options of a command line. Raises: SystemExit for --help and bad options; see the app's `main`."""
    parse_config(sys_argv)  # before torch is imported, which takes seconds
    from p2ch13.training.app import SegmentationTrainingApp

    set_up_logging(ProcessRank.from_environment().is_first)
    SegmentationTrainingApp(sys_argv).main()


if __name__ == "__main__":
    run_command(main)
