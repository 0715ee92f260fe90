"""Kill precache and training at random moments, again and again, and check that nothing is lost.

    python -m stress.kills --count 30 --seed 0

First both run undisturbed. Then a second precache and a second training are killed (SIGKILL) and restarted, as a user
would: `precache.py`, and `python -m p2ch13.training --resume` once there is a state to resume. In the end every cached
value and every trained parameter must equal, bit for bit, those of the undisturbed ones.

Each moment is drawn from the length of the undisturbed run. A run that ends earlier, because it resumed a killed one,
counts as no kill, and the next one begins anew.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.util.errors import run_command
from p2ch13.util.options import non_negative_int, positive_int
from p2ch13.util.progress import progress_bar
from stress import SAMPLES_PER_EPOCH
from stress.command_line import add_data_dir, add_work_dir, make_parser, run_part
from stress.commands import (
    REPOSITORY,
    compare_caches,
    compare_values,
    find_last,
    precache_command,
    read_values,
    run,
    time_run,
    training_command,
)
from stress.report import LostError, Row
from stress.scans import write_scans

PRECACHE_SHARE = 1 / 3  # of the kills
SCAN_COUNT = 100
TRAINING = (
    *("--preset", "strong", "--depth", "2", "--precision", "fp32", "--val-stride", "10"),
    *("--threads", "1"),  # sums depend on it
    *("--epochs", "3", "--validation-cadence", "1", "--checkpoint-minutes", "0.005"),
)


@dataclass
class Tally:
    """Results of the kills of one command."""

    kill_count: int = 0
    hit_count: int = 0  # kills when some of the work was done, but not all
    done_count: int = 0  # runs that finished
    longest_lost_s: float = 0.0  # between a kill and the checkpoint before it


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Returns: 1 if anything was lost."""
    return run_part("kills", kill_all, build_parser().parse_args(sys_argv))


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("stress.kills", __doc__)
    parser.add_argument("--count", type=positive_int, default=30, help="kills, a third of them of precache")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the random moments")
    parser.add_argument(
        "--samples-per-epoch", type=positive_int, default=SAMPLES_PER_EPOCH, help="in each of three epochs"
    )
    add_data_dir(parser)
    add_work_dir(parser)
    return parser


def kill_all(
    count: int,
    seed: int,
    samples_per_epoch: int = SAMPLES_PER_EPOCH,
    data_dir: Path | None = None,
    work_dir: Path | None = None,
) -> list[Row]:
    """Spend a third of the kills on precache, the others on training, on synthetic scans if no folder is given.

    Raises: LostError.
    """
    rng = np.random.default_rng(seed)
    precache_kills = round(count * PRECACHE_SHARE)
    with tempfile.TemporaryDirectory(dir=work_dir) as folder:
        if data_dir is None:
            data_dir = Path(folder) / "scans"
            write_scans(data_dir, SCAN_COUNT, rng)
        start = time.monotonic()
        precache = kill_precache(data_dir, Path(folder), precache_kills, rng)
        middle = time.monotonic()
        training = kill_training(data_dir, Path(folder), samples_per_epoch, count - precache_kills, rng)
        end = time.monotonic()
    return [
        Row(
            "kills of precache",
            f"{precache.done_count + 1} runs to the end",
            f"{precache.kill_count} SIGKILL, {precache.hit_count} of them on a partly filled cache",
            precache.kill_count,
            middle - start,
            note="values equal those of an undisturbed one",
        ),
        Row(
            "kills of training",
            f"{training.done_count} runs to the end",
            f"{training.kill_count} SIGKILL, {training.hit_count} of them after a new checkpoint",
            training.kill_count,
            end - middle,
            note=f"parameters bit for bit, at most {training.longest_lost_s:.1f} s of work each",
        ),
    ]


def kill_precache(data_dir: Path, work_dir: Path, count: int, rng: np.random.Generator) -> Tally:
    """Raises: LostError if a value differs from an undisturbed precache's."""

    def command(cache_dir: Path) -> list[str]:
        return precache_command(data_dir, cache_dir, "--preset", "strong", "--num-workers", "2")

    calm_dir, cache_dir = work_dir / "calm-cache", work_dir / "cache"
    duration_s = time_run(command(calm_dir))
    expected = read_values(calm_dir)
    tally = Tally()
    with progress_bar(count, "Killing precache", "kill") as bar:
        while tally.kill_count < count:
            if run_and_kill(command(cache_dir), rng.uniform(0, duration_s)):
                tally.kill_count += 1
                bar.update()
                compare_values(values := read_values(cache_dir), expected)
                tally.hit_count += 0 < len(values) < len(expected)
            else:
                tally.done_count += 1
                shutil.rmtree(cache_dir)
    run(command(cache_dir))
    compare_caches(cache_dir, expected)
    return tally


def kill_training(
    data_dir: Path, work_dir: Path, samples_per_epoch: int, count: int, rng: np.random.Generator
) -> Tally:
    """Raises: LostError if a checkpoint cannot be read or the trained parameters are not those of a calm run."""
    start = (*TRAINING, "--samples-per-epoch", str(samples_per_epoch))

    def command(name: str) -> list[str]:
        options = ("--resume",) if find_last(work_dir / name) else start
        return training_command(data_dir, work_dir / "cache", work_dir / name, *options)

    duration_s = time_run(command("calm"))
    calm_path = find_last(work_dir / "calm")
    if calm_path is None:
        raise LostError("the undisturbed training wrote no last.state")
    expected = load_checkpoint(calm_path)
    tally = Tally()
    with progress_bar(count, "Killing training", "kill") as bar:
        while tally.kill_count < count:
            name = f"run-{tally.done_count}"
            before = find_time(work_dir / name)
            if not run_and_kill(command(name), rng.uniform(0, duration_s)):
                compare_states(work_dir / name, expected)
                tally.done_count += 1
                continue
            tally.kill_count += 1
            bar.update()
            saved = find_time(work_dir / name)
            if saved != before:  # else it was still starting
                tally.hit_count += 1
                tally.longest_lost_s = max(tally.longest_lost_s, time.time() - saved)
            for path in (work_dir / name).rglob("[!.]*.state"):
                load_checkpoint(path)
    run(command(name := f"run-{tally.done_count}"))
    compare_states(work_dir / name, expected)
    tally.done_count += 1
    return tally


def run_and_kill(command: Sequence[str], after_s: float) -> bool:
    """Returns: False if the command finished earlier. Raises: LostError if it failed by itself."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY)
        try:
            status = process.wait(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True
        if status != 0:
            output.seek(0)
            raise LostError(f"{' '.join(command)} ended with {status}: {output.read()[-2000:]}")
    return False


def find_time(models_dir: Path) -> float:
    """Return the time of the last checkpoint, in seconds; 0 if there is none."""
    path = find_last(models_dir)
    return path.stat().st_mtime if path else 0.0


def compare_states(models_dir: Path, expected: dict[str, Any]) -> None:
    """Compare the last states of a run and of the undisturbed one. Raises: LostError, also for leftover files."""
    path = find_last(models_dir)
    state = load_checkpoint(path) if path else {}
    for part in ("model_state", "trained_state"):
        for name, value in expected[part].items():
            if not torch.equal(state[part][name], value):
                raise LostError(f"{path}: {name} differs from the undisturbed run's")
    for key in ("epoch", "best_score", "totalTrainingSamples_count"):
        if state[key] != expected[key]:
            raise LostError(f"{path}: {key} is {state[key]}, and {expected[key]} undisturbed")
    left_over = [file.name for file in models_dir.rglob(".*")]
    if left_over:
        raise LostError(f"{models_dir}: unfinished files remain, {left_over[0]}")


if __name__ == "__main__":
    run_command(main)
