"""What a .state file says about its network: a card for its users, and the series that it was trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from p2ch13.phantom.uids import is_phantom
from p2ch13.util.errors import InputError

log = logging.getLogger(__name__)

TRAINED_SERIES = "trained_series"  # key of a released network's file: all series that any part of it was trained on

TRAINED_MODES = ("trn", "init", "backgrounds")  # of the series that a training run's file lists


@dataclass(frozen=True)
class Card:
    """What a network's user has to know, each in a few words of one line; the file's key is `card`."""

    name: str = ""
    trained_on: str = ""
    limits: str = ""
    operating_point: str = ""


def read_card(path: Path, state: Mapping[str, Any]) -> Card | None:
    """Return the card of a .state file that is read, or what a training run's file says; None if it says nothing.

    Missing fields are empty; unknown ones are ignored. Raises: InputError if it is no dictionary of texts.
    """
    if "card" not in state:
        return describe_run(state)
    card = state["card"]
    if not isinstance(card, Mapping) or not all(isinstance(text, str) for text in card.values()):
        raise InputError("its card is no dictionary of texts; it is corrupt", path=path)
    return Card(**{field.name: " ".join(card.get(field.name, "").split()) for field in fields(Card)})


def describe_run(state: Mapping[str, Any]) -> Card | None:
    """Return a card without name of a training run's file; None of a file that names no series, such as the book's."""
    series, config = state.get("series"), state.get("config")
    if not isinstance(series, Mapping) or not isinstance(config, Mapping):
        return None
    lists = {mode: each for mode in TRAINED_MODES if isinstance(each := series.get(mode), list)}
    annotated = {str(uid) for mode in ("trn", "init") for uid in lists.get(mode, ())}
    lungs = len(lists.get("backgrounds", ()))
    if not annotated:
        return None
    phantom_count = sum(map(is_phantom, annotated))
    parts = {
        "synthetic scans (phantoms)": phantom_count,
        "annotated scans": len(annotated) - phantom_count,
        "lungs with painted nodules": lungs,
    }
    named = " and ".join(f"{count} {name}" for name, count in parts.items() if count)
    is_synthetic = phantom_count == len(annotated) and not lungs
    recipe = f", by the recipe {config['preset']}" if "preset" in config else ""
    return Card(
        trained_on=f"{named}{' alone' if is_synthetic else ''}{recipe}",
        limits="it has seen no real lung: expect many false positives in real CT" if is_synthetic else "",
    )


def log_card(path: Path, card: Card | None) -> None:
    """Say which network is used and what it was trained on; of a run's own network what to expect of it, too."""
    if card is None:
        log.info(f"Network: {path}, which does not say what it was trained on.")
        return
    expected = f"; {card.limits}" if card.limits and not card.name else ""
    log.info(f"Network: {card.name or path.stem}, trained on {card.trained_on}{expected}. {path}")


def read_trained_series(path: Path, state: Mapping[str, Any]) -> frozenset[str]:
    """Return the series UIDs that a network, or one that it began from, was trained on.

    Raises: InputError if they are no lists.
    """
    try:
        series = state.get("series", {})
        lists = [*(series.get(mode, []) for mode in TRAINED_MODES), state.get(TRAINED_SERIES, [])]
        if not all(isinstance(each, list) for each in lists):
            raise TypeError("no lists")
        return frozenset(str(series_uid) for each in lists for series_uid in each)
    except (AttributeError, TypeError):
        raise InputError("its series are no lists; it is corrupt", path=path) from None
