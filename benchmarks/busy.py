"""Measure the strong preset's training loop beside other programs that keep the cores busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count as count_up
from typing import NamedTuple

from benchmarks.measure import Setup
from p2ch13.network.compute import get_thread_limit, keep_freed_memory
from p2ch13.util.threads import ThreadTuner, available_cores
from stress.busy import busy_loops


class Rate(NamedTuple):
    """A rate of the training loop.

    Attributes:
        settled_s: seconds before, until the number of threads was chosen.
        threads: their number.
        cores_used: processor seconds that this process got in each second, those of waiting threads included.
    """

    samples_per_s: float
    settled_s: float
    threads: int
    cores_used: float

    def __str__(self) -> str:
        return (
            f"{self.samples_per_s:.1f} samples/s with {self.threads} threads, chosen within {self.settled_s:.1f} s, "
            f"and {self.cores_used:.2f} cores"
        )


class BusyRates(NamedTuple):
    """Rates of the loop on a quiet machine, beside some numbers of busy programs, and when it is quiet again."""

    before: Rate
    beside: dict[int, Rate]
    after: Rate
    threads: int  # most that it computes with
    cores: int

    def share_reached(self, busy: int) -> float:
        """Compute the rate beside so many busy programs / (quiet rate x the share of the processor that is left)."""
        left = share_left(busy, self.threads, self.cores)
        return self.beside[busy].samples_per_s / (self.before.samples_per_s * left)


def measure_busy(setup: Setup) -> BusyRates:
    """Measure the loop with `--threads auto`.

    Nothing is compiled: the choice of threads is what is measured, and compiling takes longer than all of this. The
    other programs are children of this process: systems that divide the processor between users or sessions first do it
    thread by thread here too.
    """
    keep_freed_memory()
    sizes = setup.sizes
    app = setup.make_app(
        *("--preset", "strong", "--compile", "no", "--threads", "auto", "--epochs", "9999"),
        *("--samples-per-epoch", str(sizes.busy_samples)),
    )
    train_ds = app.init_train_ds()
    epochs = count_up(1)

    def train() -> int:
        app.do_training(next(epochs), train_ds)
        return len(train_ds)

    def measure(is_expected: Callable[[int], bool]) -> Rate:
        return measure_rate(train, app.learner.train_threads, is_expected, sizes.busy_seconds, sizes.settle_seconds)

    threads, cores = get_thread_limit(), available_cores()
    before, beside = measure(lambda count: True), {}
    for busy in (crowd * cores for crowd in sizes.crowds):
        with busy_loops(busy):
            beside[busy] = measure(lambda count: count <= max(1, threads // 2))
    return BusyRates(before, beside, measure(lambda count: count == before.threads), threads, cores)


def measure_rate(
    train: Callable[[], int],
    tuner: ThreadTuner,
    is_expected: Callable[[int], bool],
    seconds: float,
    settle_seconds: float,
) -> Rate:
    """Measure the loop for some seconds, once its number of threads is chosen and an expected one.

    Args: train: returns how many samples it trained on; settle_seconds: waited for such a number, at most.
    """
    start = time.monotonic()
    train()
    while not (tuner.is_settled and is_expected(tuner.count)) and time.monotonic() - start < settle_seconds:
        train()
    settled_s = time.monotonic() - start
    start, own_start, samples = time.monotonic(), time.process_time(), 0
    while (elapsed := time.monotonic() - start) < seconds or not samples:
        samples += train()
    return Rate(samples / elapsed, settled_s, tuner.count, (time.process_time() - own_start) / elapsed)


def share_left(busy: int, threads: int, cores: int) -> float:
    """Return the share of its processor time on a quiet machine that is left to a program, beside `busy` other threads.

    The system divides the cores equally among the threads that want one: `threads` of ours, which have a core each on a
    quiet machine, get `threads` of `busy + threads` parts of all cores. A program that takes fewer threads, so that
    none waits for another, gets less than this.
    """
    return min(1.0, cores / (busy + threads))
