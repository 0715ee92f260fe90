"""Graceful shutdown: finish the current step, then stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


class Interruption:
    """Record SIGINT and SIGTERM inside a `with`, for the program to check; a second signal ends it at once.

    An ignored signal stays ignored: shells make background processes of scripts ignore Ctrl-C.

    Args: message: a line for stderr when the first signal arrives, at once, while the step still runs.
    Attributes: `signal_number`, of the received signal; None before one arrives.
    """

    def __init__(self, message: str = "") -> None:
        self.signal_number: int | None = None
        self._message = message
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        for number in self._handlers:
            signal.signal(number, signal.SIG_DFL)
        if self._message and sys.stderr is not None:
            with suppress(OSError, ValueError):  # such as a closed terminal's
                os.write(sys.stderr.fileno(), f"\n{self._message}\n".encode())  # a handler may not wait for a lock


@contextmanager
def next_signal_ends(message: str) -> Iterator[None]:
    """Say on stderr that the end takes a moment; inside the block, SIGINT or SIGTERM ends the process at once.

    For the main thread, which alone may change what signals do.
    """
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    print(f"\n{message}", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer SIGINT and SIGTERM to the end of the block, for a few operations that belong together.

    Only the main thread handles signals: in other threads this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with Interruption() as interruption:
        yield
    if interruption.signal_number is not None:
        signal.raise_signal(interruption.signal_number)
