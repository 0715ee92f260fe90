"""Random mutations: damage to a file, and false claims about its content."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]

NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
STRANGE_NUMBERS = (
    *(b"0", b"-1", b"1000000", b"2147483647", b"4294967296", b"99999999999999999999", b"9" * 400),
    *(b"nan", b"inf", b"-inf", b"1e308", b"-1e308", b"1e-308", b"0x10", b"1_0", b"", b"3 3", b"1.5", b"%d"),
)
STRANGE_BYTES = (b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\n", b'"', b"<", b"&", b"\\", b"../", b"%s", b"/etc/passwd")
# Most of a small file's meaning is in its first bytes, in an archive's also in its last ones.
HEAD_BYTES = 512


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Apply one to three random mutations."""
    for _ in range(int(rng.integers(1, 4))):
        data = MUTATIONS[rng.integers(len(MUTATIONS))](data, rng)
    return data


def place(data: bytes, rng: np.random.Generator) -> int:
    """Draw an offset: half of the time in the head, every sixth time in the tail."""
    draw = rng.random()
    if draw < 1 / 2:
        return int(rng.integers(min(len(data), HEAD_BYTES) + 1))
    if draw < 2 / 3:
        return len(data) - int(rng.integers(min(len(data), HEAD_BYTES) + 1))
    return int(rng.integers(len(data) + 1))


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    flipped = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        at = place(data, rng)
        if at < len(data):
            flipped[at] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    at, strange = place(data, rng), STRANGE_BYTES[rng.integers(len(STRANGE_BYTES))]
    return data[:at] + strange + data[at + len(strange) :]


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: place(data, rng)]


def insert(data: bytes, rng: np.random.Generator) -> bytes:
    at = place(data, rng)
    return data[:at] + rng.bytes(int(rng.integers(1, 40))) + data[at:]


def remove(data: bytes, rng: np.random.Generator) -> bytes:
    at = place(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 40)) :]


def duplicate(data: bytes, rng: np.random.Generator) -> bytes:
    start, to = place(data, rng), place(data, rng)
    chunk = data[start : start + int(rng.integers(1, 200))]
    return data[:to] + chunk * int(rng.integers(1, 4)) + data[to:]


def swap_numbers(data: bytes, rng: np.random.Generator) -> bytes:
    """Swap two numbers in the text."""
    numbers = list(NUMBER.finditer(data))
    if len(numbers) < 2:
        return flip_bits(data, rng)
    one, other = sorted(rng.choice(len(numbers), size=2, replace=False).tolist())
    first, last = numbers[one], numbers[other]
    parts = data[: first.start()], last[0], data[first.end() : last.start()], first[0], data[last.end() :]
    return b"".join(parts)


def replace_number(data: bytes, rng: np.random.Generator) -> bytes:
    """Replace a number in the text by a strange one."""
    numbers: list[re.Match[bytes]] = list(NUMBER.finditer(data))
    if not numbers:
        return overwrite(data, rng)
    number = numbers[int(rng.integers(len(numbers)))]
    strange = STRANGE_NUMBERS[int(rng.integers(len(STRANGE_NUMBERS)))]
    return data[: number.start()] + strange + data[number.end() :]


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    overwrite,
    truncate,
    insert,
    remove,
    duplicate,
    swap_numbers,
    replace_number,
    replace_number,
)
