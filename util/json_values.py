"""Values that JSON has."""

from __future__ import annotations

import math
from typing import Any


def only_finite(value: Any) -> Any:
    """Replace NaN and infinities in lists, tuples and dicts by None: JSON has none of them."""
    if isinstance(value, dict):
        return {key: only_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [only_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
