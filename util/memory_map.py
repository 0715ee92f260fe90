"""Files mapped into memory, on systems that take advice about them and on those that take none."""

from __future__ import annotations

import mmap


def advise(file_map: mmap.mmap, advice: str) -> None:
    """Tell the system how a memory map is used. Windows takes no advice: there it stays in memory as it is.

    Args: advice: the name of a constant of `mmap`.
    """
    if hasattr(mmap, advice):  # where it is, `madvise` is, too
        file_map.madvise(getattr(mmap, advice))
