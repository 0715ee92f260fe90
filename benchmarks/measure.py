"""The benchmarks' measurements, a function for each process that they start: seconds, rates and bytes."""

from __future__ import annotations

import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain
from benchmarks.in_subprocess import in_subprocess
from benchmarks.memory import PeakMemory
from benchmarks.synthetic import (
    LUNA16_NODULES,
    LUNA16_SERIES,
    SyntheticCache,
    write_many_nodules,
    write_synthetic_scans,
)
from p2ch13 import precache
from p2ch13.config import Folders
from p2ch13.data.cache import CtCache
from p2ch13.data.crop_store import CROPS_IN_MEMORY_BYTES
from p2ch13.data.ct import Ct
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.data.index import ScanIndex
from p2ch13.network.compute import keep_freed_memory
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.augmentation import SegmentationAugmentation
from p2ch13.training.graphs import has_compiler
from p2ch13.training.losses import segmentation_loss
from p2ch13.util.boxes import Box, make_box

Result = TypeVar("Result")


@dataclass(frozen=True)
class Sizes:
    """Amounts of work to measure."""

    is_separate: bool = True  # run each measurement in a process of its own
    compile: str = "yes" if has_compiler() else "no"  # the choice of a run of 300,000 samples or more
    samples: int = 320  # training crops of an epoch
    val_slices: int = 16  # at least, of whole series
    rounds: int = 3  # of rates within a process
    processes: int = 2  # with the same measurement
    gemm_sizes: tuple[int, ...] = (512, 1024, 2048)
    slice_size: int = 512
    scan_count: int = 12  # scans of a clinic's size, their shape, their two nodules and LUNA16's share of candidates
    shape_irc: tuple[int, int, int] = (300, 512, 512)
    centers: tuple[tuple[int, int, int], ...] = ((100, 200, 180), (210, 300, 350))
    candidate_count: int = 620  # of 551,065 in 888 scans
    series_count: int = LUNA16_SERIES
    nodule_count: int = LUNA16_NODULES
    crops_in_memory_bytes: int = CROPS_IN_MEMORY_BYTES  # more lie on disk, such as those of 20 times LUNA16
    seeds: int = 3
    loss_samples: int = 160
    loss_slices: int = 4
    peer_scans: int = 6  # that MONAI keeps in memory; with the lists of their voxels 1 GB
    busy_samples: int = 64  # of an epoch, beside other programs
    crowds: tuple[int, ...] = (1, 5)  # of them, for each core
    busy_seconds: float = 10.0  # measured, for each number of them
    settle_seconds: float = 30.0  # at most, until the number of threads is chosen
    chest_slices: tuple[int, ...] = (300, 800)  # of the scans that are searched
    chest_pixels: int = 512
    phantom_slices: int = 75  # that these scans repeat
    evaluated_scans: int = 4


FULL = Sizes()
# For a smoke test, in this process.
SMOKE = Sizes(
    is_separate=False,
    compile="no",
    samples=32,
    val_slices=1,
    rounds=1,
    processes=1,
    gemm_sizes=(64,),
    slice_size=64,
    scan_count=2,
    shape_irc=(12, 96, 96),
    centers=((5, 40, 45), (8, 60, 67)),
    candidate_count=10,
    series_count=20,
    nodule_count=40,
    crops_in_memory_bytes=2**23,
    seeds=2,
    loss_samples=16,
    loss_slices=1,
    busy_samples=16,
    crowds=(1,),
    busy_seconds=0.0,
    settle_seconds=0.0,
    chest_slices=(4,),
    chest_pixels=96,
    phantom_slices=4,
    evaluated_scans=1,
)


@dataclass(frozen=True)
class Setup:
    """A data set, its split, and the amounts of work."""

    data_dir: Path
    cache_dir: Path
    val_stride: int
    sizes: Sizes = FULL

    @property
    def folders(self) -> Folders:
        return Folders(self.data_dir, self.cache_dir)

    @property
    def long_run(self) -> tuple[str, ...]:
        """Return the options of a run that is long enough to be compiled."""
        return "--augmented", "--compile", self.sizes.compile

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return the function's result, from a silent process with memory, threads and settings of its own."""
        if self.sizes.is_separate:
            return in_subprocess(function, *arguments)
        torch.set_num_threads(1)  # more are slower on a busy machine, and nothing is measured
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            return function(*arguments)

    def make_app(self, *options: str) -> SegmentationTrainingApp:
        return SegmentationTrainingApp(
            [
                *("--data-dir", str(self.data_dir), "--cache-dir", str(self.cache_dir)),
                *("--val-stride", str(self.val_stride), "--samples-per-epoch", str(self.sizes.samples)),
                *("--threads", str(torch.get_num_threads()), *options),  # plain PyTorch's number
            ]
        )

    def shorten(self, sample_list: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """Return the slices of the first series, of as many as have `val_slices` together."""
        counts = Counter(series_uid for series_uid, _ in sample_list)
        kept: set[str] = set()
        for series_uid in counts:
            if sum(counts[uid] for uid in kept) < self.sizes.val_slices:
                kept.add(series_uid)
        return [sample for sample in sample_list if sample[0] in kept]


def seconds(function: Callable[..., Any], *arguments: Any, repeat: int = 1) -> float:
    """Measure one call, on average."""
    start = time.perf_counter()
    for _ in range(repeat):
        function(*arguments)
    return (time.perf_counter() - start) / repeat


def open_slices(setup: Setup) -> tuple[Ct, Box]:
    """Read the first scan. Returns: it, and the box of as many of its first slices as are measured."""
    index = ScanIndex(setup.data_dir)
    ct = index.get_ct(index.series_list[0])
    ct.read_ahead(0, ct.shape_irc[0] - 1)
    return ct, make_box((0, 0, 0), (min(setup.sizes.val_slices, ct.shape_irc[0]), *ct.shape_irc[1:]))


# Training and validation


def measure_package(setup: Setup) -> dict[str, list[float]]:
    """Measure rates per second that are compared within one process, and their ratios, round by round.

    The load of a shared machine changes: a ratio is of two measurements in succession.
    """
    keep_freed_memory()
    app, sizes = setup.make_app(*setup.long_run), setup.sizes
    train_ds, val_ds = app.init_train_ds(), app.init_val_ds()
    val_ds.sample_list = setup.shorten(val_ds.sample_list)
    crops, crop_mask = next(train_ds.batches(app.config.batch_size))[:2]
    whole_slice = torch.randn(1, crops.shape[1], sizes.slice_size, sizes.slice_size) * 300 - 600

    def loss_of(logits: torch.Tensor) -> torch.Tensor:
        return segmentation_loss(logits, crop_mask, app.config)[0]

    def step() -> None:
        app.optimizer.zero_grad()
        with app.compute.autocast():
            logits = app.learner.training_model(crops)
        torch.autograd.backward(loss_of(logits).mean())
        app.optimizer.step()

    @torch.inference_mode()
    def forward() -> None:
        with app.compute.autocast():
            app.segmentation_model(whole_slice)

    app.segmentation_model.train()
    step_flops = count_flops(lambda: torch.autograd.backward(loss_of(app.segmentation_model.logits(crops)).mean()))
    step()
    app.segmentation_model.eval()
    forward_flops = count_flops(forward)
    results: defaultdict[str, list[float]] = defaultdict(list)
    app.do_training(0, train_ds)
    app.do_validation(0, val_ds)
    for round_ndx in range(1, sizes.rounds + 1):
        gemm = gemm_flop_rate(app.compute.dtype, sizes.gemm_sizes)
        app.learner.training_model.train()
        step_rate = 1 / seconds(step, repeat=max(1, sizes.samples // len(crops)))
        loop_rate = len(train_ds) / seconds(app.do_training, round_ndx, train_ds)
        app.segmentation_model.eval()
        forward_rate = 1 / seconds(forward, repeat=len(val_ds))
        validation_rate = len(val_ds) / seconds(app.do_validation, round_ndx, val_ds)
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
    """Measure the second epoch and validation: the first ones compile, choose algorithms and record."""
    keep_freed_memory()
    app = setup.make_app("--augmented", "--compile", compile_choice)
    train_ds, val_ds = app.init_train_ds(), app.init_val_ds()
    first_seconds = seconds(app.do_training, 1, train_ds)
    training_seconds = seconds(app.do_training, 2, train_ds)
    app.do_validation(1, val_ds)
    return {
        "first epoch, s": first_seconds,
        "samples/s": len(train_ds) / training_seconds,
        "slices/s": len(val_ds) / seconds(app.do_validation, 2, val_ds),
        "GPU memory, MB": torch.cuda.max_memory_allocated() / 1e6,
    }


def measure_plain(setup: Setup, rounds: int = 1) -> dict[str, list[float]]:
    training, train_ds, val_ds = open_plain(setup)
    results: dict[str, list[float]] = {"loop": [], "validation": []}
    for epoch_ndx in range(1, rounds + 1):
        train_ds.shuffle_samples(epoch_ndx)
        batches = training.train(train_ds)
        first = len(next(batches))  # starts the worker processes, once in an epoch of 300,000 samples
        results["loop"].append((len(train_ds) - first) / seconds(list, batches))
        results["validation"].append(len(val_ds) / seconds(list, training.validate(val_ds)))
    return results


def open_plain(
    setup: Setup,
) -> tuple[plain.PlainTraining, plain.PlainTrainingDataset, plain.PlainValidationDataset]:
    data = plain.PlainData(setup.folders)
    train_ds = plain.PlainTrainingDataset(data, data.split(setup.val_stride, False), setup.sizes.samples)
    val_ds = plain.PlainValidationDataset(data, data.split(setup.val_stride, True))
    val_ds.sample_list = setup.shorten(val_ds.sample_list)
    augmentation = SegmentationAugmentation(flip=True, offset=0.03, scale=0.2, rotate=True, noise=25.0)
    return plain.PlainTraining(augmentation), train_ds, val_ds


def measure_package_memory(setup: Setup) -> tuple[int, int]:
    """Measure the peak memory of training and of validation, in bytes."""
    keep_freed_memory()
    app = setup.make_app(*setup.long_run)
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
    """Return the validation loss after an epoch."""
    keep_freed_memory()
    app = setup.make_app("--augmented", "--precision", precision, "--seed", str(seed))
    val_ds = app.init_val_ds()
    val_ds.sample_list = setup.shorten(val_ds.sample_list)[: setup.sizes.val_slices]
    app.do_training(1, app.init_train_ds())
    return app.do_validation(1, val_ds).loss


def count_flops(function: Callable[[], None]) -> int:
    """Count floating-point operations of convolutions, forward and backward: a multiply-add counts as two."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def gemm_flop_rate(dtype: torch.dtype, sizes: Sequence[int]) -> float:
    """Measure the highest rate of a few matrix sizes, in floating-point operations per second."""
    rates = []
    for size in sizes:
        left, right = torch.randn(2, size, size).to(dtype)
        product = torch.empty(size, size, dtype=dtype)
        repeat = 2 * max(sizes) ** 2 // size**2
        rates.append(2 * size**3 / seconds(partial(torch.mm, out=product), left, right, repeat=repeat))
    return max(rates)


# Cache


def measure_precache(setup: Setup) -> tuple[float, float]:
    """Measure seconds per scan of the package and of plain, each into new folders."""
    series_list = ScanIndex(setup.data_dir).series_list
    package_seconds, plain_seconds = [], []
    with tempfile.TemporaryDirectory(dir=setup.cache_dir.parent) as folder:
        for ndx in range(2):
            folders = Folders(setup.data_dir, Path(folder) / f"package{ndx}")
            arguments = ["--data-dir", str(folders.data_dir), "--cache-dir", str(folders.cache_dir)]
            package_seconds.append(seconds(precache.main, arguments))
            plain_folders = Folders(setup.data_dir, Path(folder) / f"plain{ndx}")
            plain_seconds.append(seconds(plain.precache, plain_folders, series_list))
    return min(package_seconds) / len(series_list), min(plain_seconds) / len(series_list)


def measure_full_size_precache(work_dir: Path, sizes: Sizes) -> tuple[float, float]:
    """Do the same for synthetic scans of LUNA16's size with its number of candidates."""
    series_list = [f"1.2.{ndx}" for ndx in range(sizes.scan_count)]
    write_synthetic_scans(work_dir / "luna", series_list, sizes.shape_irc, sizes.centers, sizes.candidate_count)
    return measure_precache(Setup(work_dir / "luna", work_dir / "cache", val_stride=4))


def measure_cache_bytes_per_nodule(setup: Setup) -> float:
    byte_count = sum(path.stat().st_size for path in setup.cache_dir.rglob("*") if path.is_file())
    index = ScanIndex(setup.data_dir)
    return byte_count / sum(len(index.nodules[uid]) for uid in index.series_list)


def measure_share_of_scan_read(work_dir: Path, sizes: Sizes) -> float:
    """Measure the share of an uncompressed scan with two nodules that the kernel reads from disk.

    Returns: NaN where the kernel counts nothing, since the folder is not on a disk.
    """
    folders = Folders(work_dir / "luna", work_dir / "cache")
    write_synthetic_scans(folders.data_dir, ["1.2.3"], sizes.shape_irc, sizes.centers)
    scan = folders.data_dir / "subset0" / "1.2.3.raw"
    with scan.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = kernel_bytes_read()
    CtCache.open(folders).fill("1.2.3")
    return (kernel_bytes_read() - before) / scan.stat().st_size or math.nan


def kernel_bytes_read() -> int:
    """Count bytes fetched from storage for this process: not pages in memory, but those that are read ahead."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def measure_opening(work_dir: Path, series_count: int) -> float:
    """Measure seconds to open the training and the validation dataset of so many tiny, cached scans."""
    folders = Folders(work_dir / "luna", work_dir / "cache")
    series_list = [f"1.2.{ndx:05d}" for ndx in range(series_count)]
    write_synthetic_scans(folders.data_dir, series_list, shape_irc=(8, 16, 16), centers=[(4, 8, 8)])
    ct_cache = CtCache.open(folders)
    for series_uid in series_list:
        ct_cache.fill(series_uid)

    def open_both() -> None:
        Luna2dSegmentationDataset(10, True, folders=folders)
        TrainingLuna2dSegmentationDataset(10, False, samples_per_epoch=16, folders=folders)

    best = min(seconds(open_both) for _ in range(3))
    shutil.rmtree(work_dir)
    return best


# A data set larger than memory


def measure_large_set(work_dir: Path, nodule_count: int, sizes: Sizes) -> tuple[int, float]:
    """Measure peak resident memory, and samples per second of training on so many synthetic nodules."""
    keep_freed_memory()
    setup = Setup(work_dir / "luna", work_dir / "cache", val_stride=10, sizes=sizes)
    write_many_nodules(setup.data_dir, [f"1.2.{ndx:05d}" for ndx in range(sizes.series_count)], nodule_count)
    app = setup.make_app(*setup.long_run)
    train_ds = TrainingLuna2dSegmentationDataset(
        setup.val_stride,
        is_val_set=False,
        samples_per_epoch=sizes.samples,
        device=app.compute.device,
        sampling=app.config,
        ct_cache=SyntheticCache.open(setup.folders),
        crops_in_memory_bytes=sizes.crops_in_memory_bytes,
    )
    app.do_training(1, train_ds)
    rate = max(sizes.samples / seconds(app.do_training, epoch_ndx, train_ds) for epoch_ndx in (2, 3))
    shutil.rmtree(work_dir)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rate


def measure_help() -> float:
    command = [sys.executable, "-m", "p2ch13.training", "--help"]
    run = partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
    return min(seconds(run) for _ in range(5))
