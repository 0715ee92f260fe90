"""Hard negative mining: scores of candidates for a negative crop, by the model that is being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from p2ch13.network.compute import Compute
from p2ch13.network.model import SegmentationNetwork
from p2ch13.training.losses import false_positive_score


@torch.no_grad()
def score_negatives(
    ct_slices: torch.Tensor, is_ignored: torch.Tensor, model: SegmentationNetwork, compute: Compute
) -> torch.Tensor:
    """Score how hard crops are for the model, by their own batch statistics: (batch,).

    Args: ct_slices: (batch, 7, row, col) in HU; is_ignored: (batch, 1, row, col), the pixels that do not count.
    """
    with batch_statistics(model), compute.autocast():
        logits = model.logits(ct_slices.contiguous(memory_format=torch.channels_last))
    return false_positive_score(logits, is_ignored)


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm uses the batch's statistics, as in training, and leaves the running ones alone.

    Running statistics begin at mean 0 and variance 1, for input in HU, so that the first scores by them are random, and
    lag behind the weights later on: crops would be ranked differently from what the trained network sees.

    SyncBatchNorm uses those of this process alone: another one may have no negatives to score.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.training, norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        # In training mode it would update the running ones; in evaluation mode without any it uses the batch's.
        norm.training, norm.running_mean, norm.running_var = False, None, None
    try:
        yield
    finally:
        for norm, (is_training, running_mean, running_var) in zip(norms, before, strict=True):
            norm.training, norm.running_mean, norm.running_var = is_training, running_mean, running_var
