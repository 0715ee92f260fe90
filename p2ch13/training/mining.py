"""Hard negative mining: scores of the negative crops, by the model that is being trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from p2ch13.data.crop_store import CropStore
from p2ch13.network.compute import Compute
from p2ch13.network.model import SegmentationNetwork
from p2ch13.training.background_samples import BackgroundSamples
from p2ch13.training.distributed import sum_over_processes
from p2ch13.training.losses import false_positive_score
from p2ch13.util.process_rank import ProcessRank

UNSCORED = -torch.inf
SCORED_CROPS = 16  # of a batch; those of a step of training would be too few for its statistics
SAMPLES_PER_SCORED_CROP = 2  # of training; scoring a crop costs a seventh of a sample
SCORED_MARGIN = 16  # rows and cols at each side that a score skips: the negative is in the middle
# Rows and cols at each side that are not computed. Without them half the work is left, and ranks change no more than
# they do if other crops are in the batch: rank correlations of 0.76 to 0.86 and 0.74 to 0.81, of two models.
UNSEEN_MARGIN = 8


class HardNegatives:
    """False-positive scores of a training set's negative crops, by the model that is being trained.

    While it learns, a few crops after the other are scored anew: a score for each candidate of each step would take as
    long as the steps. Every one has a score after two samples of training for each negative crop.

    Args:
        store: of the training set.
        model: scored as in training, by each batch's own statistics.
        sample_count: the run's samples so far; crops that would have been scored in these are not.
    Attributes: `hardness`, (crop,), on the device of the crops: the mean logit of a crop's false positives, the larger
        the harder; of crops that are not scored yet, lower than any.
    """

    def __init__(
        self,
        store: CropStore,
        model: SegmentationNetwork,
        compute: Compute,
        process: ProcessRank,
        sample_count: int = 0,
    ) -> None:
        self.store, self.model, self.compute, self.process = store, model, compute, process
        first = sum(store.nodule_crop_counts)
        # In the order of the store, the first pass would prefer the crops of the first scans.
        order = torch.randperm(len(store.crop_list) - first, generator=torch.Generator().manual_seed(0))
        self.negatives = first + order
        self.hardness = torch.full((len(store.crop_list),), UNSCORED, device=store.windows.device)
        self.scored_count = sample_count // SAMPLES_PER_SCORED_CROP  # crops, over all passes

    def follow(self, sample_count: int) -> None:
        """Score the next crops if they are due.

        Args: sample_count: the run's samples so far, the same in all processes.
        """
        batch_count = SCORED_CROPS * self.process.world_size
        while self.scored_count + batch_count <= sample_count // SAMPLES_PER_SCORED_CROP:
            at = torch.arange(self.scored_count, self.scored_count + batch_count) % len(self.negatives)
            self._score(self.negatives[at])
            self.scored_count += batch_count

    def _score(self, crops: torch.Tensor) -> None:
        """Score crops, each process its share of them."""
        own = self.process.share(range(len(crops)))
        scores = torch.zeros(len(crops), device=self.compute.device)
        scores[own] = score_crops(*self.store.cut_windows(middle_of(crops[own], self.store)), self.model, self.compute)
        sum_over_processes(scores)
        self.hardness[crops] = scores.to(self.hardness.device)

    def state_dict(self) -> dict[str, Any]:
        return {"hardness": self.hardness, "scored_count": self.scored_count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises: an error of `UNREADABLE` for what is no such state of this training set."""
        if state["hardness"].shape != self.hardness.shape:
            raise ValueError(f"scores of {len(state['hardness'])} crops, not {len(self.hardness)}")
        self.hardness.copy_(state["hardness"])
        self.scored_count = state["scored_count"]


class Mining:
    """Hard negatives of all kinds.

    Args: crops: of the data folder; backgrounds: of unannotated lungs; None: without.
    """

    def __init__(self, crops: HardNegatives | None, backgrounds: BackgroundSamples | None) -> None:
        self.hardness = None if crops is None else crops.hardness
        parts = {"crops": crops, "backgrounds": backgrounds}
        self.parts = {name: part for name, part in parts.items() if part is not None}

    def follow(self, sample_count: int) -> None:
        """Look for hard negatives by the present model. Args: sample_count: the run's samples so far."""
        for part in self.parts.values():
            part.follow(sample_count)

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises: an error of `UNREADABLE` for what is no such state of these negatives."""
        if "hardness" in state:  # of a run without backgrounds, by an earlier version
            state = {"crops": state}
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def middle_of(crops: torch.Tensor, store: CropStore) -> torch.Tensor:
    """Return the place of each crop's middle window: (3, crop)."""
    row, col = ((count - 1) // 2 for count in store.windows.shape[2:4])
    return torch.stack([crops, torch.full_like(crops, row), torch.full_like(crops, col)]).to(store.windows.device)


@torch.no_grad()
def score_crops(
    ct_slices: torch.Tensor, masks: torch.Tensor, model: SegmentationNetwork, compute: Compute
) -> torch.Tensor:
    """Score how hard the middles of crops are for the model, which sees them up to `UNSEEN_MARGIN`: (batch,).

    Args: ct_slices: (batch, 7, row, col) in HU; masks: (batch, 1, row, col), nodules, which do not count.
    """
    ct_slices, masks = (without_margin(each, UNSEEN_MARGIN) for each in (ct_slices, masks))
    is_ignored = torch.ones_like(masks)
    margin = SCORED_MARGIN - UNSEEN_MARGIN
    without_margin(is_ignored, margin).copy_(without_margin(masks, margin))
    with batch_statistics(model), compute.autocast():
        logits = model.logits(ct_slices.contiguous(memory_format=torch.channels_last))
    return false_positive_score(logits, is_ignored)


def without_margin(values: torch.Tensor, margin: int) -> torch.Tensor:
    """View (..., row, col) without so many rows and cols at each side."""
    return values[..., margin:-margin, margin:-margin]


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm uses the batch's statistics, as in training, and leaves the running ones alone.

    Running statistics begin at mean 0 and variance 1, for input in HU, so that the first scores by them are random, and
    lag behind the weights later on: crops would be ranked differently from what the trained network sees.

    SyncBatchNorm uses those of this process alone.
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
