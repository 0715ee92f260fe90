"""Measure the package against plain PyTorch, MONAI and the machine's own limits: `make bench`.

Prints a table with each figure's target and writes it to `docs/bench.json`, with what it was measured on;
`python -m benchmarks.bench_table` puts it into docs/benchmarks.md. Figures with a target are sizes, or ratios of two
measurements of this run. `--smoke` runs all of it on tiny data to see that it runs, `--only` a single group: both
write no figures.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_table import RESULTS_FILE
from benchmarks.groups import GROUPS
from benchmarks.kept import FORMAT_VERSION
from benchmarks.machine import describe_machine
from benchmarks.measure import FULL, SMOKE, Setup
from benchmarks.rows import Row, count_met, print_rows
from benchmarks.synthetic import SMOKE_NOTE, write_synthetic_scans
from p2ch13 import precache
from p2ch13.config import Folders
from p2ch13.util.errors import run_command
from p2ch13.util.files import atomic_write
from p2ch13.util.options import positive_int


def main(sys_argv: Sequence[str] | None = None) -> None:
    """Raises: InputError if the data cannot be used."""
    start = time.monotonic()
    args = build_parser().parse_args(sys_argv)
    logging.disable(logging.INFO)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # GPUs are for benchmarks/gpu.py
    machine = describe_machine()
    with tempfile.TemporaryDirectory(dir=make_folder(args.work_dir)) as work_dir:
        setup = prepare(args, Path(work_dir))
        rows = measure_groups(args.only or GROUPS, setup, Path(work_dir))
    shown = (
        f"{machine['processor']}, {machine['threads']} threads, {machine['dtype']}, PyTorch {torch.__version__}, "
        f"{time.monotonic() - start:.0f} s"
    )
    if args.smoke:
        print_rows(rows, f"{SMOKE_NOTE} {shown}")
        return
    print_rows(rows, f"{args.data_dir} on {shown}")
    print(f"{count_met(rows)}.")
    if args.only:
        print("Figures of a part alone are not kept.")
        return
    write_results(args.output, rows, {**machine, "seconds": round(time.monotonic() - start)})
    print(f"{args.output}; python -m benchmarks.bench_table puts it into docs/benchmarks.md")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, default=Folders.data_dir, help="scans and CSV files")
    parser.add_argument("--val-stride", type=positive_int, default=4, help="every such series is for validation")
    parser.add_argument("--work-dir", type=Path, default=Path("data/bench"), help="for caches; needs 8 GB temporarily")
    parser.add_argument("--output", type=Path, default=RESULTS_FILE, help="file of results")
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--smoke", action="store_true", help="run all of it on tiny data, and measure nothing")
    return parser


def make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute()


def prepare(args: argparse.Namespace, work_dir: Path) -> Setup:
    """Prepare the data set and its cache, and choose the sizes."""
    if args.smoke:
        setup = Setup(work_dir / "scans", work_dir / "cache", val_stride=2, sizes=SMOKE)
        write_synthetic_scans(setup.data_dir, ["1.2.0", "1.2.1"], SMOKE.shape_irc, SMOKE.centers, SMOKE.candidate_count)
    else:
        setup = Setup(args.data_dir.absolute(), work_dir / "cache", args.val_stride, FULL)
    setup.run(precache.main, ["--data-dir", str(setup.data_dir), "--cache-dir", str(setup.cache_dir)])
    return setup


def measure_groups(names: Iterable[str], setup: Setup, work_dir: Path) -> list[Row]:
    """Measure one group after the other, and say what each has found and how long it took."""
    rows: list[Row] = []
    for name in names:
        start = time.monotonic()
        print(f"{GROUPS[name].__doc__} ({name}) ...", flush=True)
        own = GROUPS[name](setup, work_dir)
        for row in own:
            print(f"  {row.name}: {row.cells[1]}")
        print(f"  {time.monotonic() - start:.0f} s")
        rows += own
    return rows


def write_results(path: Path, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    results = {"format_version": FORMAT_VERSION, **facts, "rows": [row.as_dict() for row in rows]}
    with atomic_write(path) as file:
        file.write(json.dumps(results, indent=1, allow_nan=False).encode() + b"\n")


if __name__ == "__main__":
    run_command(main)
