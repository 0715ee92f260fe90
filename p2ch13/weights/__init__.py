"""The network that comes with the package, in one .state file, and its model card.

`predict`, `evaluate` and `export` use it if no checkpoint is given; nothing else in the package depends on it.
"""

from __future__ import annotations

from pathlib import Path

from p2ch13.util.errors import InputError

WEIGHTS = Path(__file__).with_name("nodules.state")
MODEL_CARD = Path(__file__).with_name("model-card.md")


def find_weights(path: Path = WEIGHTS) -> Path:
    """Return the path of the package's .state file. Raises: InputError if this installation lacks it."""
    if not path.is_file():
        message = "this installation has no network; train it with `make weights`, or name a file with --checkpoint"
        raise InputError(message, path=path, option="--checkpoint")
    return path
