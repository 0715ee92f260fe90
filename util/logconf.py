"""The log's format; set by a command line's `main`, never on import."""

from __future__ import annotations

import logging
import sys


def set_up_logging() -> None:
    """Everything from INFO on to stdout, a line each, with the time of day."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout, force=True
    )
