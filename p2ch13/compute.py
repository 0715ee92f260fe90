"""What a run computes on and with: device and number format."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

PRECISIONS = ("auto", "fp32", "bf16")


def get_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def get_slice_batch_size(device: torch.device) -> int:
    """How many whole slices to compute at once.

    One on a CPU: the feature maps of two no longer fit into what malloc hands out again (32 MiB), and half of the time
    then goes into fresh pages.
    """
    return 1 if device.type == "cpu" else 16


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Convolutions in `dtype`; sums, losses and the statistics of BatchNorm stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
