"""Progress bars for terminals and log files."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from p2ch13.util.process_rank import ProcessRank

BAR_DELAY_S = 1.0  # of a bar over values that may be cached, which are read before it would be seen


def progress_bar(total: int, description: str, unit: str, is_shown: bool = True, delay_s: float = 0.0) -> tqdm[Any]:
    """Return a bar on stderr with the rate in `unit`s per second and the remaining time; call `update(count)` on it.

    It refreshes twice a second on a terminal, every 30 s in a log file. Only the first process shows it.

    Args: delay_s: the bar appears after this time.
    """
    return make_bar(total, description, unit=f" {unit}", is_shown=is_shown, delay=delay_s)


def byte_progress_bar(total: int | None, description: str, done: int = 0) -> tqdm[Any]:
    """Return a bar for bytes; those already `done` count as progress and not toward the rate."""
    return make_bar(total, description, unit="B", unit_scale=True, initial=done)


def make_bar(total: int | None, description: str, is_shown: bool = True, **options: Any) -> tqdm[Any]:
    return tqdm(
        total=total,
        desc=description,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
        dynamic_ncols=True,
        disable=not (is_shown and ProcessRank.from_environment().is_first),
        **options,
    )
