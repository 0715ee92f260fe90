"""Log format, set by a command's `main`, never on import."""

from __future__ import annotations

import logging
import sys
import warnings

OWN = ("p2ch13", "benchmarks", "stress", "tests", "__main__")  # packages whose lines a user can act on


def set_up_logging(is_first: bool = True, to_stderr: bool = False) -> None:
    """Log to stdout from INFO on, with the time of day; in processes other than a run's first, from WARNING on.

    Of libraries, only errors are logged: what they say of their own steps and of their next versions is for developers.
    `python -W default` shows their warnings.

    Args: to_stderr: for a command whose stdout is for a program.
    """
    level = logging.INFO if is_first else logging.WARNING
    stream = sys.stderr if to_stderr else sys.stdout
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=stream, force=True)
    for handler in logging.root.handlers:
        handler.addFilter(is_for_users)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def is_for_users(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or record.name.partition(".")[0] in OWN
