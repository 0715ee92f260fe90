"""Hard negative mining: how candidates for a negative crop are scored by the model that is being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """While inside, BatchNorm takes the batch's statistics, as in training, and leaves the running ones alone.

    Running statistics begin at mean 0 and variance 1, for input in HU, and lag behind the weights later on. Against the
    scores that the same crops get in training batches, the rank correlation of scores by batch statistics was 0.97
    before the first step, 0.95 after 50, 0.94 after 100 and 0.79 after 300; by running statistics it was 0.01, 0.87,
    0.83 and 0.77 (`strong` on six phantoms, mean of two seeds).

    SyncBatchNorm takes those of this process alone: another one may have no negatives to score, and would be waited for
    in vain.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.training, norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        # In training mode it would update the running ones; in evaluation mode, without any, it takes the batch's.
        norm.training, norm.running_mean, norm.running_var = False, None, None
    try:
        yield
    finally:
        for norm, (is_training, running_mean, running_var) in zip(norms, before, strict=True):
            norm.training, norm.running_mean, norm.running_var = is_training, running_mean, running_var
