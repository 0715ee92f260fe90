"""The log's format; set by a command line's `main`, never on import."""

from __future__ import annotations

import logging
import sys

from p2ch13.util.launch import Launch


def set_up_logging(launch: Launch) -> None:
    """Everything from INFO on to stdout, a line each, with the time of day.

    Of several processes all but the first one say no more than warnings.
    """
    level = logging.INFO if launch.is_first else logging.WARNING
    logging.basicConfig(
        level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout, force=True
    )
