"""What the commands under faults of the system do: small, and the same each time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.util.disk import encode
from stress.commands import find_last, read_values
from stress.report import LostError
from stress.scans import write_scans
from stress.warm import Command, run_first
from tests.support.networks import write_pixel_network

SCAN_COUNT = 2
COMPUTE = ("--precision", "fp32", "--threads", "1")
TRAINING = ("--depth", "1", "--filters", "4", "--samples-per-epoch", "8", "--val-stride", "2")
RESULT_SUFFIXES = (".state", ".csv", ".html", ".json", ".gz", ".png", ".txt")
Results = dict[str, Any]  # what must be the same in the end: name -> value, or a file's content


@dataclass
class Work:
    """A command and its folder.

    Attributes:
        name: for the table; command: its options write into `folder` alone.
        before: a copy of the folder as it is when the command begins, with the results of an earlier run.
        read_results: reads what the command has to leave. Raises: LostError, InputError, CorruptEntryError.
        expected: the results of an undisturbed run; set by `try_undisturbed`.
    """

    name: str
    command: Command
    folder: Path
    before: Path
    read_results: Callable[[], Results]

    def reset(self) -> None:
        self.empty()
        shutil.copytree(self.before, self.folder, dirs_exist_ok=True)

    def empty(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def remove_cache(self) -> None:
        """Do as the message on a corrupt cache says."""
        shutil.rmtree(self.folder / "cache")

    def run_undisturbed(self) -> None:
        """Load the command's libraries, and learn what it has to leave. Raises: LostError."""
        self.reset()
        run_first(self.command)
        self.expected = self.read_results()

    def check(self, what: str) -> None:
        """Raises: LostError if the results are not those of the undisturbed run."""
        results = self.read_results()
        if differing := [name for name in {*results, *self.expected} if results.get(name) != self.expected.get(name)]:
            raise LostError(f"{what}: {len(differing)} results differ, such as {differing[0]}")

    def check_old_or_new(self, what: str, new: dict[str, bytes]) -> None:
        """Raises: LostError if a result is neither that of the earlier run nor that of the command, whole."""
        for path in list_results(self.folder):
            old = self.before / path.relative_to(self.folder)
            whole = [content for content in (new.get(str(path)), read_if_there(old)) if content is not None]
            if path.read_bytes() not in whole:
                raise LostError(f"{what}: {path} is neither old nor new")
        self.check_earlier(what)

    def check_earlier(self, what: str) -> None:
        """Raises: LostError if a result of the earlier run is gone."""
        for old in list_results(self.before):
            if not (self.folder / old.relative_to(self.before)).is_file():
                raise LostError(f"{what}: {old.name} of the earlier run is gone")

    def check_nothing_lost(self, what: str) -> None:
        """Raises: LostError if a result of the earlier run is gone, or an unfinished file is left."""
        self.check_earlier(what)
        if left := list(self.folder.rglob(".*.tmp.*")):
            raise LostError(f"{what}: {left[0]} is left")


def prepare_work(folder: Path, watched: Path) -> list[Work]:
    """Write scans, and prepare precache, training and prediction: each begins where the one before has ended."""
    data_dir = folder / "scans"
    scan, *_ = write_scans(data_dir, SCAN_COUNT, np.random.default_rng(0)).values()
    networks = [write_pixel_network(folder / f"{hu}.state", hu, weight=0.1, bias=-5) for hu in (-700, -100)]
    cached = ["--data-dir", str(data_dir), "--cache-dir", str(watched / "cache")]
    models, found = watched / "models", watched / "found"
    folders = ["--models-dir", str(models), "--runs-dir", str(watched / "runs")]
    precache = ["precache", *cached, "--num-workers", "1"]
    train = ["train", *cached, *folders, *TRAINING, *COMPUTE]
    predicts = [
        ["predict", str(scan), "--checkpoint", str(network), "--output", str(found), "--no-lung-mask", *COMPUTE]
        for network in networks
    ]
    readers = (
        lambda: read_cache(watched / "cache"),
        lambda: read_run(models),
        lambda: {path.name: path.read_bytes() for path in found.iterdir()},
    )
    works = []
    watched.mkdir()
    for name, command, earlier, read in zip(
        ("precache", "training", "predict"),
        (precache, train, predicts[0]),
        (None, train, predicts[1]),
        readers,
        strict=True,
    ):
        if earlier is not None:
            run_first(earlier)
        before = folder / f"before-{name}"
        shutil.copytree(watched, before)
        works.append(work := Work(name, command, watched, before, read))
        work.run_undisturbed()
    return works


def list_results(folder: Path) -> list[Path]:
    """List a folder's results, without unfinished files, which are hidden."""
    paths = [path for path in folder.rglob("*") if path.suffix in RESULT_SUFFIXES]
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def read_if_there(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def read_cache(cache_dir: Path) -> Results:
    """Read the encoded values by key."""
    return {key: encode(value) for key, value in read_values(cache_dir).items()}


def read_run(models_dir: Path) -> Results:
    """Read the parameters of the run that wrote last, and check that all files of all runs can be read."""
    for path in models_dir.rglob("[!.]*.state"):
        load_checkpoint(path)
    last = find_last(models_dir)
    if last is None:
        raise LostError(f"{models_dir}: no run")
    state = load_checkpoint(last)
    return {"epoch": state["epoch"], **{name: value.numpy().tobytes() for name, value in state["model_state"].items()}}
