"""Train a second stage for a network of training, and write both into one .state file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from p2ch13.commands import spell
from p2ch13.config import SecondStageOptions, parse
from p2ch13.network.latest import find_checkpoint
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Train as a command line says.

    Raises: SystemExit for --help and a mistyped option, else see `add_second_stage`.
    """
    options = parse(SecondStageOptions, spell("second-stage"), __doc__, sys_argv)
    options = replace(options, checkpoint=find_checkpoint(options.checkpoint))
    from p2ch13.training.two_stages import add_second_stage  # imports torch, which takes seconds

    set_up_logging(to_stderr=options.json)
    return add_second_stage(options).finish(options.json)


if __name__ == "__main__":
    run_command(main)
