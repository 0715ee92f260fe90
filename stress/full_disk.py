"""Let the disk run full under precache, training and prediction: each must end in one line and corrupt nothing.

    python -m stress.full_disk --count 5 --seed 0

As root the disk is a small tmpfs that a file fills up to a random rest; otherwise a limit on the size of files
(RLIMIT_FSIZE) replaces it. After each failure there is room again, and the same command must finish.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.util.errors import run_command
from p2ch13.util.options import non_negative_int, positive_int
from p2ch13.util.progress import progress_bar
from stress.command_line import add_data_dir, add_work_dir, make_parser, run_part
from stress.commands import (
    REPOSITORY,
    compare_caches,
    find_last,
    precache_command,
    predict_command,
    read_values,
    training_command,
)
from stress.report import LostError, Row
from stress.scans import write_scans

DISK_BYTES = 2**26
SCAN_COUNT = 8
PRECACHE = ("--preset", "strong", "--num-workers", "1")
TRAINING = (
    *("--preset", "strong", "--depth", "2", "--val-stride", "2", "--samples-per-epoch", "32", "--precision", "fp32"),
    *("--validation-cadence", "1", "--no-warm-up-cosine"),
)


@dataclass
class Disk:
    """A folder with limited room.

    Attributes: `is_mounted`: whether it is a disk of its own; if not, the size of files is limited.
    """

    folder: Path
    is_mounted: bool

    def run(self, command: Sequence[str], free_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command with that much room; None: all of it."""
        filler = self.folder / "filler"
        limit = None
        if free_bytes is not None and self.is_mounted:
            with filler.open("wb") as file, contextlib.suppress(OSError):
                used = sum(path.stat().st_blocks * 512 for path in self.folder.rglob("*"))
                file.write(bytes(max(0, DISK_BYTES - used - free_bytes)))
        elif free_bytes is not None:
            limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (free_bytes, free_bytes))
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, preexec_fn=limit)
        filler.unlink(missing_ok=True)
        return done

    def run_full(self, command: Sequence[str], free_bytes: int) -> bool:
        """Run a command. Returns: whether the disk ran full. Raises: LostError if that did not end in one line."""
        done = self.run(command, free_bytes)
        if done.returncode == 0:
            return False
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        if done.returncode != 2 or len(errors) != 1 or "Traceback" in done.stderr:
            raise LostError(f"{free_bytes} bytes, {' '.join(command)}: status {done.returncode}, {done.stderr[-2000:]}")
        hidden = list(self.folder.rglob(".*.tmp.*"))
        if hidden:
            raise LostError(f"{hidden[0]}: a temporary file is left")
        return True

    def run_to_end(self, command: Sequence[str]) -> None:
        """Run a command with all the room. Raises: LostError if it fails."""
        done = self.run(command)
        if done.returncode != 0:
            raise LostError(f"{' '.join(command)}: status {done.returncode}, {done.stderr[-2000:]}")


@contextlib.contextmanager
def open_disk(folder: Path) -> Iterator[Disk]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        is_mounted = False
    try:
        yield Disk(folder, is_mounted)
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Returns: 1 if a command failed otherwise, or something was lost."""
    return run_part("full disk", fill_all, build_parser().parse_args(sys_argv))


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("stress.full_disk", __doc__)
    parser.add_argument("--count", type=positive_int, default=5, help="full disks for each of the three commands")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the remaining room")
    add_data_dir(parser)
    add_work_dir(parser)
    return parser


def fill_all(count: int, seed: int, data_dir: Path | None = None, work_dir: Path | None = None) -> list[Row]:
    """Fill the disk `count` times under each of the three commands; without a folder, on synthetic scans.

    Raises: LostError.
    """
    rng = np.random.default_rng(seed)
    rows = []
    with tempfile.TemporaryDirectory(dir=work_dir) as folder, open_disk(Path(folder) / "disk") as disk:
        if data_dir is None:
            data_dir = Path(folder) / "scans"
            write_scans(data_dir, SCAN_COUNT, rng)
        kind = "disks" if disk.is_mounted else "limits on the size of files"
        for name, fill in {"precache": fill_precache, "training": fill_training, "predict": fill_predict}.items():
            start = time.monotonic()
            full_count = fill(disk, data_dir, count, rng)
            faults = f"{count} {kind}, {full_count} ran full"
            load = "run into it, then to its end"
            rows.append(Row(f"full disk under {name}", load, faults, count, time.monotonic() - start))
    return rows


def fill_each(count: int, rng: np.random.Generator, needed_bytes: int, run_full: Callable[[int], bool]) -> int:
    """Run `count` times with less room than needed. Returns: how often the disk ran full."""
    full_count = 0
    with progress_bar(count, "Filling disks", "disk") as bar:
        for _ in range(count):
            full_count += run_full(int(rng.uniform(0, needed_bytes)))
            bar.update()
    return full_count


def fill_precache(disk: Disk, data_dir: Path, count: int, rng: np.random.Generator) -> int:
    """Raises: LostError if a value differs from those of a precache with enough room."""
    cache_dir, other_dir = disk.folder / "cache", disk.folder / "other"
    disk.run_to_end(precache_command(data_dir, cache_dir, *PRECACHE))
    expected = read_values(cache_dir)
    needed_bytes = measure(cache_dir)

    def run_full(free_bytes: int) -> bool:
        command = precache_command(data_dir, other_dir, *PRECACHE)
        is_full = disk.run_full(command, free_bytes)
        disk.run_to_end(command)
        compare_caches(other_dir, expected)
        subprocess.run(["rm", "-r", str(other_dir)], check=True)
        return is_full

    return fill_each(count, rng, needed_bytes, run_full)


def fill_training(disk: Disk, data_dir: Path, count: int, rng: np.random.Generator) -> int:
    """Raises: LostError if the last checkpoint has changed, or the run does not resume from it."""
    models_dir = disk.folder / "models"
    start = training_command(data_dir, disk.folder / "cache", models_dir)
    disk.run_to_end([*start, *TRAINING, "--epochs", "1"])
    needed_bytes = measure(models_dir) + measure(Path(f"{models_dir}-runs"))
    epochs = [1]

    def run_full(free_bytes: int) -> bool:
        path = find_last(models_dir)
        assert path is not None
        before = path.read_bytes()
        epochs[0] += 1
        go_on = [*start, "--resume", "--epochs", str(epochs[0])]
        is_full = disk.run_full(go_on, free_bytes)
        if is_full and path.read_bytes() != before and load_checkpoint(path)["epoch"] != epochs[0]:
            raise LostError(f"{path}: the checkpoint has changed")
        disk.run_to_end(go_on)
        state = load_checkpoint(path)
        if state["epoch"] != epochs[0] or not all(torch.isfinite(x).all() for x in state["model_state"].values()):
            raise LostError(f"{path}: not of the end of epoch {epochs[0]}")
        return is_full

    return fill_each(count, rng, needed_bytes, run_full)


def fill_predict(disk: Disk, data_dir: Path, count: int, rng: np.random.Generator) -> int:
    """Raises: LostError if an output is incomplete."""
    path, output = find_last(disk.folder / "models"), disk.folder / "found"
    assert path is not None
    command = predict_command(path, [next(data_dir.glob("subset*/*.mhd"))], output)
    disk.run_to_end(command)
    expected = {file.name: file.read_bytes() for file in output.iterdir()}
    needed_bytes = measure(output)

    def run_full(free_bytes: int) -> bool:
        subprocess.run(["rm", "-r", str(output)], check=True)
        is_full = disk.run_full(command, free_bytes)
        for file in output.iterdir() if output.exists() else ():
            if file.read_bytes() != expected[file.name]:
                raise LostError(f"{file}: incomplete")
        disk.run_to_end(command)
        return is_full

    return fill_each(count, rng, needed_bytes, run_full)


def measure(folder: Path) -> int:
    """Return the bytes on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    run_command(main)
