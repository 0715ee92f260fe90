"""What a .state file says about its network: a card for its users, and the series that it was trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

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
    """Return the card of a .state file that is read; None if it has none.

    Missing fields are empty; unknown ones are ignored. Raises: InputError if it is no dictionary of texts.
    """
    if "card" not in state:
        return None
    card = state["card"]
    if not isinstance(card, Mapping) or not all(isinstance(text, str) for text in card.values()):
        raise InputError("its card is no dictionary of texts; it is corrupt", path=path)
    return Card(**{field.name: " ".join(card.get(field.name, "").split()) for field in fields(Card)})


def log_card(path: Path, card: Card | None) -> None:
    """Say which network is used and what it was trained on, if its file says so."""
    if card is not None:
        log.info(f"Network: {card.name}, trained on {card.trained_on}. {path}")


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
