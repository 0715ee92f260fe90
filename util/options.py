"""Types of command line options, for argparse."""

from __future__ import annotations

import argparse
import math


def positive_int(text: str) -> int:
    return int_from(1, text)


def non_negative_int(text: str) -> int:
    return int_from(0, text)


def int_from(minimum: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < minimum:
        raise argparse.ArgumentTypeError(f"{value} is less than {minimum}")
    return value


def non_negative_float(text: str) -> float:
    return float_between(0.0, math.inf, text)


def probability(text: str) -> float:
    return float_between(0.0, 1.0, text)


def float_between(minimum: float, maximum: float, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not minimum <= value <= maximum:
        raise argparse.ArgumentTypeError(f"{value:g} is not between {minimum:g} and {maximum:g}")
    return value


def name_part(text: str) -> str:
    """A text that becomes part of a file's name."""
    if not text or "/" in text or "\\" in text or text.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be part of a file name: no slash, no dot in front")
    return text
