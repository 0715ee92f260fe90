"""docs/quality.json: the parts of the table as they are done, and the model card's tables made of them."""

from __future__ import annotations

import datetime
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.kept import FORMAT_VERSION, read_kept
from benchmarks.machine import describe_cpu
from benchmarks.quality.parts import Figure, Part, find_order, is_entry
from p2ch13.training.provenance import get_commit
from p2ch13.util.errors import errors_naming
from p2ch13.util.files import atomic_write
from p2ch13.util.json_values import only_finite

SUMMARY = "summary"  # the card's table of all figures
TABLES = (SUMMARY, "by_size", "by_kind", "operating_points", "calibration")

Rows = list[dict[str, Any]]


def describe_run(checkpoint: Path, sys_argv: Sequence[str]) -> dict[str, Any]:
    """Say with what and on what figures were measured. Paths are named by their last part."""
    with errors_naming(checkpoint):
        sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": get_commit(),
        "processor": describe_cpu(),
        "command": shlex.join(["python", "-m", "benchmarks.quality", *map(shorten, sys_argv)]),
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": sha256,
    }


def shorten(argument: str) -> str:
    """Reduce a path, alone, after an option's = or a lung's name, to its last part."""
    name, sign, value = argument.rpartition("=")
    return f"{name}{sign}{Path(value).name}" if "/" in value else argument


def read_parts(path: Path) -> dict[str, Any]:
    """Read the parts that are done, see `read_kept`."""
    parts = read_kept(path, "parts", dict)
    return {name: parts[name] for name in sorted(filter(is_entry, parts), key=find_order)}


def add_part(path: Path, name: str, part: Part, run: Mapping[str, Any]) -> dict[str, Rows]:
    """Write a part over its own entry, and the tables of all parts. Returns: the tables."""
    parts = read_parts(path)
    parts[name] = {
        **run,
        "figures": [{**asdict(figure), "met": bool(figure.met)} for figure in part.figures],
        "tables": {SUMMARY: [as_row(figure) for figure in part.figures], **part.tables},
        **part.details,
    }
    parts = only_finite({name: parts[name] for name in sorted(parts, key=find_order)})
    tables = join_tables(parts)
    with atomic_write(path) as file:
        values = {"format_version": FORMAT_VERSION, "parts": parts, "tables": tables}
        file.write(json.dumps(values, indent=1, allow_nan=False).encode() + b"\n")
    return tables


def as_row(figure: Figure) -> dict[str, Any]:
    """Make a figure's row of the summary."""
    limit = "at least" if figure.at_least else "at most"
    return {
        "on": figure.on,
        "figure": figure.name,
        "value": figure.value,
        "95% CI": figure.interval,
        "target": f"{limit} {figure.target:g}",
        "met": bool(figure.met),
    }


def join_tables(parts: Mapping[str, Any]) -> dict[str, Rows]:
    """Join the tables of the same name of all parts."""
    joined = {name: [row for part in parts.values() for row in part["tables"].get(name, [])] for name in TABLES}
    return {name: rows for name, rows in joined.items() if rows}
