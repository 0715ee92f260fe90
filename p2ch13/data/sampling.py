"""Drawing an epoch's samples: which crops, where windows are cut, and which step and process each is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from p2ch13.config import SamplingOptions
from p2ch13.util.errors import InputError
from p2ch13.util.files import in_gb
from p2ch13.util.process_rank import ProcessRank

BYTES_PER_SAMPLE = 80  # while an epoch is drawn, for each of its candidates: 73 to 77 were measured
MIN_NEGATIVE_SLICES = 4  # of each scan, where a dataset has slices without nodule


class EpochSamples(NamedTuple):
    """The places of an epoch's samples: a crop's index, and a row and a col offset in it.

    Each negative has several candidates; in one step no two negatives share a crop, if there are enough.
    """

    crop_ndxs: NDArray[np.int64]  # (sample,): the first candidate's crop, known without a wait for the device
    is_negative: NDArray[np.bool_]  # (sample,)
    candidates: torch.Tensor  # (3, candidate, sample), on the device; nodules use their first candidate

    @property
    def places(self) -> torch.Tensor:
        """The first candidate of each sample: (3, sample)."""
        return self.candidates[:, 0]

    def find_hardest(self, samples: slice, hardness: torch.Tensor) -> torch.Tensor:
        """Return the places of samples, (3, sample), negatives at their hardest candidates.

        Args: hardness: of each crop, (crop,), the larger the harder.
        """
        places = self.places[:, samples].clone()
        negatives = torch.from_numpy(np.flatnonzero(self.is_negative[samples])).to(places.device)
        if len(negatives):
            candidates = self.candidates[:, :, samples][:, :, negatives]  # (3, candidate, negative)
            hardest = hardness[candidates[0]].argmax(dim=0).expand(3, 1, -1)  # the first of equal ones
            places[:, negatives] = candidates.gather(1, hardest)[:, 0]
        return places


@dataclass(frozen=True)
class EpochSampler:
    """Draws the samples of each epoch from the seed, the epoch's number and its steps.

    A pass deals all nodules, or all negative crops, once, in a new order; then the next pass begins. If it begins in
    the middle of a step, crops that the step already has come last. So the samples depend on the batch size times the
    number of processes, and on neither of the two alone.

    In a step a crop is a candidate of one negative alone, unless there are fewer crops than negatives. If there are
    too few crops for all candidates, a negative has several places in one crop among its candidates.

    With `weight_by_diameter` nodules are drawn independently: one can come twice in a step.

    Attributes:
        nodule_crop_counts: number of crops of each nodule; the first nodule's crops come first, and so on.
        diameters_mm: of the nodules.
        crop_count: number of all crops; negatives follow the nodules.
        offset_counts: row and col offsets at which a window can be cut from a crop.
        samples_per_epoch, seed: those of `TrainingLuna2dSegmentationDataset`.
        device: holds the places, so that cutting does not wait for the CPU.
        options: which samples are negatives and how crops are drawn.
    """

    nodule_crop_counts: Sequence[int]
    diameters_mm: Sequence[float]
    crop_count: int
    offset_counts: Sequence[int]
    samples_per_epoch: int
    seed: int = 0
    device: torch.device | str = "cpu"
    options: SamplingOptions = SamplingOptions()  # noqa: RUF009  # frozen

    @property
    def candidate_count(self) -> int:
        return count_candidates(self.options)

    def draw(self, epoch_ndx: int, steps: Sequence[int]) -> EpochSamples:
        """Draw the samples of an epoch. Args: steps: the bounds of its steps, see `find_steps`."""
        rng = np.random.default_rng([self.seed, epoch_ndx])
        is_negative = np.diff(np.floor(self.options.negatives * np.arange(self.samples_per_epoch + 1))) > 0
        negative_counts = np.diff(np.concatenate([[0], is_negative.cumsum()])[steps])  # in each step
        crop_ndxs = np.empty((self.candidate_count, self.samples_per_epoch), np.int64)
        crop_ndxs[:, ~is_negative] = self._draw_nodules(rng, np.diff(steps) - negative_counts)
        crop_ndxs[:, is_negative] = self._draw_negatives(rng, negative_counts)
        return EpochSamples(crop_ndxs[0], is_negative, self._draw_places(rng, crop_ndxs))

    def _draw_nodules(self, rng: np.random.Generator, step_counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw the crops of so many nodules in each step: all equally often, or in proportion to their diameter."""
        crop_counts = np.array(self.nodule_crop_counts)
        if self.options.weight_by_diameter:
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
        """Draw the crops of the candidates of so many negatives in each step: (candidate, negative)."""
        first = sum(self.nodule_crop_counts)
        count = self.crop_count - first
        # Each negative of a step gets the same number of crops, as many as there are for all.
        share_sizes = np.minimum(self.candidate_count, np.maximum(1, count // np.maximum(step_counts, 1)))
        dealt = deal(rng, count, (share_sizes * step_counts).tolist())
        # np.resize repeats a negative's own crops if it has fewer than candidates.
        of_steps = [
            np.resize(crops.reshape(share_size, step_count), (self.candidate_count, step_count))
            for crops, share_size, step_count in zip(dealt, share_sizes.tolist(), step_counts.tolist(), strict=True)
        ]
        return first + np.concatenate(of_steps, axis=1)

    def _draw_places(self, rng: np.random.Generator, crop_ndxs: NDArray[np.int64]) -> torch.Tensor:
        """Add a row and a col offset to each crop: (3, ...)."""
        offsets = rng.integers(0, self.offset_counts, size=(*crop_ndxs.shape, 2))
        places = np.concatenate([crop_ndxs[..., np.newaxis], offsets], axis=-1)
        return torch.from_numpy(np.moveaxis(places, -1, 0).copy()).to(self.device)


def count_candidates(options: SamplingOptions) -> int:
    """Return the number of crops that a negative is chosen from."""
    return options.hard_negative_candidates if options.negatives else 1


def check_memory(samples_per_epoch: int, options: SamplingOptions, available_bytes: float) -> None:
    """Raises: InputError if drawing an epoch's samples takes more memory than there is."""
    needed = samples_per_epoch * count_candidates(options) * BYTES_PER_SAMPLE
    if needed > available_bytes:
        counts = f"{samples_per_epoch:,} samples take {in_gb(needed)} of memory, {in_gb(available_bytes)} are free"
        raise InputError(f"{counts}; use fewer, and more --epochs", option="--samples-per-epoch")


def deal(rng: np.random.Generator, item_count: int, step_counts: Sequence[int]) -> list[NDArray[np.int64]]:
    """Deal items like cards, so many in each step: all of them once, then all again in a new order.

    No item comes twice in a step; if a step takes more than there are, their counts differ by at most one.
    """
    deck = np.empty(0, np.int64)
    steps = []
    for count in step_counts:
        dealt, deck = deck[:count], deck[count:]
        while len(dealt) < count:
            times_dealt = np.bincount(dealt, minlength=item_count)
            shuffled = rng.permutation(item_count)
            shuffled = shuffled[np.argsort(times_dealt[shuffled], kind="stable")]  # the step already has the last ones
            wanted = count - len(dealt)
            dealt, deck = np.concatenate([dealt, shuffled[:wanted]]), rng.permutation(shuffled[wanted:])
        steps.append(dealt)
    return steps


def share_steps(sample_count: int, batch_size: int, process: ProcessRank) -> list[slice]:
    """Return this process's samples in each step: up to `batch_size`, an equal share, give or take one, of the last.

    There must be as many samples as processes.
    """
    count = process.world_size
    return [
        slice(start + (stop - start) * process.rank // count, start + (stop - start) * (process.rank + 1) // count)
        for start, stop in pairwise(find_steps(sample_count, batch_size, count))
    ]


def find_steps(sample_count: int, batch_size: int, process_count: int) -> list[int]:
    """Return the bounds of the steps: the first sample of each, and the end. All processes take every step together.

    The last step takes along a remainder of fewer samples than processes.
    """
    bounds = [*range(0, sample_count, batch_size * process_count), sample_count]
    if len(bounds) > 2 and bounds[-1] - bounds[-2] < process_count:
        del bounds[-2]
    return bounds


def choose_negative_slices(slice_count: int, positive_indexes: Sequence[int], share: float) -> list[int]:
    """Choose evenly spread slices without nodule: `share` per nodule slice, and at least `MIN_NEGATIVE_SLICES`."""
    if not share:
        return []
    others = [ndx for ndx in range(slice_count) if ndx not in positive_indexes]
    count = min(max(round(share * len(positive_indexes)), MIN_NEGATIVE_SLICES), len(others))
    return [others[int((ndx + 0.5) * len(others) / count)] for ndx in range(count)]
