"""Which run is gone on with, and with which options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from p2ch13.config import TrainingConfig
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.network.model import UNNAMED_ACTIVATION
from p2ch13.training.options import given_options, parse_config, resume_config
from p2ch13.util.errors import InputError

LAST = "last.state"


class Settings(NamedTuple):
    """Options of a run, and the file and content of what it goes on from; None for a new one."""

    config: TrainingConfig
    path: Path | None = None
    state: dict[str, Any] | None = None


def read_settings(sys_argv: Sequence[str]) -> Settings:
    """What a command line asks for. Raises: InputError if there is nothing to go on from, or not with these options."""
    config = parse_config(sys_argv)
    if config.resume is None:
        return Settings(config)
    path = Path(config.resume) if config.resume else find_latest(config)
    state = load_checkpoint(path)
    if "step" not in state or not isinstance(state.get("config"), dict) or not is_name_part(state.get("time_str")):
        raise InputError(f"{path}: holds a model, but not what is needed to go on with its training; start a new run")
    try:
        saved = TrainingConfig.from_dict({"activation": UNNAMED_ACTIVATION, **state["config"]})
    except InputError as error:
        raise InputError(f"{error}; it is damaged", path=path, option=error.option) from None
    config = resume_config(saved, given_options(sys_argv))
    folder = models_dir_of(config)
    if path.parent.resolve() != folder.resolve():
        raise InputError(
            f"{path}: not in {folder}, where the run keeps its files; say where they are now with --models-dir and "
            "--tb-prefix"
        )
    return Settings(config, path, state)


def is_name_part(text: Any) -> bool:
    """Whether this can be in a file's name, which must not lead elsewhere."""
    return isinstance(text, str) and re.fullmatch(r"[\w.-]+", text) is not None


def find_latest(config: TrainingConfig) -> Path:
    """The last state of the run that was at work last. Raises: InputError if there is none."""
    folder = models_dir_of(config)
    named = config.comment if config.comment != TrainingConfig.comment else None
    paths = find_last_states(folder, named)
    if not paths:
        raise InputError(f"{folder}: no run{f' {named}' if named else ''} to go on with; start one without --resume")
    return paths[0]


def models_dir_of(config: TrainingConfig) -> Path:
    return Path(config.models_dir) / config.tb_prefix


def find_last_states(folder: Path, comment: str | None = None) -> list[Path]:
    """The last states of a folder's runs, of those with a comment if one is named; the newest first."""
    paths = [path for path in folder.glob(f"seg_*.{LAST}") if comment is None or comment_of(path) == comment]
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def comment_of(path: Path) -> str:
    """The comment of the run that a last state is of: what follows its date and time, which are joined by a `_`."""
    return path.name.removesuffix(f".{LAST}").split("_", 3)[-1]
