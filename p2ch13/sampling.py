"""How an epoch's samples are drawn: which crops, where they are cut, and which step and process each is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from util.launch import Launch

# Places, (3, n) -> (n,), the larger the harder.
PlaceRating = Callable[[torch.Tensor], torch.Tensor]


class EpochSamples(NamedTuple):
    """Where the samples of an epoch are cut. A place is a crop's index with a row and a col to cut it from."""

    crop_ndxs: NDArray[np.int64]  # (sample,): the crops of `places`, known without a wait for the device
    is_negative: NDArray[np.bool_]  # (sample,)
    places: torch.Tensor  # (3, sample), on the device
    rivals: torch.Tensor  # (3, hard_negatives - 1, sample): what a negative can be exchanged for

    def find_hardest(self, samples: slice, rate: PlaceRating) -> torch.Tensor:
        """The places of samples, (3, sample), those of negatives exchanged for the hardest of them and their rivals."""
        places = self.places[:, samples].clone()
        negatives = torch.from_numpy(np.flatnonzero(self.is_negative[samples])).to(places.device)
        if len(negatives):
            drawn = torch.cat([places[:, np.newaxis], self.rivals[:, :, samples]], dim=1)[..., negatives].flatten(1)
            places[:, negatives] = drawn[:, rate(drawn).topk(len(negatives)).indices]
        return places


@dataclass(frozen=True)
class EpochSampler:
    """Draws the samples of each epoch, which depend on the seed and the number of the epoch alone.

    Attributes: those of `TrainingLuna2dSegmentationDataset`, and
        nodule_crop_counts: how many crops each nodule has; those of the first nodule come first, and so on.
        diameters_mm: the nodules'.
        crop_count: of all crops; those after the nodules' are negatives.
        offset_counts: rows and cols at which a sample can be cut from a crop.
        device: where places are kept, so that cutting waits for no CPU.
    """

    nodule_crop_counts: Sequence[int]
    diameters_mm: Sequence[float]
    crop_count: int
    offset_counts: Sequence[int]
    samples_per_epoch: int
    seed: int = 0
    device: torch.device | str = "cpu"
    negatives: float = 0.0
    hard_negatives: int = 1
    balance_sizes: bool = False

    def draw(self, epoch_ndx: int) -> EpochSamples:
        rng = np.random.default_rng([self.seed, epoch_ndx])
        is_negative = np.diff(np.floor(self.negatives * np.arange(self.samples_per_epoch + 1))) > 0
        negative_count = int(is_negative.sum())
        negatives = np.arange(sum(self.nodule_crop_counts), self.crop_count)
        crop_ndxs = np.empty(self.samples_per_epoch, np.int64)
        crop_ndxs[~is_negative] = self._draw_nodules(rng, self.samples_per_epoch - negative_count)
        crop_ndxs[is_negative] = np.resize(rng.permutation(negatives), negative_count)
        places = self._draw_places(rng, crop_ndxs)
        # Also for samples with a nodule, which have no use for them: so each one's are found by its index.
        shape = (self.hard_negatives - 1, self.samples_per_epoch)
        others = rng.integers(sum(self.nodule_crop_counts), self.crop_count, size=shape)
        return EpochSamples(crop_ndxs, is_negative, places, self._draw_places(rng, others))

    def _draw_nodules(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Indexes of `count` crops: of each nodule as often as of any other, or in proportion to its diameter."""
        crop_counts = np.array(self.nodule_crop_counts)
        if self.balance_sizes:
            nodules = rng.choice(len(crop_counts), size=count, p=np.divide(self.diameters_mm, sum(self.diameters_mm)))
        else:
            nodules = np.resize(rng.permutation(len(crop_counts)), count)
        if (crop_counts == 1).all():
            return nodules
        starts = crop_counts.cumsum() - crop_counts
        drawn: NDArray[np.int64] = starts[nodules] + rng.integers(0, crop_counts[nodules])
        return drawn

    def _draw_places(self, rng: np.random.Generator, crop_ndxs: NDArray[np.int64]) -> torch.Tensor:
        """(3, ...): each crop with a row and a col where it is cut."""
        offsets = rng.integers(0, self.offset_counts, size=(*crop_ndxs.shape, 2))
        places = np.concatenate([crop_ndxs[..., np.newaxis], offsets], axis=-1)
        return torch.from_numpy(np.moveaxis(places, -1, 0).copy()).to(self.device)


def share_steps(sample_count: int, batch_size: int, launch: Launch) -> list[slice]:
    """This process's samples in each step.

    Up to `batch_size` of them, and in the last step as many as the others' or one more or less. There must be as many
    samples as processes.
    """
    count = launch.world_size
    return [
        slice(start + (stop - start) * launch.rank // count, start + (stop - start) * (launch.rank + 1) // count)
        for start, stop in pairwise(find_steps(sample_count, batch_size, count))
    ]


def find_steps(sample_count: int, batch_size: int, process_count: int) -> list[int]:
    """The samples with which steps begin, and the end. All processes take every step together.

    A rest of fewer samples than processes is taken along in the step before.
    """
    bounds = [*range(0, sample_count, batch_size * process_count), sample_count]
    if len(bounds) > 2 and bounds[-1] - bounds[-2] < process_count:
        del bounds[-2]
    return bounds
