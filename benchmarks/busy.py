"""Measure the strong preset's training loop beside other programs that keep the cores busy."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import NamedTuple

from benchmarks.measure import Setup
from p2ch13.network.compute import get_thread_limit, keep_freed_memory
from p2ch13.util.threads import ThreadTuner, available_cores

CROWDS = (1, 5)  # busy programs for each core
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"  # ends with this process


class Rate(NamedTuple):
    """A rate of the training loop.

    Attributes: samples_per_s; settled_s, seconds until the number of threads was chosen; threads, the number;
        processor_share, of all cores, which this process got.
    """

    samples_per_s: float
    settled_s: float
    threads: int
    processor_share: float


def measure_busy(setup: Setup) -> dict[str, Rate]:
    """Measure the loop on a quiet machine, among each of `CROWDS`, and when it is quiet again.

    Nothing is compiled: the choice of threads is what is measured, and compiling takes longer than all of this.

    Returns: "before", the number of busy programs for each core, "after" -> the loop's rate.
    """
    keep_freed_memory()
    sizes = setup.sizes
    app = setup.make_app(
        *("--preset", "strong", "--compile", "no", "--threads", "auto", "--epochs", "9999"),
        *("--samples-per-epoch", str(sizes.busy_samples)),
    )
    train_ds = app.init_train_ds()
    epochs = count(1)

    def train() -> int:
        app.do_training(next(epochs), train_ds)
        return len(train_ds)

    def measure(threads: int) -> Rate:
        return measure_rate(train, app.learner.train_threads, threads, sizes.busy_seconds, sizes.settle_seconds)

    all_threads = get_thread_limit()
    results = {"before": measure(all_threads)}
    for crowd in CROWDS:
        with busy_programs(crowd * available_cores()):
            results[str(crowd)] = measure(1)
    return {**results, "after": measure(all_threads)}


@contextmanager
def busy_programs(number: int) -> Iterator[None]:
    """Inside, so many programs compute all the time."""
    programs = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(number)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def measure_rate(
    train: Callable[[], int], tuner: ThreadTuner, threads: int, seconds: float, settle_seconds: float
) -> Rate:
    """Measure the loop for some seconds, once its number of threads is the expected one.

    Args: train: returns how many samples it trained on; threads: expected; settle_seconds: waited for them at most.
    """
    start = time.monotonic()
    train()
    while (tuner.count != threads or not tuner.is_settled) and time.monotonic() - start < settle_seconds:
        train()
    settled_s = time.monotonic() - start
    start, own_start, samples = time.monotonic(), time.process_time(), 0
    while (elapsed := time.monotonic() - start) < seconds or not samples:
        samples += train()
    share = (time.process_time() - own_start) / elapsed / available_cores()
    return Rate(samples / elapsed, settled_s, tuner.count, share)


def share_left(crowd: float) -> float:
    """Return the share of the processor that is left to a program with a thread on each core.

    The system divides a core's time equally among the threads that want it; beside `crowd` other ones on each core,
    one of `1 + crowd` is ours.
    """
    return 1 / (1 + crowd)
