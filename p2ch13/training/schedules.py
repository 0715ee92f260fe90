"""What changes in the course of a run: the learning rate, and the average of the latest weights."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from p2ch13.training.optimizers import copy_tensors, take_back

WARM_UP = 0.05  # of the run
LAST_FACTOR = 0.01  # of the learning rate, at the end of a run
AVERAGE_DECAY = 0.99  # what is left of an average after a step: it is one of the latest hundred


def warm_up_cosine(progress: float) -> float:
    """The factor of the learning rate at a run's `progress`, 0 to 1: up in a line, then down along half a cosine.

    Source: Loshchilov and Hutter (2017), https://arxiv.org/abs/1608.03983; Goyal et al. (2017),
    https://arxiv.org/abs/1706.02677.
    """
    if progress < WARM_UP:
        return LAST_FACTOR + (1 - LAST_FACTOR) * progress / WARM_UP
    descent = (progress - WARM_UP) / (1 - WARM_UP)
    return LAST_FACTOR + (1 - LAST_FACTOR) * (1 + math.cos(math.pi * descent)) / 2


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set it in place where it is a tensor, which a recorded step reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def update_average(averaged: AveragedModel, model: nn.Module, is_bad: torch.Tensor) -> None:
    """Move the average towards the model, unless the model's step was bad: then the average stays as it is.

    Args: is_bad: a bool, on the device; it is asked until there was a good step, with which the average begins.
    """
    if averaged.n_averaged == 0 and is_bad:
        return
    tensors = [*averaged.module.parameters(), *averaged.module.buffers()]
    before = copy_tensors(tensors)
    averaged.update_parameters(model)
    take_back(is_bad, tensors, before)


def ema(model: nn.Module) -> AveragedModel:
    """A copy of the model that follows the moving average of its weights and of its statistics.

    Source: Polyak and Juditsky (1992), https://doi.org/10.1137/0330046.
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY), use_buffers=True)  # type: ignore[no-untyped-call]
