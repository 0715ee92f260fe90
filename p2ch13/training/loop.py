"""The training loop as functions: a step, an epoch, a validation. They read no file and no option of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from p2ch13.config import NODULE_LOGIT
from p2ch13.data.crop_store import Batch
from p2ch13.evaluation.metrics import count_pixels, find_nodule_samples
from p2ch13.network.compute import Compute
from p2ch13.network.model import SegmentationNetwork
from p2ch13.training.distributed import mean_over_processes
from p2ch13.training.non_finite import find_faults, find_validation_faults
from p2ch13.training.optimizers import copy_tensors, restore_if, step_unless
from p2ch13.training.totals import EpochTotals, StepResult
from p2ch13.util.threads import ThreadTuner

# HU, (batch, 7, row, col), and masks, (batch, 1, row, col) bool, on any device; the latter two as in `Batch`.
Step = Callable[[torch.Tensor, torch.Tensor], StepResult]
# Logits and masks, both (batch, 1, row, col) -> losses and sums, see `segmentation_loss`.
Loss = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
AfterStep = Callable[[Batch, StepResult], None]


def train_one_epoch(
    step: Step, batches: Iterable[Batch], totals: EpochTotals, after_step: AfterStep, threads: ThreadTuner
) -> EpochTotals:
    """Take a step with each batch, and add it to the totals.

    Args: after_step: called when a step is done and added; threads: chooses how many compute.
    """
    for batch in batches:
        ct_slices, label_mask, *_ = batch
        with threads.measuring(ct_slices.numel()):
            result = step(ct_slices, label_mask)
        totals.add(result)
        after_step(batch, result)
    return totals


def train_step(
    ct_slices: torch.Tensor,
    label_mask: torch.Tensor,
    model: nn.Module,
    loss: Loss,
    optimizer: Optimizer,
    augment: nn.Module,
    compute: Compute,
) -> StepResult:
    """Take one step of the optimizer, unless a loss or gradient is not finite, in any process.

    Such a step leaves weights, the optimizer's state and BatchNorm's statistics as they are. The device decides that by
    itself: asking it would make the CPU wait, and the step could not be recorded as a CUDA graph.

    Args: model: (batch, 7, row, col) HU -> (batch, 1, row, col) logits, see `LogitNetwork`.
    """
    ct_slices, label_mask = augment(*compute.to_device(ct_slices, label_mask))
    optimizer.zero_grad()
    statistics = copy_tensors(model.buffers())
    with compute.autocast():
        logits = model(ct_slices)  # (batch, 1, row, col), float32
    losses, sums = loss(logits, label_mask)  # (batch,), (batch, 5)
    mean_over_processes(losses).backward()  # type: ignore[no-untyped-call]
    faults = find_faults(losses, model.parameters())
    step_unless(faults.any(), optimizer)
    restore_if(faults.any(), model.buffers(), statistics)
    return StepResult(losses.detach(), count_pixels(logits > NODULE_LOGIT, label_mask), sums.detach(), faults)


@torch.inference_mode()
def validate(
    model: SegmentationNetwork,
    batches: Iterable[Batch],
    loss: Loss,
    compute: Compute,
    after_step: AfterStep,
    threads: ThreadTuner,
) -> tuple[EpochTotals, EpochTotals]:
    """Compute the losses and counts of whole slices.

    Args: model: in evaluation mode; after_step, threads: see `train_one_epoch`.
    Returns: the totals of slices that hold nodule, and those of all slices.
    """
    of_nodules, of_all = EpochTotals(compute.device), EpochTotals(compute.device)
    for batch in batches:
        with threads.measuring(batch[0].numel()):
            ct_slices, label_mask = compute.to_device(*batch[:2])
            with compute.autocast():
                logits = model.logits(ct_slices)
            losses, sums = loss(logits, label_mask)
            counts = count_pixels(logits > NODULE_LOGIT, label_mask)
        result = StepResult(losses, counts, sums, find_validation_faults(losses))
        of_nodules.add(result, find_nodule_samples(counts))
        of_all.add(result)
        after_step(batch, result)
    return of_nodules, of_all
