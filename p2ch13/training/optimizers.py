"""Muon, momentum with an orthogonalized update; and steps of any optimizer that change nothing if they are bad."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that brings all singular values near 1
STEP_RMS = 0.2  # of a step's elements at a learning rate of 1: what Adam's have, so that its learning rates serve
TINY = 1e-7


class Muon(Optimizer):
    """Momentum whose singular values are all brought near 1, for each weight by itself.

    A convolution's weight is the matrix (out_channels, in_channels * height * width), anything of one dimension a
    matrix of one row. The work is in matrix products of that size, small beside those of the network.

    Sources: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; the length of a step from Liu et al.
    (2025), https://arxiv.org/abs/2502.16982. `torch.optim.Muon` takes matrices only, and works in bfloat16, which many
    CPUs do not calculate in.

    Args:
        params: float32.
        lr: a number, or a tensor where steps are recorded.
        momentum: what is left of a gradient after a step.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: torch.Tensor | float = 3e-3, momentum: float = 0.95) -> None:
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
    """The matrix with its singular values brought to about 1 (0.7 to 1.2), by Newton-Schulz iterations.

    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide: torch.Tensor = (matrix.T if is_tall else matrix) / (matrix.norm() + TINY)
    if len(wide) == 1:  # a row has one singular value, its length
        return wide.T if is_tall else wide
    # x <- p(x x^T) x, again and again, is one product of polynomials of the first x x^T: small and square.
    gram = wide @ wide.T
    factor = torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    for _ in range(ITERATIONS):
        polynomial = b * gram + c * gram @ gram
        polynomial.diagonal().add_(a)
        factor = polynomial @ factor
        gram = polynomial @ gram @ polynomial
    result: torch.Tensor = factor @ wide
    return result.T if is_tall else result


@torch.no_grad()
def step_unless(is_bad: torch.Tensor, optimizer: Optimizer) -> None:
    """Take an optimizer's step, unless it is bad: then parameters and the optimizer's state stay as they are.

    The step is taken in any case and taken back on the device, which would have to wait if it were asked, and could not
    record the step. It is asked where the optimizer has no state to go back to, which its first step makes.

    Args: is_bad: a bool, on the device.
    """
    if not has_state(optimizer):
        if not is_bad.item():
            optimizer.step()
        return
    before = copy_tensors(tensors_of(optimizer))
    optimizer.step()
    take_back(is_bad, tensors_of(optimizer), before)


def has_state(optimizer: Optimizer) -> bool:
    """Whether the optimizer keeps something for each parameter that it changes."""
    return all(
        optimizer.state.get(parameter)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    )


def tensors_of(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    """All that a step changes: the parameters, and what is kept for each."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield parameter
            yield from (value for value in optimizer.state.get(parameter, {}).values() if torch.is_tensor(value))


def copy_tensors(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def take_back(is_bad: torch.Tensor, tensors: Iterable[torch.Tensor], before: Iterable[torch.Tensor]) -> None:
    """Give tensors the values that they had before, if `is_bad`."""
    for tensor, value in zip(tensors, before, strict=True):
        torch.where(is_bad.to(tensor.device), value, tensor, out=tensor)
