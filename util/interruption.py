"""A signal as a wish: the work under way comes to its end first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interruption:
    """Inside a `with`, SIGINT and SIGTERM are noted for the program to ask about; a second one ends it at once.

    A signal that is ignored stays so: a script has what it starts in the background ignore Ctrl-C.

    Attributes: `signal_number`, of the signal that came; None while there was none.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
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


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let SIGINT and SIGTERM take effect when the block is done: for a few operations that belong together.

    Outside of the main thread, which alone handles signals, there is nothing to defer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with Interruption() as interruption:
        yield
    if interruption.signal_number is not None:
        signal.raise_signal(interruption.signal_number)
