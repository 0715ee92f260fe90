"""Tables in Markdown that stand between marks in a page, and are written there from a file of results.

A table stands between `<!-- FILE: NAME -->` and `<!-- end -->`; FILE is for the reader of the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from p2ch13.evaluation.report import format_table
from p2ch13.util.files import atomic_write

TABLE = re.compile(r"(?P<begin><!-- \w+: (?P<name>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)

Rows = Sequence[Mapping[str, Any]]


def fill_page(page: Path, tables: Mapping[str, Rows]) -> None:
    """Write each table at its mark in a page."""
    text = fill_tables(page.read_text(encoding="utf-8"), tables)
    with atomic_write(page) as file:
        file.write(text.encode())


def fill_tables(text: str, tables: Mapping[str, Rows]) -> str:
    """Write each table at its mark in a text; a mark without a table keeps what it has."""

    def fill(mark: re.Match[str]) -> str:
        rows = tables.get(mark["name"])
        return f"{mark['begin']}\n{format_rows(rows)}\n\n{mark['end']}" if rows else mark[0]

    return TABLE.sub(fill, text)


def format_rows(rows: Rows) -> str:
    """Format rows of the same keys, which become the header, as a table in Markdown."""
    return format_table([list(rows[0]), *([format_value(row[name]) for name in rows[0]] for row in rows)])


def format_value(value: Any) -> str:
    """Format a score with two decimals, an interval as `low to high`, what is unknown as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " to ".join(map(format_value, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)
