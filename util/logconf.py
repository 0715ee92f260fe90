"""Log format, set by a command's `main`, never on import."""

from __future__ import annotations

import logging
import sys


def set_up_logging(is_first: bool = True, to_stderr: bool = False) -> None:
    """Log to stdout from INFO on, with the time of day; in processes other than a run's first, from WARNING on.

    Args: to_stderr: for a command whose stdout is for a program.
    """
    level = logging.INFO if is_first else logging.WARNING
    stream = sys.stderr if to_stderr else sys.stdout
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=stream, force=True)
