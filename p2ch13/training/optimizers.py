"""Optimizers by name, Muon, the learning rate, the EMA of the weights, and steps that a fault undoes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from p2ch13.config import OPTIMIZERS
from p2ch13.util.names import find_class

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that brings all singular values near 1
STEP_RMS = 0.2  # of a step's elements at a learning rate of 1: Adam's, so that its learning rates serve
TINY = 1e-7
WARM_UP = 0.05  # of the run
LAST_FACTOR = 0.01  # of the learning rate, at the end of a run
EMA_DECAY = 0.99  # an average of about the latest hundred steps


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter], learning_rate: float, is_recorded: bool = False
) -> Optimizer:
    """Build the optimizer of this name in `OPTIMIZERS`.

    Args: is_recorded: prepare its steps for a CUDA graph, if they can be part of one. The learning rate then is a
        tensor: a recorded number never changes.
    """
    optimizer_class, parameters = find_class(OPTIMIZERS[name], {}, "--optimizer"), list(parameters)
    options: dict[str, Any] = {"lr": learning_rate}
    if issubclass(optimizer_class, Adam | SGD):
        options["fused"] = True
    if is_recorded and "capturable" in inspect.signature(optimizer_class).parameters:
        options |= {"lr": torch.tensor(learning_rate, device=parameters[0].device), "capturable": True}
    return cast("Optimizer", optimizer_class(parameters, **options))


class Muon(Optimizer):
    """Momentum with an orthogonalized update: all its singular values are brought near 1, weight by weight.

    A convolution's weight is the matrix (out_channels, in_channels * height * width), a one-dimensional parameter a
    matrix of one row. The cost is in matrix products of that size, small beside those of the network.

    Sources: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; the length of a step from Liu et al.
    (2025), https://arxiv.org/abs/2502.16982. `torch.optim.Muon` takes 2-D parameters alone, and computes in bfloat16,
    for which many CPUs have no arithmetic.

    Args:
        params: float32.
        lr: a number, or a tensor where steps are recorded.
        momentum: share of the average that a step keeps.
        capturable: without effect: every step can be part of a CUDA graph.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: torch.Tensor | float = 3e-3,
        momentum: float = 0.95,
        capturable: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change the parameters by their gradients. `closure` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                average = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(average, group["momentum"])  # Nesterov's
                rows = ahead.shape[0] if ahead.ndim > 1 else 1
                direction = orthogonalize(ahead.reshape(rows, -1))
                length = STEP_RMS * max(direction.shape) ** 0.5
                parameter.sub_(direction.reshape(parameter.shape) * (group["lr"] * length))


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Bring a matrix's singular values to about 1 (0.7 to 1.2), by Newton-Schulz iterations.

    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide: torch.Tensor = (matrix.T if is_tall else matrix) / (matrix.norm() + TINY)
    if len(wide) == 1:  # a row has one singular value, its length
        return wide.T if is_tall else wide
    # Repeating x <- p(x x^T) x is one product of polynomials of the first x x^T: small and square.
    gram = wide @ wide.T
    factor = torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    for _ in range(ITERATIONS):
        polynomial = b * gram + c * gram @ gram
        polynomial.diagonal().add_(a)
        factor = polynomial @ factor
        gram = polynomial @ gram @ polynomial
    result: torch.Tensor = factor @ wide
    return result.T if is_tall else result


def warm_up_cosine(progress: float) -> float:
    """Compute the factor of the learning rate at a run's `progress`, 0 to 1: linear warm-up, then cosine decay.

    Not applied by `torch.optim.lr_scheduler.LambdaLR`, which counts its calls: progress is in samples, an epoch's last
    batch may be smaller, a resumed run begins anywhere, and the first step may be skipped, of which it warns.

    Source: Loshchilov and Hutter (2017), https://arxiv.org/abs/1608.03983; Goyal et al. (2017),
    https://arxiv.org/abs/1706.02677.
    """
    if progress < WARM_UP:
        return LAST_FACTOR + (1 - LAST_FACTOR) * progress / WARM_UP
    descent = (progress - WARM_UP) / (1 - WARM_UP)
    return LAST_FACTOR + (1 - LAST_FACTOR) * (1 + math.cos(math.pi * descent)) / 2


LR_FACTORS: dict[str, Callable[[float], float]] = {"constant": lambda progress: 1.0, "cosine": warm_up_cosine}


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set the learning rate, in place where it is a tensor, which a recorded step reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def ema(model: nn.Module) -> AveragedModel:
    """Copy a model, for the exponential moving average of its weights and statistics.

    Source: Polyak and Juditsky (1992), https://doi.org/10.1137/0330046.
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True)  # type: ignore[no-untyped-call]


def update_average(averaged: AveragedModel, model: nn.Module, is_bad: torch.Tensor) -> None:
    """Move the average towards the model, unless the model's step was bad.

    Args: is_bad: a bool, on the device; it is read until the first good step, with which the average begins.
    """
    if averaged.n_averaged == 0 and is_bad:
        return
    tensors = [*averaged.module.parameters(), *averaged.module.buffers()]
    before = copy_tensors(tensors)
    averaged.update_parameters(model)
    restore_if(is_bad, tensors, before)


@torch.no_grad()
def step_unless(is_bad: torch.Tensor, optimizer: Optimizer) -> None:
    """Take an optimizer's step, unless it is bad: then parameters and the optimizer's state stay as they are.

    The step is always taken, and undone on the device: reading `is_bad` would make the CPU wait, and could not be
    recorded. It is read only where the optimizer has no state to restore yet, which its first step makes.

    Args: is_bad: a bool, on the device.
    """
    if not has_state(optimizer):
        if not is_bad.item():
            optimizer.step()
        return
    before = copy_tensors(tensors_of(optimizer))
    optimizer.step()
    restore_if(is_bad, tensors_of(optimizer), before)


def has_state(optimizer: Optimizer) -> bool:
    """Tell whether the optimizer keeps state for each parameter that it changes."""
    return all(
        optimizer.state.get(parameter)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    )


def tensors_of(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    """Yield all tensors that a step changes: the parameters and their state."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield parameter
            yield from (value for value in optimizer.state.get(parameter, {}).values() if torch.is_tensor(value))


def copy_tensors(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def restore_if(is_bad: torch.Tensor, tensors: Iterable[torch.Tensor], before: Iterable[torch.Tensor]) -> None:
    """Give tensors their earlier values, if `is_bad`."""
    for tensor, value in zip(tensors, before, strict=True):
        torch.where(is_bad.to(tensor.device), value, tensor, out=tensor)
