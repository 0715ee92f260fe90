"""What the benchmarks measure, a function for each process that they start; values are seconds, rates and bytes."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain
from benchmarks.made_up import MadeUpCache, write_made_up_scans
from benchmarks.memory import PeakMemory
from p2ch13 import datasets, precache
from p2ch13.augmentation import SegmentationAugmentation
from p2ch13.cache import CtCache
from p2ch13.compute import autocast, has_compiler, keep_freed_memory
from p2ch13.config import Folders
from p2ch13.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.losses import segmentation_loss
from p2ch13.training.app import SegmentationTrainingApp
from util.errors import InputError

GEMM_SIZES = (512, 1024, 2048)
SLICE_SIZE = 512
FULL_SIZE_IRC, FULL_SIZE_CENTERS = (300, 512, 512), [(100, 200, 180), (210, 300, 350)]  # of a scan, of its two nodules
FULL_SIZE_SCANS = 12
FULL_SIZE_CANDIDATES = 620  # LUNA16's 551,065 in 888 scans


# As a run of 300,000 samples or more has it.
LONG_RUN = ("--augmented", "--compile", "yes" if has_compiler() else "no")


@dataclass(frozen=True)
class Setup:
    """What is run on: a data set, and the options that both versions train it with."""

    data_dir: Path
    cache_dir: Path
    val_stride: int
    samples: int = 320
    val_slices: int = 16  # at least; whole series

    @property
    def folders(self) -> Folders:
        return Folders(self.data_dir, self.cache_dir)

    def make_app(self, *options: str) -> SegmentationTrainingApp:
        return SegmentationTrainingApp(
            [
                *("--data-dir", str(self.data_dir), "--cache-dir", str(self.cache_dir)),
                *("--val-stride", str(self.val_stride), "--samples-per-epoch", str(self.samples)),
                *("--threads", str(torch.get_num_threads()), *options),  # as many as plain PyTorch has
            ]
        )

    def shorten(self, sample_list: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """The slices of the first series, as many series as are needed for `val_slices`."""
        counts = Counter(series_uid for series_uid, _ in sample_list)
        kept: set[str] = set()
        for series_uid in counts:
            if sum(counts[uid] for uid in kept) < self.val_slices:
                kept.add(series_uid)
        return [sample for sample in sample_list if sample[0] in kept]


def seconds(function: Callable[[], Any], repeat: int = 1) -> float:
    """Of one call, on average."""
    start = time.perf_counter()
    for _ in range(repeat):
        function()
    return (time.perf_counter() - start) / repeat


# Training and validation


def measure_package(setup: Setup, rounds: int) -> dict[str, list[float]]:
    """Rates per second of everything that is compared within one process, and its ratios, round by round.

    Neighbours on a shared machine come and go: a ratio is of what was measured one right after the other.
    """
    keep_freed_memory()
    app = setup.make_app(*LONG_RUN)
    train_ds, val_ds = app.init_train_ds(), app.init_val_ds()
    val_ds.sample_list = setup.shorten(val_ds.sample_list)
    crops, crop_mask = next(train_ds.batches(app.config.batch_size))[:2]
    whole_slice = torch.randn(1, crops.shape[1], SLICE_SIZE, SLICE_SIZE) * 300 - 600

    def step() -> None:
        app.optimizer.zero_grad()
        with autocast(app.device, app.dtype):
            nodule_prob = app.training_model(crops)
        segmentation_loss(nodule_prob, crop_mask).mean().backward()
        app.optimizer.step()

    @torch.inference_mode()
    def forward() -> None:
        with autocast(app.device, app.dtype):
            app.segmentation_model(whole_slice)

    app.segmentation_model.train()
    step_flops = count_flops(lambda: segmentation_loss(app.segmentation_model(crops), crop_mask).mean().backward())
    step()
    app.segmentation_model.eval()
    forward_flops = count_flops(forward)
    results: defaultdict[str, list[float]] = defaultdict(list)
    app.do_training(0, train_ds)
    app.do_validation(0, val_ds)
    for round_ndx in range(1, rounds + 1):
        gemm = gemm_flop_rate(app.dtype)
        app.training_model.train()
        step_rate = 1 / seconds(step, repeat=max(1, setup.samples // len(crops)))
        loop_rate = len(train_ds) / seconds(lambda ndx=round_ndx: app.do_training(ndx, train_ds))
        app.segmentation_model.eval()
        forward_rate = 1 / seconds(forward, repeat=len(val_ds))
        validation_rate = len(val_ds) / seconds(lambda ndx=round_ndx: app.do_validation(ndx, val_ds))
        for name, value in {
            "gemm": gemm,
            "step": len(crops) * step_rate,
            "step / gemm": step_flops * step_rate / gemm,
            "loop": loop_rate,
            "loop / step": loop_rate / (len(crops) * step_rate),
            "forward": forward_rate,
            "forward / gemm": forward_flops * forward_rate / gemm,
            "validation": validation_rate,
            "validation / forward": validation_rate / forward_rate,
        }.items():
            results[name].append(value)
    return results


def measure_epochs(setup: Setup, compile_choice: str) -> dict[str, float]:
    """Of the second epoch and validation: the first ones compile, choose algorithms and record."""
    keep_freed_memory()
    app = setup.make_app("--augmented", "--compile", compile_choice)
    train_ds, val_ds = app.init_train_ds(), app.init_val_ds()
    first_seconds = seconds(lambda: app.do_training(1, train_ds))
    training_seconds = seconds(lambda: app.do_training(2, train_ds))
    app.do_validation(1, val_ds)
    return {
        "first epoch, s": first_seconds,
        "samples/s": len(train_ds) / training_seconds,
        "slices/s": len(val_ds) / seconds(lambda: app.do_validation(2, val_ds)),
        "GPU memory, MB": torch.cuda.max_memory_allocated() / 1e6,
    }


def measure_plain(setup: Setup, rounds: int) -> dict[str, list[float]]:
    training, train_ds, val_ds = open_plain(setup)
    results: dict[str, list[float]] = {"loop": [], "validation": []}
    for epoch_ndx in range(1, rounds + 1):
        train_ds.shuffle_samples(epoch_ndx)
        batches = training.train(train_ds)
        first = len(next(batches))  # the worker processes are up: they start once in an epoch of 300,000 samples
        results["loop"].append((len(train_ds) - first) / seconds(lambda left=batches: list(left)))
        results["validation"].append(len(val_ds) / seconds(lambda: list(training.validate(val_ds))))
    return results


def open_plain(
    setup: Setup,
) -> tuple[plain.PlainTraining, plain.PlainTrainingDataset, plain.PlainValidationDataset]:
    data = plain.PlainData(setup.folders)
    train_ds = plain.PlainTrainingDataset(data, data.split(setup.val_stride, False), setup.samples)
    val_ds = plain.PlainValidationDataset(data, data.split(setup.val_stride, True))
    val_ds.sample_list = setup.shorten(val_ds.sample_list)
    augmentation = SegmentationAugmentation(flip=True, offset=0.03, scale=0.2, rotate=True, noise=25.0)
    return plain.PlainTraining(augmentation), train_ds, val_ds


def measure_package_memory(setup: Setup) -> tuple[int, int]:
    """The most that training and validation take, in bytes."""
    keep_freed_memory()
    app = setup.make_app(*LONG_RUN)
    train_ds, val_ds = app.init_train_ds(), app.init_val_ds()
    val_ds.sample_list = setup.shorten(val_ds.sample_list)
    with PeakMemory() as training:
        app.do_training(1, train_ds)
    with PeakMemory() as validation:
        app.do_validation(1, val_ds)
    return training.peak, validation.peak


def measure_plain_memory(setup: Setup) -> tuple[int, int]:
    app, train_ds, val_ds = open_plain(setup)
    train_ds.shuffle_samples(1)
    with PeakMemory() as training:
        list(app.train(train_ds))
    with PeakMemory() as validation:
        list(app.validate(val_ds))
    return training.peak, validation.peak


def measure_loss(setup: Setup, precision: str, seed: int) -> float:
    """The validation loss after an epoch."""
    keep_freed_memory()
    app = setup.make_app("--augmented", "--precision", precision, "--seed", str(seed))
    val_ds = app.init_val_ds()
    val_ds.sample_list = setup.shorten(val_ds.sample_list)[: setup.val_slices]
    app.do_training(1, app.init_train_ds())
    return app.do_validation(1, val_ds).loss


def count_flops(function: Callable[[], None]) -> int:
    """Floating-point operations of the convolutions, forward and backward: a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def gemm_flop_rate(dtype: torch.dtype) -> float:
    """The best of a few sizes, in floating-point operations per second."""
    rates = []
    for size in GEMM_SIZES:
        left, right = torch.randn(2, size, size).to(dtype)
        product = torch.empty(size, size, dtype=dtype)
        repeat = 2 * max(GEMM_SIZES) ** 2 // size**2
        rates.append(2 * size**3 / seconds(lambda a=left, b=right, c=product: torch.mm(a, b, out=c), repeat))
    return max(rates)


# Cache


def measure_precache(setup: Setup) -> tuple[float, float]:
    """Seconds per scan of the package and of plain, each into new folders."""
    series_list = CtCache(setup.folders).series_list
    package_seconds, plain_seconds = [], []
    with tempfile.TemporaryDirectory(dir=setup.cache_dir.parent) as folder:
        for ndx in range(2):
            folders = Folders(setup.data_dir, Path(folder) / f"package{ndx}")
            arguments = ["--data-dir", str(folders.data_dir), "--cache-dir", str(folders.cache_dir)]
            package_seconds.append(seconds(lambda options=arguments: precache.main(options)))
            plain_folders = Folders(setup.data_dir, Path(folder) / f"plain{ndx}")
            plain_seconds.append(seconds(lambda to=plain_folders: plain.precache(to, series_list)))
    return min(package_seconds) / len(series_list), min(plain_seconds) / len(series_list)


def measure_full_size_precache(work_dir: Path) -> tuple[float, float]:
    """The same for made-up scans of LUNA16's size with its number of candidates."""
    series_list = [f"1.2.{ndx}" for ndx in range(FULL_SIZE_SCANS)]
    write_made_up_scans(work_dir / "luna", series_list, FULL_SIZE_IRC, FULL_SIZE_CENTERS, FULL_SIZE_CANDIDATES)
    return measure_precache(Setup(work_dir / "luna", work_dir / "cache", val_stride=4))


def measure_cache_bytes_per_nodule(setup: Setup) -> float:
    byte_count = sum(path.stat().st_size for path in setup.cache_dir.rglob("*") if path.is_file())
    ct_cache = CtCache(setup.folders)
    return byte_count / sum(len(ct_cache.nodules[uid]) for uid in ct_cache.series_list)


def measure_share_of_scan_read(work_dir: Path) -> float:
    """What the kernel reads from disk of an uncompressed scan with two nodules, as a share of the file."""
    folders = Folders(work_dir / "luna", work_dir / "cache")
    write_made_up_scans(folders.data_dir, ["1.2.3"], FULL_SIZE_IRC, FULL_SIZE_CENTERS)
    scan = folders.data_dir / "subset0" / "1.2.3.raw"
    with scan.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = kernel_bytes_read()
    CtCache(folders).fill("1.2.3")
    byte_count = kernel_bytes_read() - before
    if byte_count == 0:
        raise InputError(f"{work_dir}: the kernel counts no bytes read from there; choose a folder on a disk")
    return byte_count / scan.stat().st_size


def kernel_bytes_read() -> int:
    """Fetched from storage for this process: pages that were in memory do not count, read ahead does."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def measure_opening(work_dir: Path, series_count: int) -> float:
    """Seconds to open the training and the validation dataset of so many tiny scans, with all in the cache."""
    folders = Folders(work_dir / "luna", work_dir / "cache")
    series_list = [f"1.2.{ndx:05d}" for ndx in range(series_count)]
    write_made_up_scans(folders.data_dir, series_list, shape_irc=(8, 16, 16), centers=[(4, 8, 8)])
    ct_cache = CtCache(folders)
    for series_uid in series_list:
        ct_cache.fill(series_uid)

    def open_both() -> None:
        Luna2dSegmentationDataset(10, True, folders=folders)
        TrainingLuna2dSegmentationDataset(10, False, samples_per_epoch=16, folders=folders)

    best = min(seconds(open_both) for _ in range(3))
    shutil.rmtree(work_dir)
    return best


# A set larger than memory should hold


def measure_large_set(work_dir: Path, nodule_count: int, samples: int) -> tuple[int, float]:
    """Peak resident memory and samples per second of training on so many made-up nodules."""
    keep_freed_memory()
    work_dir.mkdir(parents=True, exist_ok=True)
    MadeUpCache.nodule_count = nodule_count
    with mock.patch.object(datasets, "CtCache", MadeUpCache):
        app = Setup(work_dir, work_dir, val_stride=10, samples=samples).make_app(*LONG_RUN)
        train_ds = app.init_train_ds()
    app.do_training(1, train_ds)
    rate = max(samples / seconds(lambda ndx=ndx: app.do_training(ndx, train_ds)) for ndx in (2, 3))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rate


def measure_help() -> float:
    command = [sys.executable, "-m", "p2ch13.training", "--help"]
    return min(seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) for _ in range(5))
