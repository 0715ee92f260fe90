"""Fill the tables of docs/benchmarks.md with the figures of docs/bench.json.

python -m benchmarks.bench_table
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from benchmarks.tables import Rows, fill_page
from p2ch13.util.errors import InputError, errors_naming, run_command

RESULTS_FILE, PAGE = Path("docs/bench.json"), Path("docs/benchmarks.md")
# Names of a file's keys in the table of the run.
FACTS = {
    "date": "date",
    "commit": "commit",
    "processor": "processor",
    "threads": "threads",
    "dtype": "computes in",
    "torch": "PyTorch",
    "seconds": "seconds",
}


def main(sys_argv: Sequence[str] | None = None) -> None:
    """Raises: InputError if the results cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS_FILE, help="of the benchmark (default: %(default)s)")
    parser.add_argument("--page", type=Path, default=PAGE, help="file to fill (default: %(default)s)")
    args = parser.parse_args(sys_argv)
    fill_page(args.page, read_tables(args.results))


def read_tables(path: Path) -> dict[str, Rows]:
    """Make tables of a file of results: the run, figures with a target, rates. Raises: InputError if it is none."""
    with errors_naming(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        results = json.loads(text)
        facts = {shown: results[name] for name, shown in FACTS.items()}
        facts["commit"] = re.sub(r"(?<=^\w{7})\w+", "", facts["commit"] or "") or None
        rows = [Row(row["name"], row["value"], row["target"], row["at_least"]) for row in results["rows"]]
        cells = [(row.target is not None, row.cells) for row in rows]
    except (ValueError, KeyError, TypeError):
        message = "no file of results; python -m benchmarks.bench writes one"
        raise InputError(message, path=path, option="--results") from None
    figures: list[dict[str, Any]] = [
        {"figure": name, "value": value, "target": target, "met": met}
        for has_target, (name, value, target, met) in cells
        if has_target
    ]
    rates = [{"rate": name, "value": value} for has_target, (name, value, *_) in cells if not has_target]
    return {"run": [facts], "figures": figures, "rates": rates}


if __name__ == "__main__":
    run_command(main)
