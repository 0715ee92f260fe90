"""Conversion between probability p and logit log(p / (1 - p)), which still ranks probabilities close to 1."""

from __future__ import annotations

import math


def to_logit(probability: float) -> float:
    """Return the logit of a probability; -inf for 0, inf for 1."""
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1 - probability))


def to_probability(logit: float) -> float:
    """Return the sigmoid of a logit, without overflow."""
    if logit < 0:
        return math.exp(logit) / (1 + math.exp(logit))
    return 1 / (1 + math.exp(-logit))
