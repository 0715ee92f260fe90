"""Memory-mapped tensors."""

from __future__ import annotations

import errno
import math
import mmap
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import IO, Any

import torch

from p2ch13.util.errors import InputError
from p2ch13.util.files import advise
from p2ch13.util.threads import find_cgroups, read_text

MEMORY_CGROUPS = ("cgroup", "cgroup/unified", "cgroup/memory")  # where the hierarchy that counts memory is mounted
ZEROS_BYTES = 2**20  # written at once
RELEASE_AFTER_SAMPLES = 64  # each may have mapped a huge page of 2 MB


def available_memory(root: Path = Path("/")) -> float:
    """Return the bytes that this process can take: what is free, and no more than its container may have.

    Args: root: of the file system that holds /proc and /sys; infinity where it says nothing.
    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, memory.max; cgroup-v1/memory.html, limit_in_bytes.
    """
    limits = [math.inf]
    if free := re.search(r"MemAvailable:\s*(\d+) kB", read_text(root / "proc/meminfo")):
        limits.append(1024.0 * int(free[1]))
    for cgroup, mount in product(find_cgroups(root), MEMORY_CGROUPS):
        folder = root / "sys/fs" / mount / cgroup
        texts = (read_text(folder / name).strip() for name in ("memory.max", "memory.limit_in_bytes"))
        limits += [float(text) for text in texts if text.isdecimal()]
    return min(limits)


class MemoryMappedTensor:
    """A tensor whose values are stored in a file and occupy memory only while they are used.

    The file has no name, so that it is removed with the object even if the process is killed. `np.memmap` needs a name
    for the file and neither reserves its space nor gives memory back.

    Args: folder: on a file system with enough space; created if it is missing.
    Attributes: `tensor`, readable and writable.
    Raises: InputError, naming the folder, if it cannot be written or its disk has too little space.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: torch.dtype) -> None:
        byte_count = math.prod(shape) * dtype.itemsize
        with disk_errors_naming(folder), open_nameless(folder) as file:
            reserve(file, byte_count)
            self._map_file(file, shape, dtype)

    @classmethod
    def of_file(cls, file: IO[bytes], shape: Sequence[int], dtype: torch.dtype) -> MemoryMappedTensor:
        """Map the values that a file holds. Raises: OSError if the system does not map it."""
        mapped = cls.__new__(cls)
        mapped._map_file(file, shape, dtype)
        return mapped

    def _map_file(self, file: IO[bytes], shape: Sequence[int], dtype: torch.dtype) -> None:
        self._map: mmap.mmap | None = mmap.mmap(file.fileno(), math.prod(shape) * dtype.itemsize)
        self.tensor = torch.frombuffer(self._map, dtype=dtype).view(*shape)

    def release(self) -> None:
        """Give back the memory of all pages; the values stay in the file and in the system's page cache."""
        if self._map is not None:
            advise(self._map, "MADV_DONTNEED")

    def __getstate__(self) -> dict[str, Any]:
        """Send only the tensor to another process, through shared memory."""
        return {"_map": None, "tensor": self.tensor}


class PeriodicRelease:
    """Give back the memory of memory-mapped tensors after every `RELEASE_AFTER_SAMPLES` samples.

    Args: release: gives it back.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._release, self._samples_left = release, RELEASE_AFTER_SAMPLES

    def count(self, sample_count: int) -> None:
        """Count samples that were read from the tensors, or written to them."""
        self._samples_left -= sample_count
        if self._samples_left <= 0:
            self._samples_left = RELEASE_AFTER_SAMPLES
            self._release()


class RowWriter:
    """Collect the rows of a tensor in a file, and memory-map them when all are there: their number need not be known.

    Args: folder: see `MemoryMappedTensor`, as is the file.
    Raises: see `MemoryMappedTensor`, here and in each method.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        with disk_errors_naming(folder):
            self._file = open_nameless(folder)

    def write(self, rows: torch.Tensor) -> None:
        """Append rows, (row, ...), all of one shape and number format, on the CPU."""
        self._row_shape, self._dtype = rows.shape[1:], rows.dtype
        self.count += len(rows)
        with disk_errors_naming(self.folder):
            self._file.write(rows.contiguous().numpy().data)

    def map(self) -> MemoryMappedTensor:
        """Map the rows, at least one, as (row, ...); no more can be written."""
        with disk_errors_naming(self.folder), self._file as file:
            file.flush()
            return MemoryMappedTensor.of_file(file, (self.count, *self._row_shape), self._dtype)


def reserve(file: IO[bytes], byte_count: int) -> None:
    """Give an empty file its length, and its room on the disk: a write to the map of a file without ends the process.

    Raises: OSError if there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, byte_count)
        return
    zeros = bytes(min(byte_count, ZEROS_BYTES))  # macOS and Windows
    for start in range(0, byte_count, ZEROS_BYTES):
        file.write(zeros[: byte_count - start])
    file.flush()


def open_nameless(folder: Path) -> IO[bytes]:
    """Open a file that is removed with its last reader, even if the process is killed.

    A folder that may not be written, as that of a cache which many read, is replaced by the system's for such files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        return tempfile.TemporaryFile()


@contextmanager
def disk_errors_naming(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into an InputError that names the folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"no place for memory-mapped values ({reason}); make room there, or use another folder"
        raise InputError(message, path=folder) from None
