"""Memory of a process and its children, by the kernel's count."""

from __future__ import annotations

import os
import threading
from pathlib import Path


class PeakMemory:
    """Measures the peak memory of this process and its children; a page that two share counts half for each."""

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
    """List a process and its descendants."""
    try:
        children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:  # it has ended
        return []
    return [pid, *(descendant for child in children.split() for descendant in family(int(child)))]


def proportional_memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
