"""Tensors that are larger than memory should hold."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from p2ch13.util.memory_map import advise


class DiskTensor:
    """A tensor whose values lie in a file, and in memory only while they are used.

    The file has no name: it goes with the object, even if the process is killed.

    Args: folder: on the file system that has room for it; made if it is missing.
    Attributes: `tensor`, to be read and written as any other.
    Raises: OSError if the disk has not enough room.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: torch.dtype) -> None:
        byte_count = math.prod(shape) * dtype.itemsize
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            reserve(file.fileno(), byte_count)
            self._map: mmap.mmap | None = mmap.mmap(file.fileno(), byte_count)
        self.tensor = torch.frombuffer(self._map, dtype=dtype).view(*shape)

    def release(self) -> None:
        """Give back the memory of what was used so far; the values stay in the file, and in the system's own cache."""
        if self._map is not None:
            advise(self._map, "MADV_DONTNEED")

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the tensor in shared memory."""
        return {"_map": None, "tensor": self.tensor}


def reserve(file_descriptor: int, byte_count: int) -> None:
    """Give a file its length, and where the system can do so its room: a full disk is an error here and not later.

    Writing to a map of a file that has outgrown its disk kills the process.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file_descriptor, 0, byte_count)
    else:
        os.ftruncate(file_descriptor, byte_count)
