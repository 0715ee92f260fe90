"""What figures were measured on: the processor, what PyTorch computes in and with, and the commit."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path
from typing import Any

import torch

from p2ch13.network.compute import Compute, get_dtype
from p2ch13.training.provenance import get_commit

# Features that decide a processor's speed here, and Linux's names of them.
CPU_FEATURES = {"AVX2": "avx2", "AVX-512": "avx512f", "AVX-512-BF16": "avx512_bf16", "AMX-BF16": "amx_bf16"}
CPU = torch.device("cpu")


def describe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name and its `CPU_FEATURES`, as far as the system tells."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    features = " ".join(name for name, flag in CPU_FEATURES.items() if flag in flags)
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({features})" if features else name


def describe_machine() -> dict[str, Any]:
    """Return what a file of results says of the machine, the versions and the day."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": get_commit(),
        "processor": describe_cpu(),
        "threads": torch.get_num_threads(),
        "dtype": Compute(CPU, get_dtype("auto", CPU)).dtype_name,
        "torch": torch.__version__,
    }
