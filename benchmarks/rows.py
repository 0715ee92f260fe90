"""Rows of a benchmark's table: a figure, its target, and whether it is met."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.machine import CPU
from p2ch13.evaluation.report import format_table
from p2ch13.network.compute import get_dtype


@dataclass(frozen=True)
class Row:
    """A line of the table. The target is met by a `value` of at most, or with `at_least` of at least `target`.

    Attributes: value: None if this machine cannot show it; target: None for a rate, which is for information.
    """

    name: str
    value: float | None
    target: float | None = None
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """None without a value or a target."""
        if self.value is None or self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "target": self.target,
            "at_least": self.at_least,
            "met": self.met,
        }

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """What the table shows: name, value, target and whether it is met."""
        value = "-" if self.value is None else show(self.value)
        target = "" if self.target is None else f"{'>=' if self.at_least else '<='} {show(self.target)}"
        return self.name, value, target, {True: "yes", False: "no", None: "-"}[self.met]


def show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def for_processor(bfloat16: float, float32: float) -> float:
    """Choose the target for what this processor computes in, see `get_dtype`."""
    return {torch.bfloat16: bfloat16, torch.float32: float32}[get_dtype("auto", CPU)]


def ratio(value: float | None, base: float | None) -> float | None:
    """Divide, unless one of both was not measured."""
    return None if value is None or base is None else value / base


def count_met(rows: Iterable[Row]) -> str:
    """Say how many targets are met, and how many could not be shown."""
    met = [row.met for row in rows if row.target is not None]
    unknown = f", {met.count(None)} not measured" if None in met else ""
    return f"{met.count(True)} of {len(met)} targets met{unknown}"


def print_rows(rows: Sequence[Row], machine: str) -> None:
    """Print a table in Markdown."""
    print(f"\n{machine}\n\n{format_table([('figure', 'value', 'target', 'met'), *(row.cells for row in rows)])}\n")
