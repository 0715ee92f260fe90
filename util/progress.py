"""A progress bar that is lively on a terminal and quiet in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from util.launch import Launch


def progress_bar(total: int, description: str, unit: str, is_shown: bool = True) -> tqdm[Any]:
    """A bar on stderr with the rate in `unit`s per second and the time left; call `update(count)` on it.

    A terminal sees it move twice a second; a log file gets a line every half minute. Of the processes that torchrun has
    started the first one alone shows it.
    """
    return tqdm(
        total=total,
        desc=description,
        unit=f" {unit}",
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
        dynamic_ncols=True,
        disable=not (is_shown and Launch.from_environment().is_first),
    )
