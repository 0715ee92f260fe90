"""Formats of exported networks: ONNX, torch.export's program, weights as safetensors."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx.experimental import _config as symbolic_sizes

OPSET = 18  # of ONNX; torch.onnx writes no lower one without conversion
NOTICE = "Research use only. Not a medical device; no clinical decision may rest on its output."
METADATA_FILE = "metadata.json"  # in a .pt2 file


@dataclass(frozen=True)
class Exported:
    """A network with what a file says about it.

    Attributes:
        program: a module to trace; weights: of the network alone, under the names of a .state file.
        inputs: name -> an example; dims: input -> axis -> name, of those that may have any size.
    """

    program: nn.Module
    weights: Mapping[str, torch.Tensor]
    inputs: Mapping[str, torch.Tensor]
    dims: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]


def trace(exported: Exported) -> torch.export.ExportedProgram:
    """Trace a network for inputs of any size, including one, without the file names of the code that is traced."""
    sizes = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in exported.dims.items()}
    # By default, a size of one, or one that needs no padding, is a case of its own, which the program would refuse.
    with torch.no_grad(), symbolic_sizes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(
            exported.program,
            tuple(exported.inputs.values()),
            dynamic_shapes=sizes,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


def as_program(exported: Exported) -> bytes:
    """Return a .pt2 file for `torch.export.load`, which has the metadata as JSON in a file of its own."""
    content = io.BytesIO()
    metadata = {METADATA_FILE: json.dumps(exported.metadata)}
    torch.export.save(trace(exported), content, extra_files=metadata)
    return content.getvalue()


def as_onnx(exported: Exported) -> bytes:
    """Return an ONNX file."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with without_chatter():
        onnx_program = torch.onnx.export(
            trace(exported),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(exported.inputs),
            output_names=list(exported.outputs),
            dynamic_shapes={name: dict(axes) for name, axes in exported.dims.items()},
            verbose=False,
        )
    assert onnx_program is not None
    model = onnx_program.model
    ClearMetadataAndDocStringPass()(model)  # of nodes: file names and lines of the code that was traced
    model.metadata_props.update(exported.metadata)
    model.doc_string = NOTICE
    return bytes(onnx_program.model_proto.SerializeToString())


@contextmanager
def without_chatter() -> Iterator[None]:
    """Keep the converter's many lines and warnings, on its own steps, out of the log."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def as_safetensors(exported: Exported) -> bytes:
    """Return a safetensors file of the network's weights."""
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in exported.weights.items()}
    return save(tensors, dict(exported.metadata))


# Suffix -> packages beside PyTorch that write the format, and the function that does.
FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Exported], bytes]]] = {
    ".onnx": (("onnx", "onnxscript"), as_onnx),
    ".pt2": ((), as_program),
    ".safetensors": (("safetensors",), as_safetensors),
}
