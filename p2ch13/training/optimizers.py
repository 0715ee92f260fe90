"""Optimizers by name, Muon, the learning rate, the EMA of the weights, and steps that a fault undoes."""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
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

    A convolution's weight is the matrix (out_channels, height * width * in_channels), a one-dimensional parameter a
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
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            grads = [parameter.grad for parameter in parameters]
            averages = list(map(self._momentum_of, parameters, grads))
            torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
            ahead = torch._foreach_lerp(grads, averages, group["momentum"])  # Nesterov's
            steps = orthogonalize([as_matrix(each) for each in ahead])
            torch._foreach_mul_(steps, [STEP_RMS * max(each.shape) ** 0.5 for each in steps])
            torch._foreach_mul_(steps, group["lr"])
            torch._foreach_sub_(parameters, list(map(shape_like, steps, parameters)))

    def _momentum_of(self, parameter: nn.Parameter, grad: torch.Tensor) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        buffer: torch.Tensor = state["momentum_buffer"]
        return buffer


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """(out, in, ...) -> (out, ... * in), a view of a channels-last weight; (out,) -> (1, out)."""
    return weight.movedim(1, -1).flatten(1) if weight.ndim > 1 else weight.unsqueeze(0)


def shape_like(matrix: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Undo `as_matrix` of this weight."""
    return matrix.reshape(weight.movedim(1, -1).shape).movedim(-1, 1) if weight.ndim > 1 else matrix.squeeze(0)


def orthogonalize(matrices: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Bring each matrix's singular values to about 1 (0.7 to 1.2), by Newton-Schulz iterations.

    Repeating x <- p(x x^T) x is one product of polynomials of the first x x^T: small and square. Those of one size are
    computed together.

    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/
    """
    wide = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    wide = list(torch._foreach_div(wide, torch._foreach_add(torch._foreach_norm(wide), TINY)))
    by_size: defaultdict[int, list[int]] = defaultdict(list)
    for ndx, matrix in enumerate(wide):
        by_size[len(matrix)].append(ndx)
    by_size.pop(1, None)  # a row has one singular value, its length
    for ndxs in by_size.values():
        factors = newton_schulz(torch.stack([wide[ndx] @ wide[ndx].T for ndx in ndxs]))
        for ndx, factor in zip(ndxs, factors, strict=True):
            wide[ndx] = factor @ wide[ndx]
    return [x if x.shape == matrix.shape else x.T for x, matrix in zip(wide, matrices, strict=True)]


def newton_schulz(grams: torch.Tensor) -> torch.Tensor:
    """Compute the factors that orthogonalize matrices x from their x x^T, both (matrix, row, row)."""

    def polynomials_of(grams: torch.Tensor) -> torch.Tensor:
        a, b, c = COEFFICIENTS
        values = torch.baddbmm(grams, grams, grams, beta=b, alpha=c)
        values.diagonal(dim1=1, dim2=2).add_(a)
        return values

    polynomials = factors = polynomials_of(grams)
    for _ in range(ITERATIONS - 1):
        grams = polynomials @ grams @ polynomials
        polynomials = polynomials_of(grams)
        factors = polynomials @ factors
    return factors


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
    update = partial(averaged.update_parameters, model)
    tensors = [*averaged.module.parameters(), *averaged.module.buffers()]
    change_unless(is_bad, update, tensors, can_undo=bool(averaged.n_averaged))


def step_unless(is_bad: torch.Tensor, optimizer: Optimizer) -> None:
    """Take an optimizer's step, unless it is bad: then parameters and the optimizer's state stay as they are.

    Args: is_bad: a bool, on the device; it is read until the optimizer's first step makes the state to restore.
    """
    change_unless(is_bad, optimizer.step, tensors_of(optimizer), can_undo=has_state(optimizer))


@torch.no_grad()
def change_unless(
    is_bad: torch.Tensor, change: Callable[[], object], tensors: Iterable[torch.Tensor], can_undo: bool
) -> None:
    """Make a change of tensors, unless it is bad.

    On a GPU the change is always made, and undone on the device: reading `is_bad` would make the CPU wait, and could
    not be recorded. On a CPU it is read, which costs nothing.

    Args: is_bad: a bool, on the device; change: changes `tensors` in place; can_undo: False reads `is_bad` anyway.
    """
    if is_bad.device.type == "cpu" or not can_undo:
        if not is_bad:
            change()
        return
    tensors = list(tensors)
    before = copy_tensors(tensors)
    change()
    restore_if(is_bad, tensors, before)


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
