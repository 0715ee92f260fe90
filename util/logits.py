"""Between probabilities and logits: log(p / (1 - p)), in which what is nearly certain still has a rank."""

from __future__ import annotations

import math


def to_logit(probability: float) -> float:
    """Args: probability: 0..1, of which the ends are -inf and inf."""
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1 - probability))


def to_probability(logit: float) -> float:
    """The sigmoid, without an overflow for any logit."""
    if logit < 0:
        return math.exp(logit) / (1 + math.exp(logit))
    return 1 / (1 + math.exp(-logit))
