"""One run in several processes, which torchrun starts on one machine or many."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from p2ch13.network.model import SegmentationNetwork
from p2ch13.util.errors import InputError
from p2ch13.util.process_rank import ProcessRank

CONNECT_S, PATIENCE_S = 3, 300  # timeouts of one try to reach the first process, and of all tries


@contextmanager
def process_group(process: ProcessRank, device: torch.device) -> Iterator[str | None]:
    """Inside, the processes of a run communicate.

    Delete all that `data_parallel` returned before the end: it keeps the communicating threads alive. One that still
    lives when Python ends may hold the last tensor that it sent, and then the process crashes, with all work done.
    Source: https://github.com/pytorch/pytorch/issues/190489

    Yields: an id that all starts of the processes by one torchrun share; None for a process started by hand.
    """
    if not process.by_torchrun:
        yield None
        return
    agent_store, *_ = next(rendezvous("env://"))
    launch_id = agent_store.compare_set("p2ch13/launch_id", "", uuid.uuid4().hex).decode()
    if process.is_alone:
        yield launch_id
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = open_store(agent_store, process)
    dist.init_process_group(backend, store=store, rank=process.rank, world_size=process.world_size)
    try:
        yield launch_id
        dist.barrier()  # rank 0 holds the store, and still writes when the others are done
    finally:
        dist.destroy_process_group()


def open_store(agent_store: Store, process: ProcessRank) -> TCPStore:
    """Open a store for this start of the processes alone, which the first of them holds.

    torchrun keeps its own store when it restarts processes: they would find the addresses of dead ones in it. Its count
    of restarts does not help: each machine's torchrun has its own.
    """
    host = os.environ["MASTER_ADDR"]
    if process.is_first:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        agent_store.set("p2ch13/port", str(store.port))
        return store
    give_up = time.monotonic() + PATIENCE_S
    while True:
        port = int(agent_store.get("p2ch13/port"))
        try:
            store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=CONNECT_S))
        except dist.DistError:
            if time.monotonic() > give_up:
                raise
            continue  # the port of the previous start, whose processes are dead
        store.set_timeout(timedelta(seconds=PATIENCE_S))
        return store


def sync_batchnorm(model: SegmentationNetwork, device: torch.device) -> SegmentationNetwork:
    """Compute batch statistics over all processes. Raises: InputError on a CPU, for which PyTorch cannot."""
    if device.type != "cuda":
        raise InputError("PyTorch has it for GPUs only, and there is none here", option="--sync-batchnorm")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return, no-untyped-call]


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a model so that each step's gradients are averaged over the processes of the run."""
    if not dist.is_initialized():
        return model
    names = signature(DistributedDataParallel).parameters
    keep_buffers = (
        "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    )  # till PyTorch 2.12
    own_buffers: dict[str, Any] = {keep_buffers: False}  # training uses no running means; see `copy_buffers_from_first`
    device_ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True, **own_buffers)


def sum_over_processes(values: torch.Tensor) -> None:
    """Replace the values, in place, by their sums over all processes of the run."""
    if dist.is_initialized():
        dist.all_reduce(values)


class _SumWithGradients(torch.autograd.Function):
    """Sum over processes whose backward pass sums the gradients, since the sum is in the loss of every process.

    `torch.distributed.nn.functional.all_reduce` does this, and is deprecated in PyTorch 2.13 in favor of a private one.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _SumWithGradients.forward(ctx, gradient.contiguous())


def sum_with_gradients(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of the values over all processes of the run; gradients flow to each process."""
    if not dist.is_initialized():
        return values
    return cast("torch.Tensor", _SumWithGradients.apply(values))  # type: ignore[no-untyped-call]


def mean_over_processes(losses: torch.Tensor) -> torch.Tensor:
    """Scale a process's losses so that `data_parallel` gives the gradient of all samples' mean loss.

    `data_parallel` averages gradients over processes, as if all had the same number of samples; in an epoch's last step
    they may not.

    Args: losses: of this process's samples, (batch,). Returns: a scalar.
    """
    if not dist.is_initialized():
        return losses.mean()
    sample_count = losses.new_full((), len(losses))
    sum_over_processes(sample_count)
    return losses.sum() * (dist.get_world_size() / sample_count)


def copy_buffers_from_first(model: nn.Module) -> None:
    """Copy the first process's buffers to all: each has running means of its own, and the first saves the model."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def copy_from_first(value: Any) -> Any:
    """Return the first process's value, in all of them."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, src=0)
    return values[0]
