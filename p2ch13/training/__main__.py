"""`python -m p2ch13.training`"""

from __future__ import annotations

from collections.abc import Sequence

from p2ch13.training.options import parse_config, parse_output
from p2ch13.util.errors import EXIT_DONE, Stopped, run_command
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.process_rank import ProcessRank


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Train by the options of a command line. Raises: SystemExit for --help and bad options; see the app's `main`."""
    parse_config(sys_argv)  # before torch is imported, which takes seconds
    output, process = parse_output(sys_argv), ProcessRank.from_environment()
    from p2ch13.training.app import SegmentationTrainingApp

    set_up_logging(process.is_first, to_stderr=output.json)
    app = SegmentationTrainingApp(sys_argv)
    try:
        outcome = app.main()
    except Stopped as stopped:
        if output.json:
            app.conclude(stopped).finish(as_json=True)
        raise
    return outcome.finish(output.json) if process.is_first else EXIT_DONE


if __name__ == "__main__":
    run_command(main)
