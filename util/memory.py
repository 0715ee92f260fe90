"""Memory-mapped tensors."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from p2ch13.util.files import advise


class MemoryMappedTensor:
    """A tensor whose values are stored in a file and occupy memory only while they are used.

    The file has no name, so that it is removed with the object even if the process is killed. `np.memmap` needs a name
    for the file and neither reserves its space nor gives memory back.

    Args: folder: on a file system with enough space; created if it is missing.
    Attributes: `tensor`, readable and writable.
    Raises: OSError if the disk has too little space.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: torch.dtype) -> None:
        byte_count = math.prod(shape) * dtype.itemsize
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # with its space reserved, no write to the map meets a full disk
                os.posix_fallocate(file.fileno(), 0, byte_count)
            else:
                os.ftruncate(file.fileno(), byte_count)
            self._map: mmap.mmap | None = mmap.mmap(file.fileno(), byte_count)
        self.tensor = torch.frombuffer(self._map, dtype=dtype).view(*shape)

    def release(self) -> None:
        """Give back the memory of all pages; the values stay in the file and in the system's page cache."""
        if self._map is not None:
            advise(self._map, "MADV_DONTNEED")

    def __getstate__(self) -> dict[str, Any]:
        """Send only the tensor to another process, through shared memory."""
        return {"_map": None, "tensor": self.tensor}
