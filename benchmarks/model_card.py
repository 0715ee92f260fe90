"""Fill the tables of the model card with the scores of docs/quality.json.

    python -m benchmarks.model_card

A table stands between `<!-- quality: NAME -->` and `<!-- end -->`; its rows are the list NAME of the key "tables".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables import Rows, fill_page
from p2ch13.util.errors import InputError, errors_naming, run_command
from p2ch13.weights import MODEL_CARD

QUALITY_FILE = Path("docs/quality.json")


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
    fill_page(args.card, read_tables(args.quality))


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


if __name__ == "__main__":
    run_command(main)
