"""Compiled, recorded (CUDA graph) and deterministic training steps; random numbers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from p2ch13.config import TrainingConfig
from p2ch13.util.errors import InputError
from p2ch13.util.process_rank import ProcessRank

COMPILE_FROM_SAMPLES = 50_000  # in fewer, compiling takes longer than it gains: see `make bench`


def enable_determinism() -> None:
    """Have this process compute the same bits each time, or raise RuntimeError where PyTorch cannot.

    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a GPU is first used
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def seed_epoch(seed: int, epoch_ndx: int, rank: int) -> None:
    """Seed an epoch's random numbers by seed, epoch and process alone: they do not depend on the epochs before."""
    torch.manual_seed(np.random.SeedSequence([seed, epoch_ndx, rank]).generate_state(1)[0])


def get_random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of PyTorch's random number generators, on the CPU and on the device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(device: torch.device, states: Mapping[str, torch.Tensor]) -> None:
    """Set the generators' states; one from a machine without a GPU leaves that of a GPU as the epoch seeded it."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def is_compiled(config: TrainingConfig, device: torch.device) -> bool:
    """Decide whether to fuse a run's operations with `torch.compile`.

    `auto` does so in long runs on a CPU, since compiling takes a minute; not on a GPU, where it has not been tried.
    """
    if config.deterministic or config.compile != "auto":
        return not config.deterministic and config.compile == "yes"
    return device.type == "cpu" and is_long(config) and has_compiler()


def is_long(config: TrainingConfig) -> bool:
    """Tell whether compiling gains more time in a run than it takes."""
    return config.epochs * config.samples_per_epoch >= COMPILE_FROM_SAMPLES


def is_recorded(config: TrainingConfig, device: torch.device, process: ProcessRank) -> bool:
    """Decide whether to record and replay a run's steps: those of compiled models on one GPU."""
    return is_compiled(config, device) and device.type == "cuda" and process.is_alone


def has_compiler() -> bool:
    """Tell whether there is a C++ compiler, which `torch.compile` needs."""
    return shutil.which(compiler_name()) is not None


def compiler_name() -> str:
    return os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")


def compile_model(model: nn.Module, choice: str) -> nn.Module:
    """Fuse a model's operations, at its first call. With `auto` a failure falls back to the model as it is.

    Raises: InputError if there is no compiler.
    """
    if not has_compiler():
        raise InputError(f"there is no compiler {compiler_name()}; install it, or use no", option="--compile")
    import torch._dynamo  # takes a second

    torch._dynamo.config.suppress_errors = choice == "auto"
    return cast("nn.Module", torch.compile(model, dynamic=False))


class CapturedStep:
    """A function of CUDA tensors whose GPU work is recorded once and then replayed as a whole.

    The GPU finishes an operation of a U-Net this small before Python has launched the next one; a replay is one launch.
    The function must do the same work on the same memory in every call, apart from its arguments' values. The first
    few batches, and one of another size, such as the last of an epoch, run without recording.

    Args: is_ready: tells whether everything that the first calls allocate is there, so that recording may begin.
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
            return self._warm_up(inputs)
        if self.graph is None:
            self.graph = self._record(inputs)
        for recorded, x in zip(self.inputs, inputs, strict=True):
            recorded.copy_(x, non_blocking=True)
        self.graph.replay()
        return self.outputs

    def _warm_up(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        """Call the function on a separate stream, on which work has to be warmed up before it is recorded."""
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
