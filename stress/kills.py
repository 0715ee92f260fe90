"""Kill precache and training at random moments, again and again, and see that nothing is lost by it.

    python -m stress.kills --count 30 --seed 0

First both run undisturbed. Then a second precache and a second training are killed (SIGKILL) and started again, as a
user would: `precache.py`, and `python -m p2ch13.training --resume` once there is something to go on with. In the end
every cached value and every trained parameter must be, bit for bit, those of the undisturbed ones.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from p2ch13.checkpoint import load_checkpoint
from p2ch13.config import TrainingConfig
from p2ch13.phantom.dataset import write_phantoms
from p2ch13.training.resume import find_last_states
from util.disk import get_cache
from util.options import non_negative_int, positive_int

REPOSITORY = Path(__file__).parents[1]
PRECACHE_SHARE = 1 / 3  # of the kills
TRAINING = (
    *("--preset", "strong", "--depth", "2", "--precision", "fp32", "--val-stride", "2"),
    *("--epochs", "3", "--validation-cadence", "1", "--checkpoint-minutes", "0.005"),
)


class LostError(Exception):
    """Something that should have outlived a kill has not."""


@dataclass
class Tally:
    """What became of the kills of one command."""

    kill_count: int = 0
    done_count: int = 0  # times that it came to its end, and was begun anew
    lost_s: list[float] = field(default_factory=list)  # between the last checkpoint and each kill


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Returns: 1 if anything was lost."""
    args = build_parser().parse_args(sys_argv)
    with tempfile.TemporaryDirectory(dir=args.work_dir) as folder:
        work_dir = Path(folder)
        data_dir = args.data_dir
        if data_dir is None:
            data_dir = work_dir / "scans"
            write_phantoms(data_dir, 6, args.seed, pixels=160, slice_count=40)
        rng = np.random.default_rng(args.seed)
        precache_kills = round(args.count * PRECACHE_SHARE)
        try:
            precache = kill_precache(data_dir, work_dir, precache_kills, rng)
            training = kill_training(data_dir, work_dir, args.samples_per_epoch, args.count - precache_kills, rng)
        except LostError as error:
            print(f"LOST: {error}")
            return 1
    print(format_result(precache, training))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stress.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=positive_int, default=30, help="kills, a third of them of precache")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the moments")
    parser.add_argument("--samples-per-epoch", type=positive_int, default=400, help="of the three epochs of training")
    parser.add_argument("--data-dir", type=Path, help="scans in the LUNA16 layout; invented ones if none are named")
    parser.add_argument("--work-dir", type=Path, help="for a folder that is removed at the end")
    return parser


def kill_precache(data_dir: Path, work_dir: Path, count: int, rng: np.random.Generator) -> Tally:
    """Raises: LostError if a value differs from an undisturbed precache's."""

    def command(cache_dir: Path) -> list[str]:
        folders = ["--data-dir", str(data_dir), "--cache-dir", str(cache_dir)]
        return [sys.executable, str(REPOSITORY / "precache.py"), *folders, "--preset", "strong", "--num-workers", "2"]

    calm_dir, cache_dir = work_dir / "calm-cache", work_dir / "cache"
    duration_s = run(command(calm_dir))
    expected = read_values(calm_dir)
    tally = Tally()
    while tally.kill_count < count:
        if run_and_kill(command(cache_dir), rng.uniform(0, duration_s)):
            tally.kill_count += 1
            compare_values(read_values(cache_dir), expected)
        else:
            tally.done_count += 1
            shutil.rmtree(cache_dir)
    run(command(cache_dir))
    values = read_values(cache_dir)
    if set(values) != set(expected):
        raise LostError(f"{len(set(expected) - set(values))} values are missing in the cache")
    compare_values(values, expected)
    return tally


def kill_training(
    data_dir: Path, work_dir: Path, samples_per_epoch: int, count: int, rng: np.random.Generator
) -> Tally:
    """Raises: LostError if a checkpoint cannot be read or the trained parameters are not those of a calm run."""
    options = [*TRAINING, "--data-dir", str(data_dir), "--cache-dir", str(work_dir / "cache")]
    options += ["--samples-per-epoch", str(samples_per_epoch)]

    def command(name: str) -> list[str]:
        folders = ["--models-dir", str(work_dir / name), "--runs-dir", str(work_dir / f"{name}-runs")]
        start = [sys.executable, "-m", "p2ch13.training", *folders]
        return [*start, "--resume"] if find_last(work_dir / name) else [*start, *options]

    duration_s = run(command("calm"))
    calm_path = find_last(work_dir / "calm")
    if calm_path is None:
        raise LostError("the undisturbed training has left no last.state")
    expected = load_checkpoint(calm_path)
    tally = Tally()
    while tally.kill_count < count:
        name = f"run-{tally.done_count}"
        if not run_and_kill(command(name), rng.uniform(0, duration_s)):
            compare_states(work_dir / name, expected)
            tally.done_count += 1
            continue
        tally.kill_count += 1
        last = find_last(work_dir / name)
        if last is not None:
            tally.lost_s.append(time.time() - last.stat().st_mtime)
        for path in (work_dir / name).rglob("[!.]*.state"):
            load_checkpoint(path)
    run(command(name := f"run-{tally.done_count}"))
    compare_states(work_dir / name, expected)
    tally.done_count += 1
    return tally


def run(command: Sequence[str]) -> float:
    """Run a command to its end. Returns: seconds. Raises: LostError if it fails."""
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY)
    if done.returncode != 0:
        raise LostError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-2000:]}")
    return time.monotonic() - start


def run_and_kill(command: Sequence[str], after_s: float) -> bool:
    """Returns: False if the command was done before. Raises: LostError if it has failed by itself."""
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


def read_values(cache_dir: Path) -> dict[str, list[Any]]:
    """All that a cache holds. Raises: DamagedEntryError."""
    if not cache_dir.exists():
        return {}
    with get_cache(cache_dir) as cache:
        return {key: cache.get(key, retry=True) for key in cache.iterkeys()}


def compare_values(values: dict[str, list[Any]], expected: dict[str, list[Any]]) -> None:
    for key, value in values.items():
        for item, calm in zip(value, expected[key], strict=True):
            if not np.array_equal(item, calm) if isinstance(calm, np.ndarray) else item != calm:
                raise LostError(f"a cached value differs from the undisturbed precache's: {key}")


def find_last(models_dir: Path) -> Path | None:
    return next(iter(find_last_states(models_dir / TrainingConfig.tb_prefix)), None)


def compare_states(models_dir: Path, expected: dict[str, Any]) -> None:
    """The end of a run with that of the undisturbed one; files of killed processes must be gone, too."""
    path = find_last(models_dir)
    state = load_checkpoint(path) if path else {}
    for part in ("model_state", "trained_state"):
        for name, value in expected[part].items():
            if not torch.equal(state[part][name], value):
                raise LostError(f"{path}: {name} is not that of the undisturbed run")
    for key in ("epoch", "best_score", "totalTrainingSamples_count"):
        if state[key] != expected[key]:
            raise LostError(f"{path}: {key} is {state[key]}, and {expected[key]} undisturbed")
    left_over = [file.name for file in models_dir.rglob(".*")]
    if left_over:
        raise LostError(f"{models_dir}: unfinished files are left, {left_over[0]}")


def format_result(precache: Tally, training: Tally) -> str:
    longest_s = max(training.lost_s, default=0.0)
    return "\n".join(
        (
            "| load held | faults injected | survived | lost |",
            "| --------- | --------------: | -------: | ---- |",
            f"| precache, to its end {precache.done_count + 1} times | {precache.kill_count} kills | "
            f"{precache.kill_count} | nothing: all values are those of an undisturbed one |",
            f"| training, {training.done_count} runs to their ends | {training.kill_count} kills | "
            f"{training.kill_count} | at most {longest_s:.1f} s of work each; all parameters bit for bit |",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
