"""How a training step runs: compiled, recorded as a CUDA graph, or deterministic."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from p2ch13.util.errors import InputError

COMPILE_FROM_SAMPLES = 300_000  # an epoch of the book's; compiling takes longer than it gains in a short run


def enable_determinism() -> None:
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
