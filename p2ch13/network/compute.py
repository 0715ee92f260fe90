"""What a process computes on and with: device, number format, memory, and how its work is launched."""

from __future__ import annotations

import ctypes
import functools
import sys
from contextlib import AbstractContextManager

import SimpleITK as sitk
import torch
from threadpoolctl import threadpool_limits

from p2ch13.config import AUTO_THREADS
from p2ch13.util.errors import InputError
from p2ch13.util.launch import Launch
from p2ch13.util.threads import ThreadTuner, available_cores, halvings

TRIALS_S, COMPILED_TRIALS_S = 30.0, 600.0  # from one trial of threads to the next, at least
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
NEVER = 2**31 - 1


def get_device(launch: Launch) -> torch.device:
    """The GPU of this process, one for each process of a machine, or the CPU. Raises: InputError for too few GPUs."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if launch.local_rank >= torch.cuda.device_count():
        raise InputError(
            f"{launch.local_world_size} processes for {torch.cuda.device_count()} GPUs; start one for each GPU"
        )
    device = torch.device("cuda", launch.local_rank)
    torch.cuda.set_device(device)
    return device


def get_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The format of convolutions and activations.

    `auto` is bfloat16 where the processor calculates in it, else float32: one that has to emulate bfloat16 takes
    ten times as long over it.
    """
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16_arithmetic(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def has_bfloat16_arithmetic(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere; older ones emulate it
    # Older PyTorch cannot tell; float32 is then the safe answer.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Convolutions in `dtype`; sums, losses and the statistics of BatchNorm stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def get_slice_batch_size(device: torch.device) -> int:
    """How many whole slices to compute at once; one fills a CPU's caches as it is."""
    return 1 if device.type == "cpu" else 16


@functools.cache
def get_thread_limit() -> int:
    """The most threads that `auto` computes with: PyTorch's own number, but no more than there are cores to use.

    PyTorch's is that of the machine's physical cores, or what OMP_NUM_THREADS says; it is read at the first call,
    before any thread tuner changes it.
    """
    return min(torch.get_num_threads(), available_cores())


def choose_threads(choice: int | str, launch: Launch | None = None, is_compiled: bool = False) -> ThreadTuner:
    """What sets this process's number of computing threads; SimpleITK and NumPy are given theirs at once.

    `auto` measures which number is fastest, see `ThreadTuner`. It stays with what PyTorch has on a GPU, and in one of
    several processes, whose steps wait for each other: torchrun gives each of them one thread.

    Args: choice: "auto" or a number; is_compiled: whether each other number means to compile the steps anew.
    """
    limit = get_thread_limit()
    if choice != AUTO_THREADS:
        counts = [int(choice)]
    elif torch.cuda.is_available() or not (launch or Launch()).is_alone:
        counts = [limit]
    else:
        counts = halvings(limit)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(counts[-1])
    threadpool_limits(counts[-1], user_api="blas")
    return ThreadTuner(counts, torch.set_num_threads, COMPILED_TRIALS_S if is_compiled else TRIALS_S)


def keep_freed_memory() -> None:
    """Let this process keep what it frees for its next tensors, as PyTorch does on a GPU.

    glibc gives large blocks back to the system at once, which then has to clear fresh pages for the same tensors of the
    next step; a good part of training and validation went into that. Nothing is done where malloc is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        if not mallopt(M_MMAP_THRESHOLD, NEVER):  # older versions of glibc take no more than this
            mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, NEVER)
