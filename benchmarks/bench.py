"""Measure the package against plain PyTorch and the machine's own limits: `make bench`.

Prints a table with each figure's target and writes `benchmarks/results.json`, a list of {name, value, target, met}.
Every figure is a size or a ratio of two measurements of this run, taken alternately. `--smoke` runs all of it on tiny
data to see that it runs: it writes no figures.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import measure
from benchmarks.importing import measure_import
from benchmarks.measure import FULL, SMOKE, Setup
from benchmarks.strong import measure_strong
from benchmarks.synthetic import SMOKE_NOTE, write_synthetic_scans
from p2ch13 import precache
from p2ch13.config import Folders
from p2ch13.network.compute import get_dtype
from p2ch13.util.errors import run_command
from p2ch13.util.options import positive_int

RESULTS_PATH = Path(__file__).with_name("results.json")
# Features that decide a processor's speed here, and Linux's names of them.
CPU_FEATURES = {"AVX2": "avx2", "AVX-512": "avx512f", "AVX-512-BF16": "avx512_bf16", "AMX-BF16": "amx_bf16"}
LARGE = 20  # times LUNA16
MANY_SERIES = 10  # times LUNA16's


@dataclass(frozen=True)
class Row:
    """A line of the table. The target is met by a `value` of at most, or with `at_least` of at least `target`."""

    name: str
    value: float
    target: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.value >= self.target if self.at_least else self.value <= self.target


def main() -> None:
    """Raises: InputError if the data cannot be used."""
    start = time.monotonic()
    args = build_parser().parse_args()
    logging.disable(logging.INFO)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # GPUs are for benchmarks/gpu.py
    with tempfile.TemporaryDirectory(dir=make_folder(args.work_dir)) as work_dir:
        setup = prepare(args, Path(work_dir))
        rows: list[Row] = []
        for group in (
            bench_cache,
            bench_speed,
            bench_strong,
            bench_memory,
            bench_large_sets,
            bench_import,
            bench_losses,
            bench_start,
        ):
            group_start = time.monotonic()
            print(f"{group.__doc__} ...", flush=True)
            rows += group(setup, Path(work_dir))
            print(f"  {time.monotonic() - group_start:.0f} s")
    dtype = get_dtype("auto", torch.device("cpu"))
    machine = f"{describe_cpu()}, {torch.get_num_threads()} threads, {dtype}, PyTorch {torch.__version__}"
    if args.smoke:
        print_rows(rows, f"{SMOKE_NOTE} {machine}")
        print(f"{time.monotonic() - start:.0f} s")
        return
    print_rows(rows, f"{args.data_dir} on {machine}")
    RESULTS_PATH.write_text(json.dumps([as_result(row) for row in rows], indent=2) + "\n")
    print(
        f"{sum(row.met for row in rows)} of {len(rows)} targets met, {time.monotonic() - start:.0f} s. {RESULTS_PATH}"
    )


def prepare(args: argparse.Namespace, work_dir: Path) -> Setup:
    """Prepare the data set, and choose the sizes."""
    if not args.smoke:
        return Setup(args.data_dir.absolute(), work_dir / "cache", args.val_stride, FULL)
    setup = Setup(work_dir / "scans", work_dir / "cache", val_stride=2, sizes=SMOKE)
    write_synthetic_scans(setup.data_dir, ["1.2.0", "1.2.1"], SMOKE.shape_irc, SMOKE.centers, SMOKE.candidate_count)
    return setup


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, default=Folders.data_dir, help="scans and CSV files")
    parser.add_argument("--val-stride", type=positive_int, default=4, help="every such series is for validation")
    parser.add_argument("--work-dir", type=Path, default=Path("data/bench"), help="for caches; needs 8 GB temporarily")
    parser.add_argument("--smoke", action="store_true", help="run all of it on tiny data, and measure nothing")
    return parser


def make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute()


def bench_cache(setup: Setup, work_dir: Path) -> list[Row]:
    """Filling the cache"""
    setup.run(precache.main, ["--data-dir", str(setup.data_dir), "--cache-dir", str(setup.cache_dir)])
    bytes_per_nodule = setup.run(measure.measure_cache_bytes_per_nodule, setup)
    rows = []
    for what, package_seconds, plain_seconds in (
        ("", *setup.run(measure.measure_precache, setup)),
        (" of 300 slices", *setup.run(measure.measure_full_size_precache, work_dir / "full-size", setup.sizes)),
    ):
        print(f"  seconds per scan{what}: package {package_seconds:.3g}, plain {plain_seconds:.3g}")
        rows.append(Row(f"precache, seconds per scan{what} / plain", package_seconds / plain_seconds, 1 / 30, False))
    share_read = setup.run(measure.measure_share_of_scan_read, work_dir / "one-scan", setup.sizes)
    if math.isnan(share_read):
        print(f"  {work_dir}: the kernel counts no bytes read from there; choose a --work-dir on a disk")
    return [
        *rows,
        Row("read from disk of a scan with 2 nodules, share", share_read, 0.05, at_least=False),
        Row("cache per nodule, MB", bytes_per_nodule / 1e6, 0.2, at_least=False),
    ]


def bench_speed(setup: Setup, work_dir: Path) -> list[Row]:
    """Training and validation"""
    plain_setup = replace(setup, cache_dir=work_dir / "plain-cache")
    package: defaultdict[str, list[float]] = defaultdict(list)
    plain: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(setup.sizes.processes):
        for name, values in setup.run(measure.measure_package, setup).items():
            package[name] += values
        for name, values in setup.run(measure.measure_plain, plain_setup).items():
            plain[name] += values
    ours, theirs = ({name: median(values) for name, values in results.items()} for results in (package, plain))
    print(
        f"  gemm {ours['gemm'] / 1e9:.0f} GFLOP/s; samples/s: step {ours['step']:.0f}, loop {ours['loop']:.0f}, "
        f"plain {theirs['loop']:.0f}; slices/s: forward {ours['forward']:.1f}, loop {ours['validation']:.1f}, "
        f"plain {theirs['validation']:.2f}"
    )
    return [
        Row("step, floating-point rate / gemm", ours["step / gemm"], 0.6),
        Row("training loop, samples/s / step", ours["loop / step"], 0.95),
        Row("training loop, samples/s / plain", ours["loop"] / theirs["loop"], 3),
        Row("forward, floating-point rate / gemm", ours["forward / gemm"], 0.65),
        Row("validation loop, slices/s / forward", ours["validation / forward"], 0.9),
        Row("validation loop, slices/s / plain", ours["validation"] / theirs["validation"], 8),
    ]


def bench_strong(setup: Setup, work_dir: Path) -> list[Row]:
    """Training by the strong preset"""
    rates = {name: median(values) for name, values in setup.run(measure_strong, setup).items()}
    print(
        f"  samples/s: step {rates['eager step']:.0f}, loop {rates['eager loop']:.0f}; "
        f"compiled: step {rates['compiled step']:.0f}, loop {rates['compiled loop']:.0f}"
    )
    return [
        Row("strong loop, samples/s / step", rates["eager loop / step"], 0.8),
        Row("strong loop, compiled, samples/s / step", rates["compiled loop / step"], 0.8),
    ]


def bench_memory(setup: Setup, work_dir: Path) -> list[Row]:
    """Memory of training"""
    package = setup.run(measure.measure_package_memory, setup)
    plain = setup.run(measure.measure_plain_memory, replace(setup, cache_dir=work_dir / "plain-cache"))
    for name, (training, validation) in {"package": package, "plain": plain}.items():
        print(f"  {name}: training {training / 1e6:.0f} MB, validation {validation / 1e6:.0f} MB")
    return [
        Row("peak memory of training / plain", package[0] / plain[0], 0.5, at_least=False),
        Row("peak memory of training and validation / plain", max(package) / max(plain), 0.5, at_least=False),
    ]


def bench_large_sets(setup: Setup, work_dir: Path) -> list[Row]:
    """Data sets larger than LUNA16"""
    sizes, work_dir = setup.sizes, work_dir / "set"
    memory, rates = defaultdict(list), defaultdict(list)
    for _ in range(sizes.processes):
        for factor in (1, LARGE):
            peak, rate = setup.run(measure.measure_large_set, work_dir, factor * sizes.nodule_count, sizes)
            memory[factor].append(peak)
            rates[factor].append(rate)
    few, many = sizes.series_count, MANY_SERIES * sizes.series_count
    few_seconds, many_seconds = (setup.run(measure.measure_opening, work_dir, count) for count in (few, many))
    growth = median(memory[LARGE]) - median(memory[1])
    return [
        Row(f"{LARGE} times LUNA16, growth of resident memory, MB", growth / 1e6, 300, at_least=False),
        Row(f"{LARGE} times LUNA16, samples/s / LUNA16's", median(rates[LARGE]) / median(rates[1]), 0.9),
        Row(f"opening the datasets of {few} series, s", few_seconds, 2, at_least=False),
        Row(f"opening {many} series / {few}", many_seconds / few_seconds, 12, at_least=False),
    ]


def bench_import(setup: Setup, work_dir: Path) -> list[Row]:
    """Importing DICOM"""
    slice_count, width, _ = setup.sizes.shape_irc
    package, itk = setup.run(measure_import, work_dir / "import", slice_count, width)
    print(f"  seconds for {slice_count} slices of {width} x {width}: package {package:.3g}, SimpleITK {itk:.3g}")
    return [Row(f"importing {slice_count} DICOM slices, s / SimpleITK's reader", package / itk, 1.3, at_least=False)]


def bench_losses(setup: Setup, work_dir: Path) -> list[Row]:
    """Losses in bfloat16 and float32"""
    sizes = setup.sizes
    short = replace(setup, sizes=replace(sizes, samples=sizes.loss_samples, val_slices=sizes.loss_slices))
    losses = {
        precision: [setup.run(measure.measure_loss, short, precision, seed) for seed in range(sizes.seeds)]
        for precision in ("fp32", "bf16")
    }
    print(f"  {losses}")
    spread = max(losses["fp32"]) - min(losses["fp32"])
    difference = abs(median(losses["bf16"]) - median(losses["fp32"]))
    return [Row("validation loss, bf16 from fp32 / spread over seeds", difference / spread, 1, at_least=False)]


def bench_start(setup: Setup, work_dir: Path) -> list[Row]:
    """Start"""
    return [Row("python -m p2ch13.training --help, s", measure.measure_help(), 0.5, at_least=False)]


def as_result(row: Row) -> dict[str, Any]:
    value = None if math.isnan(row.value) else row.value  # JSON has no NaN
    return {"name": row.name, "value": value, "target": row.target, "met": row.met}


def print_rows(rows: list[Row], machine: str) -> None:
    """Print a table in Markdown."""
    print(f"\n{machine}\n")
    print(f"| {'figure':50} | {'value':>7} | {'target':>9} | met |\n| {'-' * 50} | {'-' * 6}: | {'-' * 8}: | --- |")
    for row in rows:
        target = f"{'>=' if row.at_least else '<='} {row.target:.3g}"
        print(f"| {row.name:50} | {row.value:7.3g} | {target:>9} | {'yes' if row.met else 'no':3} |")
    print()


def describe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name and its `CPU_FEATURES`, as far as the system tells."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    features = " ".join(name for name, flag in CPU_FEATURES.items() if flag in flags)
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({features})" if features else name


if __name__ == "__main__":
    run_command(main)
