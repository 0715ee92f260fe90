"""Hard negative mining: how candidates for a negative crop are scored by the model that is being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """While inside, BatchNorm takes the batch's statistics, as in training, and leaves the running ones alone.

    Running statistics begin at mean 0 and variance 1, for input in HU, so that the first scores by them are chance, and
    they lag behind the weights later on: crops would be ranked otherwise than the network that is trained sees them.

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
