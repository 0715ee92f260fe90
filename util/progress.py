"""Progress bars for terminals and log files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from p2ch13.util.process_rank import ProcessRank

Item = TypeVar("Item")

BAR_DELAY_S = 1.0  # of a bar over values that may be cached, which are read before it would be seen


def progress_bar(
    total: int, description: str, unit: str, is_shown: bool = True, delay_s: float = 0.0, done: int = 0
) -> tqdm[Any]:
    """Return a bar on stderr with the rate in `unit`s per second and the remaining time; call `update(count)` on it.

    A terminal shows it in one line, refreshed twice a second; a log file gets a line a minute. Only the first process
    shows it.

    Args: delay_s: the bar appears after this time; done: of an earlier run, which do not count toward the rate.
    """
    return make_bar(total, description, unit=f" {unit}", is_shown=is_shown, delay=delay_s, initial=done)


def show_progress(items: Sequence[Item], description: str, unit: str) -> Iterator[Item]:
    """Yield items below a bar, which appears if they take longer than `BAR_DELAY_S`."""
    with progress_bar(len(items), description, unit, delay_s=BAR_DELAY_S) as bar:
        for item in items:
            yield item
            bar.update()


def byte_progress_bar(total: int | None, description: str, done: int = 0) -> tqdm[Any]:
    """Return a bar for bytes; those already `done` count as progress and not toward the rate."""
    return make_bar(total, description, unit="B", unit_scale=True, initial=done)


class LogLines:
    """A stream that gets a bar as lines, where a terminal's is drawn over the earlier one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if line := text.strip():
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        self._stream.flush()


def make_bar(total: int | None, description: str, is_shown: bool = True, **options: Any) -> tqdm[Any]:
    is_terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=description,
        file=None if is_terminal else LogLines(sys.stderr),
        mininterval=0.5 if is_terminal else 60.0,
        dynamic_ncols=True,
        disable=not (is_shown and ProcessRank.from_environment().is_first),
        **options,
    )
