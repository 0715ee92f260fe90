"""Paint nodules into CT scans of any lungs: a data folder with exact masks, to look at, to train on and to score."""

from __future__ import annotations

from collections.abc import Sequence

from p2ch13.commands import spell
from p2ch13.config import PaintOptions, parse
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Paint as a command line says, see `paint`."""
    options = parse(PaintOptions, spell("paint"), __doc__, sys_argv)
    from p2ch13.training.painted_scans import paint  # imports SimpleITK and PyTorch

    set_up_logging(to_stderr=options.json)
    return paint(options).finish(options.json)


if __name__ == "__main__":
    run_command(main)
