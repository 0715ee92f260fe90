"""The checkpoints that are meant by the word `latest`, and by none at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from p2ch13.config import LATEST, MODELS_DIR
from p2ch13.util.errors import InputError
from p2ch13.weights import WEIGHTS, find_weights

BEST_ENDING = ".best.state"


def choose_checkpoints(given: Sequence[Path], weights: Path = WEIGHTS) -> tuple[Path, ...]:
    """Return the paths of checkpoints; without any, that of the network in the package, `weights`.

    Raises: InputError if `latest`, or the network in the package, is not there.
    """
    return tuple(map(find_checkpoint, given)) or (find_weights(weights),)


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
