"""One run in several processes, on one machine or many, as torchrun starts them."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from p2ch13.network.model import SegmentationNetwork
from p2ch13.util.errors import InputError
from p2ch13.util.launch import Launch

CONNECT_S, PATIENCE_S = 3, 300  # for one try to reach the first process, and for all


@contextmanager
def process_group(launch: Launch) -> Iterator[str | None]:
    """While inside, the processes of a run can talk to each other.

    Nothing that `data_parallel` has made may be in use any more at the end: it keeps the threads that talk alive. One
    that is left when Python ends may hold the last tensor that it sent, and then the process dies, with all work done.
    Source: https://github.com/pytorch/pytorch/issues/190489

    Yields: a name that is the same for all starts of the processes by one torchrun, and for no other one; None for a
    process that was started by hand.
    """
    if not launch.by_torchrun:
        yield None
        return
    agent_store, *_ = next(rendezvous("env://"))
    launch_id = agent_store.compare_set("p2ch13/launch_id", "", uuid.uuid4().hex).decode()
    if launch.is_alone:
        yield launch_id
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    store = open_store(agent_store, launch)
    dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.world_size)
    try:
        yield launch_id
        dist.barrier()  # the first process, which holds the store, still writes when the others have nothing left to do
    finally:
        dist.destroy_process_group()


def open_store(agent_store: Store, launch: Launch) -> TCPStore:
    """A store for this start of the processes alone, held by the first of them.

    torchrun keeps its own store when it starts processes anew, and in it they would find the addresses of those that
    are gone. Its count of restarts is no help: each machine's torchrun has one of its own.
    """
    host = os.environ["MASTER_ADDR"]
    if launch.is_first:
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
            continue  # the port of the start before, whose processes are gone
        store.set_timeout(timedelta(seconds=PATIENCE_S))
        return store


def sync_batchnorm(model: SegmentationNetwork, device: torch.device) -> SegmentationNetwork:
    """The model with batch statistics over all processes. Raises: InputError on a CPU, for which PyTorch has none."""
    if device.type != "cuda":
        raise InputError("PyTorch has it for GPUs only, and there is none here", option="--sync-batchnorm")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return, no-untyped-call]


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as the processes of a run train it together: each step's gradients are averaged over them."""
    if not dist.is_initialized():
        return model
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,  # training does not use running means; see `copy_buffers_from_first`
        gradient_as_bucket_view=True,
    )


def sum_over_processes(values: torch.Tensor) -> None:
    """Replace the values, in place, by their sums over all processes of the run."""
    if dist.is_initialized():
        dist.all_reduce(values)


class _SumWithGradients(torch.autograd.Function):
    """Each process's gradient of the sum counts: the sum is in the loss of all of them.

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
    """The sum of the values over all processes of the run, through which each process's gradients flow."""
    if not dist.is_initialized():
        return values
    return cast("torch.Tensor", _SumWithGradients.apply(values))  # type: ignore[no-untyped-call]


def mean_over_processes(losses: torch.Tensor) -> torch.Tensor:
    """What a process's backward pass begins with, so that `data_parallel` gives the gradient of all samples' mean loss.

    It averages the gradients of the processes, as if all had the same number of samples; in an epoch's last step one
    can have more than another.

    Args: losses: of this process's samples, (batch,).
    """
    if not dist.is_initialized():
        return losses.mean()
    sample_count = losses.new_full((), len(losses))
    sum_over_processes(sample_count)
    return losses.sum() * (dist.get_world_size() / sample_count)


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
