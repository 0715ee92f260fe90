"""The same comparison on a GPU: `python -m benchmarks.gpu`. It makes its own scans, so that nothing has to be there.

Without a GPU it runs through with a few samples, to show that it works; its figures then mean nothing.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.apart import apart
from benchmarks.bench import Row, print_rows
from benchmarks.made_up import write_made_up_scans
from benchmarks.measure import Setup
from p2ch13 import precache
from p2ch13.compute import get_device, get_dtype
from util.errors import run_command
from util.launch import Launch
from util.options import positive_int

EPOCH_SAMPLES = 300_000
PLAIN_SHARE = 20  # plain gets as many fewer samples: it takes a quarter of an hour for an epoch
SCAN_COUNT, SHAPE_IRC = 40, (24, 512, 512)
CENTERS = [(8, 200, 180), (15, 300, 350)]


def main() -> None:
    start = time.monotonic()
    has_gpu = torch.cuda.is_available()
    args = build_parser(default_samples=EPOCH_SAMPLES if has_gpu else 64).parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(Path(folder) / "luna", Path(folder) / "cache", val_stride=10, samples=args.samples)
        series_list = [f"1.2.{ndx:03d}" for ndx in range(SCAN_COUNT)]
        write_made_up_scans(setup.data_dir, series_list, SHAPE_IRC, CENTERS)
        apart(precache.main, ["--data-dir", str(setup.data_dir), "--cache-dir", str(setup.cache_dir)])
        rows = bench(setup, Path(folder) / "plain-cache")
    device = get_device(Launch())
    name = torch.cuda.get_device_name(device) if has_gpu else "CPU, a try without meaning"
    print_rows(rows, f"{name}, {get_dtype('auto', device)}, PyTorch {torch.__version__}, {args.samples:,} samples")
    print(f"{time.monotonic() - start:.0f} s")


def build_parser(default_samples: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--samples", type=positive_int, default=default_samples, help="training crops of an epoch")
    return parser


def bench(setup: Setup, plain_cache_dir: Path) -> list[Row]:
    plain_setup = Setup(
        setup.data_dir, plain_cache_dir, setup.val_stride, samples=max(32, setup.samples // PLAIN_SHARE)
    )
    compiled, eager = (apart(measure.measure_epochs, setup, choice) for choice in ("yes", "no"))
    plain = {name: max(values) for name, values in apart(measure.measure_plain, plain_setup, 2).items()}
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
