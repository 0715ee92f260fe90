"""A progress bar that is lively on a terminal and quiet in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from p2ch13.util.launch import Launch


def progress_bar(total: int, description: str, unit: str, is_shown: bool = True, delay_s: float = 0.0) -> tqdm[Any]:
    """A bar on stderr with the rate in `unit`s per second and the time left; call `update(count)` on it.

    A terminal sees it move twice a second; a log file gets a line every half minute. Of the processes that torchrun has
    started the first one alone shows it.

    Args: delay_s: work that is done by then shows no bar.
    """
    return make_bar(total, description, unit=f" {unit}", is_shown=is_shown, delay=delay_s)


def byte_progress_bar(total: int | None, description: str, done: int = 0) -> tqdm[Any]:
    """The same for bytes. Those that are `done` already count for what is left, and not for the rate."""
    return make_bar(total, description, unit="B", unit_scale=True, initial=done)


def make_bar(total: int | None, description: str, is_shown: bool = True, **options: Any) -> tqdm[Any]:
    return tqdm(
        total=total,
        desc=description,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
        dynamic_ncols=True,
        disable=not (is_shown and Launch.from_environment().is_first),
        **options,
    )
