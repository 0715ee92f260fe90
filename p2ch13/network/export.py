"""A checkpoint's networks as files for other programs: ONNX, torch.export's program, or weights as safetensors.

docs/export.md describes inputs, outputs and metadata.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from p2ch13.commands import spell
from p2ch13.config import HU_MAX, HU_MIN
from p2ch13.network.calibration import Calibration
from p2ch13.network.card import Card, read_card
from p2ch13.network.checkpoint import (
    build_finding_scorer,
    build_model,
    load_checkpoint,
    read_model_args,
    read_pixel_mm,
)
from p2ch13.network.export_formats import FORMATS, NOTICE, Exported
from p2ch13.network.finding_scorer import FindingScorer
from p2ch13.network.model import BOOK_NETWORK, SegmentationNetwork
from p2ch13.network.second_stage import (
    CHANNEL_COUNT,
    CUBE_HU,
    CUBE_LOGIT,
    CUBE_SIZE,
    CUBE_SPACINGS_MM,
    FLIPS,
    SecondStage,
)
from p2ch13.util.errors import InputError
from p2ch13.util.files import atomic_write, make_writable_folder
from p2ch13.util.outcome import Outcome

log = logging.getLogger(__name__)


class SliceLogits(nn.Module):
    """Context slices as scanners give them -> logits: clipping and padding, which are detection's, and the network.

    Rows and columns are padded here to the network's `size_multiple`, as `UNetWrapper.logits` does, in a form that
    torch.export can follow for any size: the network then finds nothing left to pad.
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, hu: torch.Tensor) -> torch.Tensor:
        """(batch, slice, row, col) in HU -> (batch, channel, row, col)."""
        rows, cols = hu.shape[2:]
        extra_rows, extra_cols = (self._count_missing(size) for size in (rows, cols))
        clipped = hu.clamp(HU_MIN, HU_MAX)
        padded = F.pad(clipped, (0, extra_cols, 0, extra_rows), mode="replicate")
        return self.network.logits(padded).narrow(2, 0, rows).narrow(3, 0, cols)

    def _count_missing(self, size: int) -> int:
        block = self.network.size_multiple
        return (size + block - 1) // block * block - size


class FindingLogits(nn.Module):
    """Cubes around findings -> calibrated logits: the second stage's mean over flips, and the calibration."""

    weights: torch.Tensor

    def __init__(self, network: SecondStage, calibration: Calibration) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("weights", torch.tensor(calibration.weights))
        self.bias = calibration.bias

    def forward(
        self, cubes: torch.Tensor, first_stage_logit: torch.Tensor, diameter_mm: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the calibrated logits and the second stage's, each (finding,).

        Args: cubes: see `SecondStage.forward`; first_stage_logit, diameter_mm: (finding,).
        """
        flipped = torch.cat([cubes.flip(axes) for axes in FLIPS])  # (8 * finding, scale, channel, 32, 32, 32)
        second_stage_logit = self.network(flipped).unflatten(0, (len(FLIPS), -1)).mean(dim=0)
        features = torch.stack([second_stage_logit, first_stage_logit, diameter_mm.log()], dim=1)
        return features @ self.weights + self.bias, second_stage_logit


def export_network(checkpoint: Path, output: Path, stage: int = 1, network: str | None = None) -> Outcome:
    """Write a network of a .state file in the format that the output's suffix names.

    Args: stage: 1, slices -> logits of pixels, or 2, cubes -> logits of findings; network: see `load_model`.
    Raises: InputError if the checkpoint cannot be used, lacks the stage, or a package for the format is missing.
    """
    suffix = output.suffix.lower()
    packages, write = FORMATS[suffix]
    check_packages(packages, suffix)
    make_writable_folder(output.parent, "--output")
    state = load_checkpoint(checkpoint)
    if stage == 1:
        exported = prepare_first_stage(checkpoint, state, network)
    else:
        exported = prepare_second_stage(checkpoint, state)
    content = write(exported)
    with atomic_write(output) as file:
        file.write(content)
    size, contents = f"{len(content) / 1e6:.1f} MB", describe_contents(exported, suffix)
    values = {
        "file": output,
        "bytes": len(content),
        "stage": stage,
        "inputs": list(exported.inputs),
        "outputs": list(exported.outputs),
    }
    return Outcome([f"Stage {stage} of {checkpoint.name}: {contents}. {NOTICE}", f"File: {output}, {size}"], values)


def check_packages(packages: Sequence[str], suffix: str) -> None:
    """Raises: InputError, before any work, if a package that writes the suffix's format is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        message = f"{suffix} needs {' and '.join(missing)}: pip install 'p2ch13[export]'"
        raise InputError(message, option="--output")


def describe_contents(exported: Exported, suffix: str) -> str:
    if suffix == ".safetensors":
        return f"{len(exported.weights)} tensors"
    return f"{', '.join(exported.inputs)} -> {', '.join(exported.outputs)}"


def prepare_first_stage(checkpoint: Path, state: Mapping[str, Any], network: str | None) -> Exported:
    """Prepare the network that marks slices. Raises: InputError if it cannot be built, or has no padding."""
    model = build_model(checkpoint, state, network)
    if not model.has_padding:
        raise InputError("a model without padding marks less than a slice; train one with padding", path=checkpoint)
    block = model.size_multiple
    return Exported(
        SliceLogits(model).eval(),
        model.state_dict(),
        {"hu": torch.zeros(2, model.in_channels, 2 * block + 1, 3 * block + 2)},
        {"hu": {0: "batch", 2: "rows", 3: "cols"}},
        ("logit",),
        {**describe_checkpoint(checkpoint, state), **describe_first_stage(checkpoint, state, model)},
    )


def describe_first_stage(checkpoint: Path, state: Mapping[str, Any], model: SegmentationNetwork) -> dict[str, str]:
    """Return the metadata of a first stage, numbers and lists as JSON. Raises: see `read_pixel_mm`."""
    name = str(state.get("network", BOOK_NETWORK))
    return {
        "stage": "1",
        "network": name,
        "model_args": json.dumps(read_model_args(name, state)),
        "input": f"hu: float32 (batch, {model.in_channels}, rows, cols), HU of axial slices, rows to the patient's "
        f"back, columns to the left; slice {model.in_channels // 2} is marked, the others are its context, from foot "
        "to head",
        "output": f"logit: float32 (batch, {model.n_classes}, rows, cols); probability = 1 / (1 + exp(-logit))",
        "hu_range": json.dumps([HU_MIN, HU_MAX]),
        "slice_spacing_mm": json.dumps(model.slice_spacing_mm),
        "pixel_mm": json.dumps(read_pixel_mm(checkpoint, state)),
        "receptive_field": json.dumps(model.receptive_field),
    }


def prepare_second_stage(checkpoint: Path, state: Mapping[str, Any]) -> Exported:
    """Prepare the network that scores findings. Raises: InputError if the file has none, or it is corrupt."""
    scorer = build_finding_scorer(checkpoint, state)
    if scorer is None:
        raise InputError(f"it has no second stage; `{spell('second-stage')}` adds one", path=checkpoint)
    finding = {0: "finding"}
    return Exported(
        FindingLogits(scorer.network, scorer.calibration).eval(),
        scorer.network.state_dict(),
        {
            "cubes": torch.zeros(2, len(CUBE_SPACINGS_MM), CHANNEL_COUNT, *[CUBE_SIZE] * 3),
            "first_stage_logit": torch.zeros(2),
            "diameter_mm": torch.ones(2),
        },
        {"cubes": finding, "first_stage_logit": finding, "diameter_mm": finding},
        ("logit", "second_stage_logit"),
        {**describe_checkpoint(checkpoint, state), **describe_second_stage(scorer)},
    )


def describe_second_stage(scorer: FindingScorer) -> dict[str, str]:
    """Return the metadata of a second stage, numbers and lists as JSON."""
    return {
        "stage": "2",
        "model_args": json.dumps(scorer.network.model_args),
        "input": f"cubes: float32 (finding, {len(CUBE_SPACINGS_MM)} scales, {CHANNEL_COUNT} channels, "
        f"{', '.join([str(CUBE_SIZE)] * 3)}), HU and first stage's logits around a finding's center, clipped to "
        "cube_hu and to -cube_logit..cube_logit, scaled to -1..1, then resampled to cube_spacings_mm; "
        "first_stage_logit: float32 (finding,), of its most probable voxels; diameter_mm: float32 (finding,)",
        "output": "logit: float32 (finding,), calibrated; probability = 1 / (1 + exp(-logit)), to be compared with "
        "operating_points; second_stage_logit: float32 (finding,), the mean over flips, before calibration",
        "cube_spacings_mm": json.dumps(CUBE_SPACINGS_MM),
        "cube_hu": json.dumps(CUBE_HU),
        "cube_logit": json.dumps(CUBE_LOGIT),
        "calibration": json.dumps(scorer.calibration.as_dict()),
        "candidate_threshold": json.dumps(scorer.candidate_threshold),
        "operating_points": json.dumps(dict(scorer.operating_points)),
    }


def describe_checkpoint(checkpoint: Path, state: Mapping[str, Any]) -> dict[str, str]:
    """Return what any file says: the notice, the card's fields, and the checkpoint's SHA-256."""
    card = asdict(read_card(checkpoint, state) or Card())
    return {
        "notice": NOTICE,
        **{name: text for name, text in card.items() if text},
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    }
