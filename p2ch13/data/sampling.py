"""How an epoch's samples are drawn: which crops, where they are cut, and which step and process each is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from p2ch13.util.launch import Launch

# Candidates, (3, n) -> (n,): false-positive scores, the larger the harder.
CandidateScores = Callable[[torch.Tensor], torch.Tensor]


class EpochSamples(NamedTuple):
    """Where the samples of an epoch are cut: at a crop's index with a row and a col to cut it from.

    Each negative has several such candidates; in one step no two negatives have a crop in common, if there are enough.
    """

    crop_ndxs: NDArray[np.int64]  # (sample,): the first candidate's crop, known without a wait for the device
    is_negative: NDArray[np.bool_]  # (sample,)
    candidates: torch.Tensor  # (3, hard_negative_candidates, sample), on the device; a nodule's first one alone counts

    @property
    def places(self) -> torch.Tensor:
        """The first candidate of each sample: (3, sample)."""
        return self.candidates[:, 0]

    def find_hardest(self, samples: slice, score: CandidateScores) -> torch.Tensor:
        """Where samples are cut, (3, sample): negatives at the hardest of their own candidates."""
        places = self.places[:, samples].clone()
        negatives = torch.from_numpy(np.flatnonzero(self.is_negative[samples])).to(places.device)
        if len(negatives):
            candidates = self.candidates[:, :, samples][:, :, negatives]  # (3, hard_negative_candidates, negative)
            scores = score(candidates.flatten(1)).to(places.device).view(candidates.shape[1:])
            hardest = scores.argmax(dim=0).expand(3, 1, -1)  # of equal scores the first
            places[:, negatives] = candidates.gather(1, hardest)[:, 0]
        return places


@dataclass(frozen=True)
class EpochSampler:
    """Draws the samples of each epoch, which depend on the seed, the number of the epoch, and its steps.

    A pass deals all nodules, or all negative crops, once, in a new order; then the next pass begins. Where it begins in
    the middle of a step, what the step has already comes last. So the samples depend on which of them are in a step
    together: on the batch size times the number of processes, and on neither of the two for itself.

    A crop is in a step a candidate of one negative alone, unless there are fewer crops than negatives. Where there are
    too few for `hard_negative_candidates` crops each, a negative has several places in one crop among its candidates.

    With `weight_by_diameter` nodules are drawn independently of each other: one of them can come twice in a step.

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
    hard_negative_candidates: int = 1
    weight_by_diameter: bool = False

    def draw(self, epoch_ndx: int, steps: Sequence[int]) -> EpochSamples:
        """Draw the samples of an epoch. Args: steps: the samples with which steps begin, and the end: `find_steps`."""
        rng = np.random.default_rng([self.seed, epoch_ndx])
        is_negative = np.diff(np.floor(self.negatives * np.arange(self.samples_per_epoch + 1))) > 0
        negative_counts = np.diff(np.concatenate([[0], is_negative.cumsum()])[steps])  # in each step
        crop_ndxs = np.empty((self.hard_negative_candidates, self.samples_per_epoch), np.int64)
        crop_ndxs[:, ~is_negative] = self._draw_nodules(rng, np.diff(steps) - negative_counts)
        crop_ndxs[:, is_negative] = self._draw_negatives(rng, negative_counts)
        return EpochSamples(crop_ndxs[0], is_negative, self._draw_places(rng, crop_ndxs))

    def _draw_nodules(self, rng: np.random.Generator, step_counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Crops for so many samples in each step: of each nodule as often, or in proportion to its diameter."""
        crop_counts = np.array(self.nodule_crop_counts)
        if self.weight_by_diameter:
            weights = np.divide(self.diameters_mm, sum(self.diameters_mm))
            nodules: NDArray[np.int64] = rng.choice(len(crop_counts), size=step_counts.sum(), p=weights)
        else:
            nodules = np.concatenate(deal(rng, len(crop_counts), step_counts.tolist()))
        if (crop_counts == 1).all():
            return nodules
        starts = crop_counts.cumsum() - crop_counts
        drawn: NDArray[np.int64] = starts[nodules] + rng.integers(0, crop_counts[nodules])
        return drawn

    def _draw_negatives(self, rng: np.random.Generator, step_counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The crops of all candidates for so many negatives in each step: (hard_negative_candidates, negative)."""
        first = sum(self.nodule_crop_counts)
        count = self.crop_count - first
        # Of each negative of a step: as many crops as go round.
        share_sizes = np.minimum(self.hard_negative_candidates, np.maximum(1, count // np.maximum(step_counts, 1)))
        dealt = deal(rng, count, (share_sizes * step_counts).tolist())
        # np.resize repeats a negative's own crops, where there are fewer than candidates.
        of_steps = [
            np.resize(crops.reshape(share_size, step_count), (self.hard_negative_candidates, step_count))
            for crops, share_size, step_count in zip(dealt, share_sizes.tolist(), step_counts.tolist(), strict=True)
        ]
        return first + np.concatenate(of_steps, axis=1)

    def _draw_places(self, rng: np.random.Generator, crop_ndxs: NDArray[np.int64]) -> torch.Tensor:
        """(3, ...): each crop with a row and a col where it is cut."""
        offsets = rng.integers(0, self.offset_counts, size=(*crop_ndxs.shape, 2))
        places = np.concatenate([crop_ndxs[..., np.newaxis], offsets], axis=-1)
        return torch.from_numpy(np.moveaxis(places, -1, 0).copy()).to(self.device)


def deal(rng: np.random.Generator, item_count: int, step_counts: Sequence[int]) -> list[NDArray[np.int64]]:
    """Deal items like cards, so many in each step: all of them once, then all again in a new order.

    None comes twice in a step; where a step takes more than there are, none comes two times more than another.
    """
    deck = np.empty(0, np.int64)
    steps = []
    for count in step_counts:
        dealt, deck = deck[:count], deck[count:]
        while len(dealt) < count:
            times_dealt = np.bincount(dealt, minlength=item_count)
            shuffled = rng.permutation(item_count)
            shuffled = shuffled[np.argsort(times_dealt[shuffled], kind="stable")]  # what the step has comes last
            wanted = count - len(dealt)
            dealt, deck = np.concatenate([dealt, shuffled[:wanted]]), rng.permutation(shuffled[wanted:])
        steps.append(dealt)
    return steps


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
