"""Log format, set by a command's `main`, never on import."""

from __future__ import annotations

import logging
import sys

from p2ch13.util.launch import Launch


def set_up_logging(launch: Launch) -> None:
    """Log to stdout from INFO on, with the time of day; in processes other than the first, from WARNING on."""
    level = logging.INFO if launch.is_first else logging.WARNING
    logging.basicConfig(
        level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout, force=True
    )
