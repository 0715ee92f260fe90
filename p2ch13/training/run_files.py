"""Names of a run's files, and how they are found again."""

from __future__ import annotations

import datetime
import glob
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2ch13.config import BEST_STATE, TrainingConfig
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.util.errors import InputError
from p2ch13.util.files import as_text, make_writable_folder

LAST = "last.state"
CLAIM = "begun"  # ending of an empty file, while a run has no others yet
LAUNCH = "launch"  # ending of the file that names the torchrun which started a run


@dataclass(frozen=True)
class RunFiles:
    """A run's files: `seg_<time_str>_<comment>.<ending>` in a folder."""

    folder: Path
    time_str: str
    comment: str

    @classmethod
    def unused(cls, folder: Path, comment: str) -> RunFiles:
        """Name a run by the time, or by the first second after it in which no other run of this comment was begun."""
        moment = datetime.datetime.now()
        while True:
            files = cls(folder, moment.strftime("%Y-%m-%d_%H.%M.%S"), comment)
            if not files.find("*"):
                return files
            moment += datetime.timedelta(seconds=1)

    @contextmanager
    def claimed(self) -> Iterator[RunFiles]:
        """Inside, no other process has this name: of runs that begin in the same second, all but one take another.

        Yields: the run's files, of the first name that is free. An empty file stands for them until there are some.
        """
        files = self
        while True:
            try:
                files.path(CLAIM).touch(exist_ok=False)
                break
            except FileExistsError:
                files = self.unused(self.folder, self.comment)
        try:
            yield files
        finally:
            files.path(CLAIM).unlink(missing_ok=True)

    def path(self, ending: str) -> Path:
        return self.folder / f"seg_{self.time_str}_{self.comment}.{ending}"

    @property
    def last(self) -> Path:
        return self.path(LAST)

    @property
    def best(self) -> Path:
        return self.path(BEST_STATE)

    @property
    def figure(self) -> Path:
        """The best model's findings, drawn when the run ends."""
        return self.path("best.png")

    def find(self, pattern: str) -> list[Path]:
        """Args: pattern: of the ending, such as `*.state`."""
        return list(self.folder.glob(f"{glob.escape(self.path('').name)}{pattern}"))

    def remove_old(self, keep_count: int) -> None:
        """Keep the newest states of validated epochs: their endings are numbers of samples."""
        prefix = self.path("").name
        counts = (path.name.removeprefix(prefix).removesuffix(".state") for path in self.find("*.state"))
        for count in sorted(int(count) for count in counts if count.isdecimal())[:-keep_count]:
            self.path(f"{count}.state").unlink(missing_ok=True)

    def note_launch(self, launch_id: str | None) -> None:
        """Note the torchrun that started this run, for its restarts.

        The note is an empty file whose name holds both, so that a restart reads no other run's states.
        """
        self.forget_launch()
        if launch_id is not None:
            self.path(f"{launch_id}.{LAUNCH}").touch()

    def forget_launch(self) -> None:
        for path in self.find(f"*.{LAUNCH}"):
            path.unlink(missing_ok=True)

    def is_ahead_of(self, path: Path, state: Mapping[str, Any]) -> bool:
        """Tell whether the run has files that resuming from a state of it would overwrite with others.

        Not from the last state: files saved just before it are the ones that come next again.
        """
        if path.resolve() == self.last.resolve():
            return False
        return any(find_position(other) > position_of(state) for other in self.find("*.state"))

    def find_best_until(self, path: Path, state: Mapping[str, Any]) -> Path | None:
        """Find the run's best model as of a state: that state, if it was the best then, or the best before it."""
        if state["scores"] is not None and state["validations_since_best"] == 0:
            return path
        is_earlier = self.best.exists() and find_position(self.best) <= position_of(state)
        return self.best if is_earlier else None


def models_dir_of(config: TrainingConfig) -> Path:
    return Path(config.models_dir) / config.tb_prefix


def runs_dir_of(config: TrainingConfig) -> Path:
    return Path(config.runs_dir) / config.tb_prefix


def make_folders(config: TrainingConfig) -> None:
    """Create a run's folders before hours of work depend on them. Raises: InputError for one that is not writable."""
    make_writable_folder(models_dir_of(config), "--models-dir")
    make_writable_folder(runs_dir_of(config), "--runs-dir")
    if as_text(config.runs_dir) != str(config.runs_dir):
        message = "TensorBoard writes to no such name (no UTF-8, or a C locale); choose another with --runs-dir"
        raise InputError(message, path=config.runs_dir, option="--runs-dir")


def find_latest(folder: Path, comment: str | None) -> Path:
    """Find the last state of the run that wrote last. Raises: InputError if there is none."""
    paths = find_last_states(folder, comment)
    if not paths:
        named = f" {comment}" if comment else ""
        raise InputError(f"no run{named} to resume; start one without --resume", path=folder)
    return paths[0]


def find_last_states(folder: Path, comment: str | None = None) -> list[Path]:
    """List the last states of a folder's runs, or of those with a comment; the newest first."""
    # A comment may hold a `_` itself: it is all that follows date and time.
    comments = {path: path.name.removesuffix(f".{LAST}").split("_", 3)[-1] for path in folder.glob(f"seg_*.{LAST}")}
    paths = [path for path, own in comments.items() if comment in (None, own)]
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def find_last_of_launch(folder: Path, launch_id: str | None) -> Path | None:
    """Find the last state that an earlier start by the same torchrun wrote."""
    if launch_id is None:
        return None
    ending = f"{launch_id}.{LAUNCH}"
    notes = folder.glob(f"seg_*.{ending}")
    paths = (note.with_name(f"{note.name.removesuffix(ending)}{LAST}") for note in notes)
    return next((path for path in paths if path.exists()), None)


def is_name_part(text: Any) -> bool:
    """Tell whether this can be part of a file's name, which must not lead elsewhere."""
    return isinstance(text, str) and re.fullmatch(r"[\w.-]+", text) is not None


def position_of(state: Mapping[str, Any]) -> tuple[float, float]:
    """Return how far a run had come: finished epochs, and steps of the next one."""
    return state["epoch"], state["step"]


def find_position(path: Path) -> tuple[float, float]:
    """Return how far the run of a .state file had come; infinity for a file that cannot be read, so that it is kept."""
    try:
        return position_of(load_checkpoint(path))
    except (InputError, KeyError):
        return math.inf, math.inf
