"""Device, number format, threads and memory of a process's computations."""

from __future__ import annotations

import ctypes
import functools
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass

import SimpleITK as sitk
import torch
from threadpoolctl import threadpool_limits

from p2ch13.config import AUTO_DEVICE, AUTO_THREADS
from p2ch13.util.errors import InputError
from p2ch13.util.process_rank import ProcessRank
from p2ch13.util.threads import ThreadTuner, available_cores, halvings

TRIALS_S, COMPILED_TRIALS_S = 30.0, 600.0  # least time between two trials of threads
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
NEVER = 2**31 - 1


@dataclass
class Compute:
    """Device and number format that a network is computed on and in."""

    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def autocast(self) -> AbstractContextManager[object]:
        """Compute convolutions in `dtype`; sums, losses and the statistics of BatchNorm stay in float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def to_device(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Copy tensors to the device; the CPU does not wait for a GPU."""
        return [tensor.to(self.device, non_blocking=True) for tensor in tensors]


def get_device(choice: str = AUTO_DEVICE, process: ProcessRank | None = None) -> torch.device:
    """Return the device that this process computes on.

    Args: choice: see `ComputeOptions.device`; `auto` and `cuda` are, of several processes, a GPU for each one.
    Raises: InputError for a device that this machine or PyTorch lacks, for too few GPUs, and for several processes that
        share one.
    """
    process = process or ProcessRank()
    if choice == AUTO_DEVICE:
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(choice)
    if device.type == "cuda":
        device = choose_gpu(device.index, process)
        torch.cuda.set_device(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"{choice} is not there: PyTorch finds no GPU of Apple; choose cpu", option="--device")
    return device


def choose_gpu(index: int | None, process: ProcessRank) -> torch.device:
    """Return a GPU of NVIDIA: the one of an index, or of this process. Raises: see `get_device`."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise InputError("PyTorch finds no GPU of NVIDIA; choose cpu, or install PyTorch for CUDA", option="--device")
    if index is not None and not process.is_alone:
        raise InputError("each process has a GPU of its own; leave the number out", option="--device")
    if index is None and process.local_rank >= count:
        raise InputError(f"{process.local_world_size} processes for {count} GPUs; start one for each GPU")
    chosen = process.local_rank if index is None else index
    if chosen >= count:
        raise InputError(f"there are {count} GPUs, cuda:0 to cuda:{count - 1}", option="--device")
    return torch.device("cuda", chosen)


def get_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the number format of convolutions and activations.

    `auto` is bfloat16 where the processor has its arithmetic, else float32: emulated bfloat16 is ten times slower.
    """
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16_arithmetic(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def has_bfloat16_arithmetic(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere; older ones emulate it
    # Older PyTorch has no such function; float32 is then the safe answer.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def get_slice_batch_size(device: torch.device) -> int:
    """Return how many whole slices to compute at once; a single one fills a CPU's caches."""
    return 1 if device.type == "cpu" else 16


@functools.cache
def get_thread_limit() -> int:
    """Return the most threads that `auto` computes with: PyTorch's default, at most the available cores.

    PyTorch's default is the number of physical cores, or OMP_NUM_THREADS; it is read at the first call, before a thread
    tuner changes it.
    """
    return min(torch.get_num_threads(), available_cores())


def choose_threads(
    choice: int | str, device: torch.device, process: ProcessRank | None = None, is_compiled: bool = False
) -> ThreadTuner:
    """Return a tuner of this process's number of computing threads; set those of SimpleITK and NumPy at once.

    `auto` measures which number is fastest, see `ThreadTuner`. On a GPU, and in one of several processes, it keeps
    PyTorch's number: processes wait for each other in every step, and torchrun gives each of them one thread.

    Args: choice: "auto" or a number; is_compiled: whether the step is compiled anew for each number.
    """
    limit = get_thread_limit()
    if choice != AUTO_THREADS:
        counts = [int(choice)]
    elif device.type != "cpu" or not (process or ProcessRank()).is_alone:
        counts = [limit]
    else:
        counts = halvings(limit)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(counts[-1])
    threadpool_limits(counts[-1], user_api="blas")
    return ThreadTuner(counts, torch.set_num_threads, COMPILED_TRIALS_S if is_compiled else TRIALS_S)


def keep_freed_memory() -> None:
    """Let malloc keep freed memory for the next tensors, as PyTorch does on a GPU.

    glibc returns large blocks to the system at once, which then has to clear fresh pages for the same tensors of the
    next step: a large part of the time of training and validation. Other implementations of malloc stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        if not mallopt(M_MMAP_THRESHOLD, NEVER):  # older versions of glibc accept at most 32 MiB
            mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, NEVER)
