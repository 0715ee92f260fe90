"""The checkpoints that are meant by the word `latest`, by the folder of a cross-validation, and by none at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from p2ch13.config import LATEST, MODELS_DIR
from p2ch13.util.errors import InputError
from p2ch13.weights import WEIGHTS, find_weights

BEST_ENDING = ".best.state"
FOLD_STATE = re.compile(r"fold(\d+)\.state")


def choose_checkpoints(given: Iterable[Path], weights: Path = WEIGHTS) -> tuple[Path, ...]:
    """Return the paths of checkpoints; without any, that of the network in the package, `weights`.

    Raises: InputError if `latest`, or the network in the package, is not there.
    """
    return find_checkpoints(given) or (find_weights(weights),)


def find_checkpoint(path: Path, models_dir: Path = MODELS_DIR) -> Path:
    """Return a checkpoint's path; for `latest`, that of the run whose best model was written last.

    Raises: InputError for `latest` if no run has written one below `models_dir`.
    """
    if str(path) != LATEST:
        return path
    written = [(each.stat().st_mtime_ns, each) for each in models_dir.rglob(f"*{BEST_ENDING}")]
    if not written:
        message = f"no training has written a *{BEST_ENDING} there; train first, or name a .state file"
        raise InputError(message, path=models_dir, option="--checkpoint")
    return max(written)[1]


def find_checkpoints(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the paths of checkpoints, see `find_checkpoint`; for the folder of a cross-validation its networks.

    Raises: InputError for another folder.
    """
    return tuple(each for path in paths for each in (list_folds(path) if path.is_dir() else [find_checkpoint(path)]))


def list_folds(folder: Path) -> list[Path]:
    """List the networks that a cross-validation has written into its folder, by number of the fold."""
    numbers = {int(match[1]): path for path in folder.iterdir() if (match := FOLD_STATE.fullmatch(path.name))}
    if not numbers:
        message = "a folder without a fold0.state or the like of cross-validation; name a .state file"
        raise InputError(message, path=folder, option="--checkpoint")
    return [numbers[number] for number in sorted(numbers)]


def name_fold(folder: Path, number: int) -> Path:
    return folder / f"fold{number}.state"
