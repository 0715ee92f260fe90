"""Size categories of findings by published rules: measures alone, never advice."""

from __future__ import annotations

from typing import NamedTuple

from p2ch13.detection.measure import Measures


class SizeCategory(NamedTuple):
    """Where a finding's size falls by a rule."""

    rule: str  # with its version
    size: str  # what the rule compares, as it is reported: "7.3 mm", "7 mm"
    category: str  # the borders that it lies between: "6 to under 8 mm, solid"


def lung_rads(measures: Measures) -> SizeCategory:
    """Categorize by Lung-RADS v2022."""
    raise NotImplementedError


def fleischner(measures: Measures) -> SizeCategory:
    """Categorize by the Fleischner Society's guideline of 2017."""
    raise NotImplementedError
