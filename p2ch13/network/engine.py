"""Engines that compute the first stage in detection: PyTorch, and OpenVINO, which fuses a network for the processor.

Source: https://docs.openvino.ai, "OpenVINO IR" and "CPU device"
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from p2ch13.config import OPENVINO
from p2ch13.network.model import LogitNetwork, SegmentationNetwork
from p2ch13.util.errors import InputError

KEPT = 4  # programs: for the slices of a scan, and each number of threads that is tried
Program = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class ProgramKey(NamedTuple):
    """What a program is compiled for."""

    shape: tuple[int, ...]
    precision: str  # OpenVINO's name of it
    threads: int


def choose_engine(model: SegmentationNetwork, engine: str) -> SegmentationNetwork:
    """Return a model as an engine of `config.ENGINES` computes it.

    Raises: InputError if the engine is not installed, or cannot compute on the model's device.
    """
    return OpenVinoNetwork(model) if engine == OPENVINO else model


class OpenVinoNetwork(SegmentationNetwork):
    """A network whose logits OpenVINO computes, on a CPU, for inference alone.

    In bfloat16 where PyTorch's autocast asks for it, else in float32. It is compiled anew, which takes less than a
    second, for each size of slices, number format and number of threads; the last few programs are kept.

    Args: network: on the CPU. Attributes: those of the network.
    Raises: InputError if OpenVINO is not installed, or the network is on another device.
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        if find_spec("openvino") is None:
            raise InputError(f"{OPENVINO} is not installed: pip install 'p2ch13[{OPENVINO}]'", option="--engine")
        if network.device.type != "cpu":
            message = f"{OPENVINO} computes on the CPU, not on {network.device}; use --device cpu, or the engine torch"
            raise InputError(message, option="--engine")
        super().__init__(network.slice_spacing_mm)
        self.network = network
        self.in_channels, self.n_classes = network.in_channels, network.n_classes
        self.has_padding, self.size_multiple = network.has_padding, network.size_multiple
        self.receptive_field = network.receptive_field
        self._compiled = lru_cache(KEPT)(partial(compile_program, network))

    def logits(self, input_batch: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, row, col) in HU -> (batch, n_classes, row, col), float32: log(p / (1 - p))."""
        precision = "bf16" if torch.is_autocast_enabled("cpu") else "f32"
        key = ProgramKey(tuple(input_batch.shape), precision, torch.get_num_threads())
        return torch.from_numpy(self._compiled(key)(input_batch.float().contiguous().numpy()))


def compile_program(network: SegmentationNetwork, key: ProgramKey) -> Program:
    """Compile a network's logits."""
    openvino = import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.inference_mode(), torch.autocast("cpu", enabled=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what depends on the size of the slices becomes constant, as it should
        trace: Any = torch.jit.trace
        traced = trace(LogitNetwork(network.eval()), torch.zeros(key.shape), check_trace=False)
        decoder = TorchScriptPythonDecoder(traced)
        front_end = FrontEndManager().load_by_framework("pytorch")
        model = front_end.convert(front_end.load(decoder))
    model.reshape(key.shape)
    settings = {"INFERENCE_PRECISION_HINT": key.precision, "INFERENCE_NUM_THREADS": key.threads}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return lambda slices: np.array(compiled(slices)[0])  # a copy: the next call writes into the same memory


def import_openvino() -> Any:
    """Import OpenVINO without the package by which it reports to its maker that it was imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
