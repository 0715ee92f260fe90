"""Scores by size of the nodules, and errors of their measured sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

from p2ch13.evaluation.scoring import NoduleScore

SIZE_CLASSES = ((0.0, 3.0), (3.0, 6.0), (6.0, 10.0), (10.0, math.inf))  # mm; from the first on, under the second


def summarize_sizes(nodules: Sequence[NoduleScore]) -> dict[str, Any]:
    """Return the errors of volume and surface of all nodules, and of each size class with its other scores."""
    classes = []
    for low, high in SIZE_CLASSES:
        members = [nodule for nodule in nodules if low <= nodule.diameter_mm < high]
        found_count = sum(nodule.is_found for nodule in members)
        dices = [nodule.dice for nodule in members if not math.isnan(nodule.dice)]
        classes.append(
            {
                "from_mm": low,
                "to_mm": None if math.isinf(high) else high,
                "count": len(members),
                "found": found_count,
                "recall": found_count / len(members) if members else None,
                "mean_dice": fmean(dices) if dices else None,
                **summarize_shapes(members),
            }
        )
    return summarize_shapes(nodules) | {"classes": classes}


def summarize_shapes(nodules: Sequence[NoduleScore]) -> dict[str, Any]:
    """Return mean and standard deviation of the relative errors of volumes, and the mean surface distance.

    Nodules without an overlapping finding do not count.
    """
    compared = [nodule for nodule in nodules if not math.isnan(nodule.volume_error)]
    errors = [nodule.volume_error for nodule in compared]
    return {
        "compared": len(compared),
        "volume_bias": fmean(errors) if errors else None,
        "volume_spread": pstdev(errors) if errors else None,
        "mean_surface_distance_mm": fmean(nodule.surface_distance_mm for nodule in compared) if errors else None,
    }


def name_class(low: float, high: float | None) -> str:
    """Name a size class: "under 3 mm", "3 to under 6 mm", "10 mm and more"."""
    if high is None:
        return f"{low:g} mm and more"
    return f"under {high:g} mm" if low == 0 else f"{low:g} to under {high:g} mm"
