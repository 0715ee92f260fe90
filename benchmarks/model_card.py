"""Fill the tables of the model card with the scores of docs/quality.json.

    python -m benchmarks.model_card

A table stands between `<!-- quality: NAME -->` and `<!-- end -->`; its rows are the list NAME of the key "tables".
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from p2ch13.evaluation.report import format_table
from p2ch13.util.errors import InputError, errors_naming, run_command
from p2ch13.util.files import atomic_write
from p2ch13.weights import MODEL_CARD

QUALITY_FILE = Path("docs/quality.json")
TABLE = re.compile(r"(?P<begin><!-- quality: (?P<name>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)

Rows = Sequence[Mapping[str, Any]]


def main(sys_argv: Sequence[str] | None = None) -> None:
    """Raises: InputError if the scores cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model_card",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quality", type=Path, default=QUALITY_FILE, help="file of scores (default: %(default)s)")
    parser.add_argument("--card", type=Path, default=MODEL_CARD, help="file to fill (default: the package's card)")
    args = parser.parse_args(sys_argv)
    text = fill_tables(args.card.read_text(encoding="utf-8"), read_tables(args.quality))
    with atomic_write(args.card) as file:
        file.write(text.encode())


def read_tables(path: Path) -> dict[str, Rows]:
    """Read the tables of a file of scores. Raises: InputError if it is none."""
    with errors_naming(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        tables: dict[str, Rows] = json.loads(text)["tables"]
    except (ValueError, KeyError, TypeError):
        message = "no file of scores; python -m benchmarks.quality writes one"
        raise InputError(message, path=path, option="--quality") from None
    return tables


def fill_tables(card: str, tables: Mapping[str, Rows]) -> str:
    """Write each table at its mark in a text; a mark without a table keeps what it has."""

    def fill(mark: re.Match[str]) -> str:
        rows = tables.get(mark["name"])
        return f"{mark['begin']}\n{format_rows(rows)}\n\n{mark['end']}" if rows else mark[0]

    return TABLE.sub(fill, card)


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


if __name__ == "__main__":
    run_command(main)
