"""The table of every stress run: load held, faults injected, survived, lost."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

COLUMNS = ("what", "load held", "faults injected", "survived", "lost", "s")


class LostError(Exception):
    """Something that should survive a fault was lost."""


@dataclass(frozen=True)
class Row:
    """The outcome of one kind of load.

    Attributes: `faults`, their number and kind; `survived` and `lost`, the number of faults without and with a loss;
        `note`, further remarks.
    """

    what: str
    load: str
    faults: str
    survived: int
    seconds: float
    lost: int = 0
    note: str = ""


def collect_rows(what: str, part: Callable[[], list[Row]]) -> list[Row]:
    """Run a part and return its rows; after a loss, a single row, with the details on stderr."""
    start = time.monotonic()
    try:
        return part()
    except LostError as error:
        print(f"LOST, {what}: {error}", file=sys.stderr)
        return [Row(what, "ended early", "", 0, time.monotonic() - start, lost=1, note="see the line above")]


def format_table(rows: Sequence[Row]) -> str:
    """Format the rows as a Markdown table."""
    lines = [COLUMNS, ("---", "---", "---", "---:", "---", "---:")]
    lines += [
        (
            *(row.what, row.load, row.faults, f"{row.survived:,}"),
            f"{row.lost:,}; {row.note}" if row.note else f"{row.lost:,}",
            f"{row.seconds:.0f}",
        )
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(rows: Sequence[Row]) -> int:
    """Print the table. Returns: the exit status, 1 if anything was lost."""
    print(format_table(rows))
    return 1 if any(row.lost for row in rows) else 0
