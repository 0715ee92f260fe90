"""Log format, set by a command's `main`, never on import."""

from __future__ import annotations

import logging
import sys


def set_up_logging(is_first: bool = True) -> None:
    """Log to stdout from INFO on, with the time of day; in processes other than a run's first, from WARNING on."""
    level = logging.INFO if is_first else logging.WARNING
    logging.basicConfig(
        level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout, force=True
    )
