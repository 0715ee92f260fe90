"""The commands under stress, as a user starts them, and comparisons of their results."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from diskcache.core import DBNAME

from p2ch13.config import TrainingConfig
from p2ch13.training.run_files import find_last_states
from p2ch13.util.disk import get_cache
from stress.report import LostError

REPOSITORY = Path(__file__).parents[1]


def precache_command(data_dir: Path, cache_dir: Path, *options: str) -> list[str]:
    folders = ["--data-dir", str(data_dir), "--cache-dir", str(cache_dir)]
    return [sys.executable, str(REPOSITORY / "precache.py"), *folders, *options]


def training_command(data_dir: Path, cache_dir: Path, models_dir: Path, *options: str) -> list[str]:
    """Return a training's command; its folder for TensorBoard lies beside that of its models."""
    folders = ["--data-dir", str(data_dir), "--cache-dir", str(cache_dir)]
    folders += ["--models-dir", str(models_dir), "--runs-dir", f"{models_dir}-runs"]
    return [sys.executable, "-m", "p2ch13.training", *folders, *options]


def predict_command(checkpoint: Path, scans: Sequence[Path], output: Path) -> list[str]:
    start = [sys.executable, "-m", "p2ch13.predict", "--checkpoint", str(checkpoint)]
    return [*start, *map(str, scans), "--output", str(output)]


def run(command: Sequence[str], expected_status: int = 0) -> str:
    """Run a command to its end. Returns: its output. Raises: LostError for another exit status or a traceback."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY)
    if done.returncode != expected_status or "Traceback" in done.stdout:
        raise LostError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-2000:]}")
    return done.stdout


def time_run(command: Sequence[str]) -> float:
    """Return the seconds that a command takes. Raises: LostError."""
    start = time.monotonic()
    run(command)
    return time.monotonic() - start


def read_values(cache_dir: Path) -> dict[str, list[Any]]:
    """Read all values of a cache. Raises: CorruptEntryError."""
    values: dict[str, list[Any]] = {}
    for database in cache_dir.rglob(DBNAME):
        with get_cache(database.parent) as cache:
            values |= {key: cache.get(key, retry=True) for key in cache.iterkeys()}
    return values


def compare_values(values: dict[str, list[Any]], expected: dict[str, list[Any]]) -> None:
    """Raises: LostError if a value differs from the undisturbed precache's."""
    for key, value in values.items():
        for item, calm in zip(value, expected[key], strict=True):
            if not np.array_equal(item, calm) if isinstance(calm, np.ndarray) else item != calm:
                raise LostError(f"a cached value differs from the undisturbed precache's: {key}")


def compare_caches(cache_dir: Path, expected: dict[str, list[Any]]) -> None:
    """Raises: LostError if a value differs or is missing."""
    values = read_values(cache_dir)
    if set(values) != set(expected):
        raise LostError(f"{len(set(expected) - set(values))} values are missing in the cache")
    compare_values(values, expected)


def find_last(models_dir: Path) -> Path | None:
    return next(iter(find_last_states(models_dir / TrainingConfig.tb_prefix)), None)
