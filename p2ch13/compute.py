"""What a process computes on and with: device, number format, memory, and how its work is launched."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import SimpleITK as sitk
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from p2ch13.config import AUTO_THREADS
from util.errors import InputError
from util.launch import Launch
from util.threads import ThreadTuner, available_cores, halvings

COMPILE_FROM_SAMPLES = 300_000  # an epoch of the book's; compiling takes longer than it gains in a short run
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


def be_deterministic() -> None:
    """Have this process calculate the same bits each time, or say that it cannot.

    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a GPU is first used
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def should_compile(choice: str, sample_count: int) -> bool:
    """Whether to fuse a run's operations with `torch.compile`, and on one GPU to record and replay its steps.

    `auto` does so in runs that are long enough: compiling takes half a minute.
    """
    if choice == "auto":
        return sample_count >= COMPILE_FROM_SAMPLES and has_compiler()
    return choice == "yes"


def has_compiler() -> bool:
    """Whether there is what `torch.compile` compiles with."""
    return shutil.which(compiler_name()) is not None


def compiler_name() -> str:
    return os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")


def compile_model(model: nn.Module, choice: str) -> nn.Module:
    """The model with its operations fused, compiled at its first call. Where it was not asked for, it need not succeed.

    Raises: InputError if it was, and there is no compiler.
    """
    if not has_compiler():
        raise InputError(f"--compile: there is no compiler {compiler_name()}; install it, or say --compile no")
    import torch._dynamo  # takes a second

    torch._dynamo.config.suppress_errors = choice == "auto"
    return cast("nn.Module", torch.compile(model, dynamic=False))


class CapturedStep:
    """A function of CUDA tensors whose work on the GPU is recorded once and then replayed as a whole.

    A U-Net this small is done with an operation before Python has launched the next one; a replay is a single launch.
    The function must do the same work on the same memory in every call, apart from the values of its arguments. It is
    called as it is for the first few batches and for one of another size, such as the last of an epoch.

    Args: is_ready: whether all is there that the function makes at its first calls, so that it can be recorded.
    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
    """

    WARM_UP_COUNT = 3  # calls before the recording: libraries choose their algorithms, the optimizer makes its state

    def __init__(self, function: Callable[..., Any], is_ready: Callable[[], bool] = lambda: True) -> None:
        self.function = function
        self.is_ready = is_ready
        self.shapes: list[torch.Size] = []
        self.warm_up_left = self.WARM_UP_COUNT
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[torch.Tensor, ...] = ()
        self.outputs: Any = None

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Call or replay the function. A replay's results are overwritten by the next one."""
        shapes = [x.shape for x in inputs]
        self.shapes = self.shapes or shapes
        if shapes != self.shapes:
            return self.function(*inputs)
        if self.warm_up_left or (self.graph is None and not self.is_ready()):
            self.warm_up_left = max(self.warm_up_left - 1, 0)
            return self._call_aside(inputs)
        if self.graph is None:
            self.graph = self._record(inputs)
        for recorded, x in zip(self.inputs, inputs, strict=True):
            recorded.copy_(x, non_blocking=True)
        self.graph.replay()
        return self.outputs

    def _call_aside(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        """On a stream of its own, as work that is to be recorded has to be warmed up."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self.function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> torch.cuda.CUDAGraph:
        self.inputs = tuple(x.clone() for x in inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.outputs = self.function(*self.inputs)
        return graph
