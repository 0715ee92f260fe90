"""Write a page to look at a scan and its findings in a browser, without a network: all slices, windows, mask."""

from __future__ import annotations

from collections.abc import Sequence

from p2ch13.commands import spell
from p2ch13.config import ViewOptions, parse
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Write the pages that a command line asks for.

    Raises: SystemExit for --help and a mistyped option, else see `view`.
    """
    options = parse(ViewOptions, spell("view"), __doc__, sys_argv)
    from p2ch13.detection.viewing import view  # imports torch, which takes seconds

    set_up_logging(to_stderr=options.json)
    return view(options).finish(options.json)


if __name__ == "__main__":
    run_command(main)
