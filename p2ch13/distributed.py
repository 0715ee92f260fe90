"""One run in several processes, on one machine or many, as torchrun starts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from p2ch13.model import UNetWrapper
from util.errors import InputError
from util.launch import Launch


@contextmanager
def process_group(launch: Launch) -> Iterator[None]:
    """While inside, the processes of a run can talk to each other; nothing happens in a process that is alone."""
    if launch.is_alone:
        yield
        return
    store, rank, world_size = next(rendezvous("env://"))
    # torchrun keeps its store when it starts processes anew; without a name of their own for each start they find the
    # addresses of those that are gone.
    store = PrefixStore(f"start_{launch.restart_count}", store)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def sync_batchnorm(model: UNetWrapper, device: torch.device) -> UNetWrapper:
    """The model with batch statistics over all processes. Raises: InputError on a CPU, for which PyTorch has none."""
    if device.type != "cuda":
        raise InputError("--sync-batchnorm: PyTorch has it for GPUs only, and there is none here; leave it out")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return, no-untyped-call]


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as the processes of a run train it together: each step's gradients are averaged over them."""
    if not dist.is_initialized():
        return model
    return DistributedDataParallel(
        model, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )


def sum_over_processes(values: torch.Tensor) -> None:
    """Replace the values, in place, by their sums over all processes of the run."""
    if dist.is_initialized():
        dist.all_reduce(values)


def copy_buffers_from_first(model: nn.Module) -> None:
    """Give all processes the first one's buffers: each has running means of its own, and the first saves the model."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def copy_from_first(value: Any) -> Any:
    """The first process's value, in all of them."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, src=0)
    return values[0]
