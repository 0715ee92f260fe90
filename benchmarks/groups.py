"""The benchmark's groups: what is measured together, as rows with targets."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import engines, measure, monai_peer
from benchmarks.busy import measure_busy
from benchmarks.importing import measure_import
from benchmarks.machine import CPU
from benchmarks.measure import Setup
from benchmarks.rows import Row, for_processor, ratio
from benchmarks.searching import LUNGS, Times, measure_evaluate, measure_predict, measure_shared_evaluate, write_chest
from benchmarks.strong import break_even, measure_strong
from p2ch13.config import ENGINES, OPENVINO
from p2ch13.data.index import ScanIndex
from p2ch13.network.compute import has_bfloat16_arithmetic
from p2ch13.training.graphs import COMPILE_FROM_SAMPLES
from p2ch13.util.threads import available_cores

LARGE = 20  # times LUNA16
MANY_SERIES = 10  # times LUNA16's
PEAK_LIMITS_MB = (1200, 1600)  # of searching scans of so many slices as `Sizes.chest_slices` has

Rates = dict[str, list[float]]


def bench_cache(setup: Setup, work_dir: Path) -> list[Row]:
    """Filling the cache"""
    rows = []
    for what, package_seconds, plain_seconds in (
        ("", *setup.run(measure.measure_precache, setup)),
        (" of 300 slices", *setup.run(measure.measure_full_size_precache, work_dir / "full-size", setup.sizes)),
    ):
        rows += [
            Row(f"precache, seconds per scan{what}", package_seconds),
            Row(f"precache, seconds per scan{what} / plain", package_seconds / plain_seconds, 1 / 30, False),
        ]
    share_read = setup.run(measure.measure_share_of_scan_read, work_dir / "one-scan", setup.sizes)
    if math.isnan(share_read):
        print(f"  {work_dir}: the kernel counts no bytes read from there; choose a --work-dir on a disk")
    bytes_per_nodule = setup.run(measure.measure_cache_bytes_per_nodule, setup)
    return [
        *rows,
        Row("read from disk of a scan with 2 nodules, share", measured(share_read), 0.05, at_least=False),
        Row("cache per nodule, MB", bytes_per_nodule / 1e6, 0.2, at_least=False),
    ]


def measured(value: float) -> float | None:
    return None if math.isnan(value) else value


def bench_training(setup: Setup, work_dir: Path) -> list[Row]:
    """Training and validation"""
    plain_setup = replace(setup, cache_dir=work_dir / "plain-cache")
    peers: dict[str, tuple[Callable[[Setup], Rates], Setup]] = {
        "package": (measure.measure_package, setup),
        "plain": (measure.measure_plain, plain_setup),
    }
    if monai_peer.is_installed():
        peers["MONAI"] = (monai_peer.measure_monai, plain_setup)
    else:
        print(f"  {monai_peer.INSTALL}")
    results: dict[str, defaultdict[str, list[float]]] = {name: defaultdict(list) for name in peers}
    for _ in range(setup.sizes.processes):
        for name, (function, own_setup) in peers.items():
            for rate, values in setup.run(function, own_setup).items():
                results[name][rate] += values
    ours, plain, monai = (
        {rate: median(values) for rate, values in results.get(name, {}).items()}
        for name in ("package", "plain", "MONAI")
    )
    return [
        Row("gemm, GFLOP/s", ours["gemm"] / 1e9),
        Row("step, samples/s", ours["step"]),
        Row("step, floating-point rate / gemm", ours["step / gemm"], for_processor(bfloat16=0.5, float32=0.6)),
        Row("training loop, samples/s", ours["loop"]),
        Row("training loop of plain, samples/s", plain["loop"]),
        Row("training loop of MONAI, samples/s", monai.get("loop")),
        Row("training loop, samples/s / step", ours["loop / step"], 0.95),
        Row("training loop, samples/s / plain", ours["loop"] / plain["loop"], for_processor(bfloat16=3, float32=1.6)),
        Row(
            "training loop, samples/s / MONAI",
            ratio(ours["loop"], monai.get("loop")),
            for_processor(bfloat16=10, float32=5),
        ),
        Row("forward, slices/s", ours["forward"]),
        Row("forward, floating-point rate / gemm", ours["forward / gemm"], 0.65),
        Row("validation loop, slices/s", ours["validation"]),
        Row("validation loop of plain, slices/s", plain["validation"]),
        Row("validation loop, slices/s / forward", ours["validation / forward"], 0.9),
        Row(
            "validation loop, slices/s / plain",
            ours["validation"] / plain["validation"],
            for_processor(bfloat16=8, float32=4.5),
        ),
    ]


def bench_slices(setup: Setup, work_dir: Path) -> list[Row]:
    """Whole slices beside MONAI's sliding window"""
    package = monai = None
    if monai_peer.is_installed():
        package, monai = map(median, setup.run(monai_peer.measure_whole_scan, setup))
    else:
        print(f"  {monai_peer.INSTALL}")
    return [
        Row("whole slices, slices/s", package),
        Row("whole slices of MONAI, slices/s", monai),
        Row("whole slices, slices/s / MONAI", ratio(package, monai), for_processor(bfloat16=3, float32=2)),
    ]


def bench_engines(setup: Setup, work_dir: Path) -> list[Row]:
    """Whole slices by each engine"""
    rates: dict[str, float] = {}
    if engines.is_installed():
        rates = {name: median(own) for name, own in setup.run(engines.measure_engines, setup).items()}
    else:
        print(f"  {engines.INSTALL}")
    own, fast = (rates.get(name) for name in ENGINES)
    return [
        Row("network of the package, slices/s", own),
        Row(f"network of the package by {OPENVINO}, slices/s", fast),
        Row(f"network of the package, {OPENVINO} / PyTorch", ratio(fast, own), 1.3),
    ]


def bench_strong(setup: Setup, work_dir: Path) -> list[Row]:
    """Training by the strong preset"""
    rates = {name: median(values) for name, values in setup.run(measure_strong, setup).items()}
    is_compiled = setup.sizes.compile != "no"
    return [
        Row("strong step, samples/s", rates["eager step"]),
        Row("strong loop, samples/s / step", rates["eager loop / step"], 0.8),
        Row("strong step, compiled, samples/s", rates["compiled step"] if is_compiled else None),
        Row("strong loop, compiled, samples/s / step", rates["compiled loop / step"] if is_compiled else None, 0.8),
        Row(
            "strong loop, samples from which compiling pays",
            break_even(rates) if is_compiled else None,
            COMPILE_FROM_SAMPLES,
            at_least=False,
        ),
    ]


def bench_busy(setup: Setup, work_dir: Path) -> list[Row]:
    """Training by the strong preset beside busy programs"""
    rates = setup.run(measure_busy, setup)
    quiet = rates.before.samples_per_s
    print(f"  quiet: {rates.before}")
    for busy, rate in rates.beside.items():
        print(f"  {busy} busy programs on {rates.cores} cores: {rate}")
    print(f"  quiet again: {rates.after}")
    return [
        Row("strong loop, samples/s", quiet),
        *(
            Row(f"strong loop beside {busy} busy programs / (quiet x share left)", rates.share_reached(busy), 0.6)
            for busy in rates.beside
        ),
        Row("strong loop, quiet again / before", rates.after.samples_per_s / quiet, 0.9),
    ]


def bench_predict(setup: Setup, work_dir: Path) -> list[Row]:
    """Predict"""
    sizes, peaks = setup.sizes, list[tuple[str, Times, float]]()
    scans = write_chest(work_dir / "chests", sizes.chest_slices, sizes.chest_pixels, sizes.phantom_slices)
    # The longer scan is searched for the memory alone, which enlarged pixels hardly change: it takes half the time.
    for scan, options in zip(scans, ([], ["--pixel-mm", "0"]), strict=False):
        times, peak = setup.run(measure_predict, scan, work_dir / "found", options, time.monotonic())
        print(f"  seconds of {scan.stem} slices: {times}")
        peaks.append((scan.stem, times, peak / 1e6))
    slices, times, _ = peaks[0]
    return [
        Row(f"predict, {slices} slices, s", times.total),
        Row(f"predict, {slices} slices, share of time outside of networks", 1 - times.forward_share, 0.25, False),
        Row(f"lung mask of {slices} slices, s", times.parts[LUNGS], 1, at_least=False),
        *(
            Row(f"predict, {slices} slices, peak memory, MB", peak_mb, limit, at_least=False)
            for (slices, _, peak_mb), limit in zip(peaks, PEAK_LIMITS_MB, strict=False)
        ),
    ]


def bench_evaluate(setup: Setup, work_dir: Path) -> list[Row]:
    """Evaluate"""
    series_count = len(ScanIndex(setup.data_dir).series_list)
    stride = math.ceil(series_count / setup.sizes.evaluated_scans)
    options = ["--data-dir", str(setup.data_dir), "--val-stride", str(stride), "--output"]
    times = setup.run(measure_evaluate, [*options, str(work_dir / "scores")], time.monotonic())
    print(f"  seconds: {times}")
    process_count = min(available_cores(), math.ceil(series_count / stride))
    shared_seconds = None
    if process_count > 1 and setup.sizes.is_separate:  # in a smoke test, starting them would take most of the time
        shared_seconds = measure_shared_evaluate([*options, str(work_dir / "shared-scores")], process_count)
    return [
        Row(f"evaluate, {math.ceil(series_count / stride)} scans, s", times.total),
        Row("evaluate, share of time in networks", times.forward_share, 0.9),
        Row(f"evaluate, seconds / those of {process_count} processes", ratio(times.total, shared_seconds), 1.1, False),
    ]


def bench_memory(setup: Setup, work_dir: Path) -> list[Row]:
    """Memory of training"""
    package = setup.run(measure.measure_package_memory, setup)
    plain = setup.run(measure.measure_plain_memory, replace(setup, cache_dir=work_dir / "plain-cache"))
    return [
        Row("peak memory of training, MB", package[0] / 1e6),
        Row("peak memory of validation, MB", package[1] / 1e6),
        Row("peak memory of training / plain", package[0] / plain[0], 0.5, at_least=False),
        Row("peak memory of training and validation / plain", max(package) / max(plain), 0.5, at_least=False),
    ]


def bench_large_sets(setup: Setup, work_dir: Path) -> list[Row]:
    """Data sets larger than LUNA16"""
    sizes, work_dir = setup.sizes, work_dir / "set"
    (peak, rate), (large_peak, large_rate) = (
        setup.run(measure.measure_large_set, work_dir, factor * sizes.nodule_count, sizes) for factor in (1, LARGE)
    )
    few, many = sizes.series_count, MANY_SERIES * sizes.series_count
    few_seconds, many_seconds = (setup.run(measure.measure_opening, work_dir, count) for count in (few, many))
    return [
        Row(f"{LARGE} times LUNA16, growth of resident memory, MB", (large_peak - peak) / 1e6, 300, at_least=False),
        Row(f"{LARGE} times LUNA16, samples/s / LUNA16's", large_rate / rate, 0.9),
        Row(f"opening the datasets of {few} series, s", few_seconds, 2, at_least=False),
        Row(f"opening {many:,} series / {few}", many_seconds / few_seconds, 11, at_least=False),
    ]


def bench_import(setup: Setup, work_dir: Path) -> list[Row]:
    """Importing DICOM"""
    slice_count, width, _ = setup.sizes.shape_irc
    package, itk = setup.run(measure_import, work_dir / "import", slice_count, width)
    name = f"importing {slice_count} DICOM slices, s"
    return [Row(name, package), Row(f"{name} / SimpleITK's reader", package / itk, 1.3, at_least=False)]


def bench_losses(setup: Setup, work_dir: Path) -> list[Row]:
    """Losses in bfloat16 and float32"""
    sizes, name = setup.sizes, "validation loss, bf16 from fp32 / spread over seeds"
    if not has_bfloat16_arithmetic(CPU):
        return [Row(name, None, 1, at_least=False)]  # emulated, it takes ten times as long
    short = replace(setup, sizes=replace(sizes, samples=sizes.loss_samples, val_slices=sizes.loss_slices))
    losses = {
        precision: [setup.run(measure.measure_loss, short, precision, seed) for seed in range(sizes.seeds)]
        for precision in ("fp32", "bf16")
    }
    print(f"  {losses}")
    spread = max(losses["fp32"]) - min(losses["fp32"])
    difference = abs(median(losses["bf16"]) - median(losses["fp32"]))
    return [Row(name, difference / spread, 1, at_least=False)]


def bench_start(setup: Setup, work_dir: Path) -> list[Row]:
    """Start"""
    return [Row("python -m p2ch13.training --help, s", measure.measure_help(), 0.5, at_least=False)]


GROUPS: dict[str, Callable[[Setup, Path], list[Row]]] = {
    "cache": bench_cache,
    "training": bench_training,
    "slices": bench_slices,
    "engines": bench_engines,
    "strong": bench_strong,
    "busy": bench_busy,
    "predict": bench_predict,
    "evaluate": bench_evaluate,
    "memory": bench_memory,
    "sets": bench_large_sets,
    "import": bench_import,
    "losses": bench_losses,
    "start": bench_start,
}
