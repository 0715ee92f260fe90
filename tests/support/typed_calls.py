"""Calls whose types `make check` tells: mypy fails here if it takes one for something else."""

from __future__ import annotations

import p2ch13
import p2ch13.predict  # a module, whose name in the package is also that of a function


def find_in(path: str) -> p2ch13.Prediction:
    return p2ch13.predict(path)


def find_wrongly(path: str) -> int:
    return p2ch13.predict(path)  # type: ignore[return-value]
