"""Samples of backgrounds: painted nodules, the same places without them, and what the network takes for nodules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from p2ch13.config import TrainingConfig
from p2ch13.data.crop_store import Batch
from p2ch13.training.backgrounds import Background
from p2ch13.training.learner import Learner
from p2ch13.training.painter import MAX_SHIFT, TRIES, Painter, Window, cut_window
from p2ch13.util.memory import PeriodicRelease

HARD_SHARE = 0.75  # of negatives without a painted twin, once there are hard places
PEAKS_PER_SLICE = 4
PEAK_PIXELS = 24  # apart
LEAST_LOGIT = -6.0  # of a hard place
SLICE_SAMPLES = 72  # of training, for each scored slice: scoring takes a sixth of the time
FIRST_SCORED = 4000  # samples after which slices are scored: the network knows nothing before


class BackgroundSamples:
    """Puts samples of backgrounds in the place of others in each batch, and finds hard places by the present network.

    The samples of a step depend on the seed, the step and the hard places that are known then.

    Args:
        backgrounds: at least one.
        painter: paints nodules into them.
        learner: its evaluated model finds hard places.
    Attributes: `hard_places`, (n, 5): background, index, row, col, logit.
    """

    def __init__(
        self,
        backgrounds: Sequence[Background],
        painter: Painter,
        config: TrainingConfig,
        learner: Learner,
    ) -> None:
        self.backgrounds, self.painter, self.learner = backgrounds, painter, learner
        self.share, self.seed = config.background_share, config.seed
        slices = [(ndx, k) for ndx, b in enumerate(backgrounds) for k in range(b.lung_box[0].start, b.lung_box[0].stop)]
        order = np.random.default_rng(0).permutation(len(slices))
        self.slices = np.array(slices)[order]
        self.hard_places = np.empty((0, 5), np.float32)
        self.scored_count = 0
        self._releasing = PeriodicRelease(self._release_memory)

    def mix_in(self, batches: Iterator[Batch], epoch_ndx: int, first_step: int = 0) -> Iterator[Batch]:
        """Replace the first samples of each batch: as many painted nodules as negatives, of odd numbers on average.

        Shares of a batch that are no whole numbers of samples are kept on average, too.
        """
        for step, (ct_slices, masks, series_uids, slice_ndxs) in enumerate(batches, first_step):
            rng = np.random.default_rng([self.seed, epoch_ndx, step, self.learner.process.rank])
            windows = self._draw(rng, round_at_random(rng, self.share * len(ct_slices)))
            self._releasing.count(len(windows))
            for ndx, window in enumerate(windows):
                ct_slices[ndx] = torch.from_numpy(window.hu.astype(np.float32))
                masks[ndx, 0] = torch.from_numpy(window.mask)
                series_uids[ndx] = window.background.series_uid
                slice_ndxs[ndx] = window.slice_ndx
            yield ct_slices, masks, series_uids, slice_ndxs

    def _draw(self, rng: np.random.Generator, count: int) -> list[Window]:
        """Draw windows: half of them painted; of the others half are the same without the nodule."""
        painted: list[Window] = []
        twins: list[Window] = []
        for _ in range(round_at_random(rng, count / 2)):
            pair = self.painter.paint_window(self.backgrounds[int(rng.integers(len(self.backgrounds)))], rng)
            if pair is not None:
                painted.append(pair[0])
                twins.append(pair[1])
        negative_count = count - len(painted)
        negatives = twins[: negative_count // 2]
        others = [self._draw_negative(rng) for _ in range(negative_count - len(negatives))]
        return painted + negatives + [window for window in others if window is not None]

    def _draw_negative(self, rng: np.random.Generator) -> Window | None:
        """Draw a hard place, the likelier the higher its logit, or any place in a lung; None if it shows lesions."""
        for _ in range(TRIES):
            if len(self.hard_places) and rng.random() < HARD_SHARE:
                weights = 1 / (1 + np.exp(-self.hard_places[:, 4].astype(np.float64)))
                ndx, index, row, col, _ = self.hard_places[rng.choice(len(weights), p=weights / weights.sum())]
                background = self.backgrounds[int(ndx)]
            else:
                background = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
                index, row, col = background.places[rng.integers(len(background.places))]
            shift = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, 2)
            first_row, first_col = background.window_at(row + shift[0], col + shift[1])
            window = cut_window(background, int(index), first_row, first_col)
            if not background.shows_lesion(int(index), first_row, first_col, window.hu.shape[1]):
                return window
        return None

    def _release_memory(self) -> None:
        for background in self.backgrounds:
            background.release()

    def _due(self, sample_count: int) -> int:
        return max(0, sample_count - FIRST_SCORED) // SLICE_SAMPLES

    def follow(self, sample_count: int) -> None:
        """Score the next slices if they are due. Args: sample_count: the run's samples so far."""
        while self.scored_count < self._due(sample_count):
            self._score(*self.slices[self.scored_count % len(self.slices)].tolist())
            self.scored_count += 1

    @torch.inference_mode()
    def _score(self, ndx: int, index: int) -> None:
        """Replace a slice's hard places by the highest logits of its lungs."""
        background = self.backgrounds[ndx]
        _, rows, cols = background.lung_box
        hu = torch.from_numpy(background.hu[background.context(index), rows, cols].astype(np.float32))[None]
        model, compute = self.learner.evaluated_model, self.learner.compute
        was_training = model.training
        model.eval()
        with compute.autocast():
            logits = model.logits(hu.to(compute.device).contiguous(memory_format=torch.channels_last))
        model.train(was_training)
        peaks = find_peaks(logits[0, 0].cpu().numpy())
        found = [
            (ndx, index, row + rows.start, col + cols.start, logit)
            for row, col, logit in peaks
            if background.is_clear(np.array([index, row + rows.start, col + cols.start]), 0.0)
        ]
        others = self.hard_places[(self.hard_places[:, 0] != ndx) | (self.hard_places[:, 1] != index)]
        self.hard_places = np.concatenate([others, np.array(found, np.float32).reshape(-1, 5)])

    def state_dict(self) -> dict[str, Any]:
        return {"hard_places": torch.from_numpy(self.hard_places), "scored_count": self.scored_count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises: an error of `UNREADABLE` for what is no such state."""
        places = state["hard_places"].numpy()
        if places.ndim != 2 or places.shape[1] != 5 or (len(places) and places[:, 0].max() >= len(self.backgrounds)):
            raise ValueError("hard places of other backgrounds")
        self.hard_places, self.scored_count = places, state["scored_count"]


def round_at_random(rng: np.random.Generator, number: float) -> int:
    """Round up as often as the number is above a whole one; whole ones stay, and draw nothing."""
    whole = math.floor(number)
    return whole + int(number > whole and rng.random() < number - whole)


def find_peaks(logits: NDArray[np.float32]) -> list[tuple[int, int, float]]:
    """Find the highest logits of a slice (row, col), some pixels apart: row, col and logit of each, highest first."""
    is_peak = (logits == ndimage.maximum_filter(logits, size=2 * PEAK_PIXELS + 1)) & (logits > LEAST_LOGIT)
    at = np.argwhere(is_peak)
    values = logits[is_peak]
    return [(int(at[k][0]), int(at[k][1]), float(values[k])) for k in values.argsort()[::-1][:PEAKS_PER_SLICE]]
