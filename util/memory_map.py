"""Advice to the system about memory-mapped files."""

from __future__ import annotations

import mmap


def advise(file_map: mmap.mmap, advice: str) -> None:
    """Tell the system how a memory map is used; Windows takes no advice.

    Args: advice: the name of a constant of `mmap`, such as "MADV_RANDOM".
    """
    if hasattr(mmap, advice):  # `madvise` exists wherever its constants do
        file_map.madvise(getattr(mmap, advice))
