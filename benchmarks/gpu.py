"""The same comparison on a GPU, on synthetic scans: `python -m benchmarks.gpu`.

With `--smoke`, and without a GPU, it runs on tiny data to see that it runs: the figures mean nothing.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.measure import FULL, SMOKE, Setup, Sizes
from benchmarks.rows import Row, print_rows
from benchmarks.synthetic import SMOKE_NOTE, write_synthetic_scans
from p2ch13 import precache
from p2ch13.network.compute import get_device, get_dtype
from p2ch13.util.errors import run_command
from p2ch13.util.options import positive_int

EPOCH_SAMPLES = 300_000
PLAIN_SHARE = 20  # plain trains on a twentieth of the samples: its epoch takes a quarter of an hour
SCANS = replace(FULL, scan_count=40, shape_irc=(24, 512, 512), centers=((8, 200, 180), (15, 300, 350)))


def main() -> None:
    start = time.monotonic()
    args = build_parser().parse_args()
    logging.disable(logging.INFO)
    device = get_device()
    is_smoke = args.smoke or device.type == "cpu"
    sizes = SMOKE if is_smoke else replace(SCANS, samples=args.samples)
    with tempfile.TemporaryDirectory() as folder:
        rows = bench(prepare(Path(folder), sizes), Path(folder) / "plain-cache")
    name = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    facts = f"{name}, {get_dtype('auto', device)}, PyTorch {torch.__version__}, {sizes.samples:,} samples"
    print_rows(rows, f"{SMOKE_NOTE} {facts}" if is_smoke else facts)
    print(f"{time.monotonic() - start:.0f} s")


def prepare(folder: Path, sizes: Sizes) -> Setup:
    """Write the scans and fill the cache."""
    setup = Setup(folder / "luna", folder / "cache", val_stride=min(10, sizes.scan_count), sizes=sizes)
    series_list = [f"1.2.{ndx:03d}" for ndx in range(sizes.scan_count)]
    write_synthetic_scans(setup.data_dir, series_list, sizes.shape_irc, sizes.centers)
    setup.run(precache.main, ["--data-dir", str(setup.data_dir), "--cache-dir", str(setup.cache_dir)])
    return setup


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--samples", type=positive_int, default=EPOCH_SAMPLES, help="training crops of an epoch")
    parser.add_argument("--smoke", action="store_true", help="run all of it on tiny data, and measure nothing")
    return parser


def bench(setup: Setup, plain_cache_dir: Path) -> list[Row]:
    sizes = setup.sizes
    fewer = replace(sizes, samples=max(32, sizes.samples // PLAIN_SHARE))
    compiled, eager = (setup.run(measure.measure_epochs, setup, choice) for choice in (sizes.compile, "no"))
    plain_setup = replace(setup, cache_dir=plain_cache_dir, sizes=fewer)
    plain = {name: max(values) for name, values in setup.run(measure.measure_plain, plain_setup, 2).items()}
    for what, epochs in {"compiled and recorded": compiled, "operation by operation": eager}.items():
        print(f"  {what}: {epochs}")
    print(f"  plain: {plain}")
    return [
        Row("an epoch of 300,000 samples, s", EPOCH_SAMPLES / compiled["samples/s"], 10, at_least=False),
        Row("training loop, samples/s / plain", compiled["samples/s"] / plain["loop"], 3),
        Row("validation loop, slices/s / plain", compiled["slices/s"] / plain["validation"], 8),
    ]


if __name__ == "__main__":
    run_command(main)
