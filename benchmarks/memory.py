"""The memory of a process and its children, as the kernel counts it."""

from __future__ import annotations

import os
import threading
from pathlib import Path


class PeakMemory:
    """The most memory that this process and its children hold together, a page shared by two counting half to each."""

    def __enter__(self) -> PeakMemory:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.peak = max(self.peak, sum(map(proportional_memory, family(os.getpid()))))


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:  # it has ended meanwhile
        return []
    return [pid, *(descendant for child in children.split() for descendant in family(int(child)))]


def proportional_memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
