"""A limit on this process's memory, beyond what it has."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def limit_memory(more_bytes: int) -> None:
    """Let every allocation fail that needs more than these bytes; libraries have to be loaded before."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


@contextmanager
def limited_memory(more_bytes: int) -> Iterator[None]:
    """Limit memory inside the block, see `limit_memory`."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit_memory(more_bytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
