"""Train beside programs that use the same cores, and check that training makes use of the rest of their time.

    python -m stress.busy --loops 10

The demo's training runs alternately on one thread of the machine as it is, and beside busy loops. Beside the loops it
has to train at least half as many samples per second of its processor time as on the one thread, which waits for no
other. Threads that wait for preempted threads waste that time (`--threads 2` shows it on two cores).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2ch13.config import AUTO_THREADS
from p2ch13.network.compute import keep_freed_memory
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.util.errors import run_command
from p2ch13.util.options import argument, positive_int
from p2ch13.util.threads import available_cores
from stress.command_line import add_data_dir, add_work_dir, make_parser, run_part
from stress.report import LostError, Row
from stress.scans import write_scans

DEMO_TRAINING = ("--val-stride", "4", "--preset", "strong", "--fn-weight", "0.4")
SCAN_COUNT = 20
BUSY_LOOP = "while True: pass"
EXPECTED_SHARE = 0.5


@dataclass(frozen=True)
class Pace:
    """The speed of a training: samples, seconds, and seconds of processor time."""

    samples: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def __add__(self, other: Pace) -> Pace:
        return Pace(self.samples + other.samples, self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)

    @property
    def per_cpu_s(self) -> float:
        return self.samples / self.cpu_s

    def __str__(self) -> str:
        return f"{self.samples / self.wall_s:.1f} samples/s on {self.cpu_s / self.wall_s:.2f} cores' time"


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Returns: 1 if training made use of less than half of its time."""
    return run_part("busy machine", train_beside_loops, build_parser().parse_args(sys_argv))


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("stress.busy", __doc__)
    parser.add_argument("--loops", dest="loop_count", type=positive_int, default=10, help="busy loops, each a process")
    parser.add_argument("--samples", type=positive_int, default=800, help="samples of each training")
    parser.add_argument("--rounds", type=positive_int, default=2, help="repetitions of both trainings")
    parser.add_argument(
        "--threads",
        type=argument(int, str, low=1, choices=(AUTO_THREADS,)),
        default=AUTO_THREADS,
        help="threads of training: auto or a number",
    )
    add_data_dir(parser)
    add_work_dir(parser)
    return parser


def train_beside_loops(
    loop_count: int,
    samples: int,
    rounds: int,
    threads: int | str = AUTO_THREADS,
    data_dir: Path | None = None,
    work_dir: Path | None = None,
) -> list[Row]:
    """Train in each round on one thread, then beside the loops; on synthetic scans if no folder is given.

    Raises: LostError if training makes use of less than half of its processor time.
    """
    start = time.monotonic()
    keep_freed_memory()
    one_thread = beside = Pace()
    with tempfile.TemporaryDirectory(dir=work_dir) as folder:
        if data_dir is None:
            data_dir = Path(folder) / "scans"
            write_scans(data_dir, SCAN_COUNT, np.random.default_rng(0))
        options = [*DEMO_TRAINING, "--data-dir", str(data_dir), "--cache-dir", str(Path(folder) / "cache")]
        options += ["--samples-per-epoch", str(samples)]
        for _ in range(rounds):
            one_thread += train([*options, "--threads", "1"])
            with busy_loops(loop_count):
                beside += train([*options, "--threads", str(threads)])
    share = beside.per_cpu_s / one_thread.per_cpu_s
    note = f"{beside}; without them, on one thread, {one_thread}: {share:.2f} of the work for the same processor time"
    if share < EXPECTED_SHARE:
        raise LostError(f"beside {loop_count} busy loops: {note}; at least {EXPECTED_SHARE} is expected")
    load = f"the demo's training, {rounds} times {samples:,} samples, {available_cores()} cores"
    faults = f"{loop_count} busy loops beside it"
    return [Row("busy machine", load, faults, rounds, time.monotonic() - start, note=note)]


def train(options: Sequence[str]) -> Pace:
    """Train a new model for an epoch."""
    app = SegmentationTrainingApp(options)
    train_ds = app.init_train_ds()
    wall, cpu = time.perf_counter(), time.process_time()
    app.do_training(1, train_ds)
    return Pace(len(train_ds), time.perf_counter() - wall, time.process_time() - cpu)


@contextmanager
def busy_loops(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    loops: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            loops.append(subprocess.Popen([sys.executable, "-c", BUSY_LOOP]))
        yield loops
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    run_command(main)
