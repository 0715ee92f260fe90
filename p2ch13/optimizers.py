"""Muon: steps that change all directions of a weight matrix alike, however unlike their gradients are."""

from __future__ import annotations

from collections.abc import Iterable
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
    Attributes: `found_inf`, as for PyTorch's fused optimizers: where it is 1, the next step changes nothing.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: torch.Tensor | float = 3e-3, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.found_inf: torch.Tensor | None = None

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
                average = state["momentum_buffer"].lerp(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(average, group["momentum"])  # Nesterov's
                rows = ahead.shape[0] if ahead.ndim > 1 else 1
                direction = orthogonalize(ahead.reshape(rows, -1))
                length = STEP_RMS * max(direction.shape) ** 0.5
                stepped = parameter - direction.reshape(parameter.shape) * (group["lr"] * length)
                self._assign(state["momentum_buffer"], average)
                self._assign(parameter, stepped)

    def _assign(self, old: torch.Tensor, new: torch.Tensor) -> None:
        """On the device, which would have to wait if it were asked whether to."""
        old.copy_(new if self.found_inf is None else torch.where(self.found_inf > 0, old, new))


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
