"""Samples of backgrounds: painted nodules, the same places without them, and what the network takes for nodules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from p2ch13.config import TRAINING_CROP_SIZE, TrainingConfig
from p2ch13.data.crop_store import Batch
from p2ch13.labels.lidc_shapes import NoduleShape
from p2ch13.phantom.nodules import draw_diameter
from p2ch13.training.backgrounds import Background
from p2ch13.training.learner import Learner
from p2ch13.training.painting import draw_nodule, paint_nodule

SIZE_RANGE_MM = (3.0, 35.0)
EVEN_SHARE = 0.5  # of diameters drawn evenly over their logarithm; the others are those of LUNA16's nodules
LIKE_SIZED = 1.3  # factor between the diameters of a shape's donor and of what is painted
LEAST_LIKE_SIZED = 20
LEAST_CONTRAST_HU, LEAST_CONTRAST_NOISE = 100.0, 1.5  # of a painted nodule: others cannot be seen
TRIES = 20  # paintings until one can be seen
MAX_SHIFT = 16  # pixels from a window's middle to what it shows
ACROSS_SLICES = 0.45  # of the diameter, from a nodule's center to the slice that is segmented
HARD_SHARE = 0.75  # of negatives without a painted twin, once there are hard places
PEAKS_PER_SLICE = 4
PEAK_PIXELS = 24  # apart
LEAST_LOGIT = -6.0  # of a hard place
SLICE_SAMPLES = 72  # of training, for each scored slice: scoring takes a sixth of the time
FIRST_SCORED = 4000  # samples after which slices are scored: the network knows nothing before


class Window(NamedTuple):
    """A window of a background, painted or not."""

    background: Background
    slice_ndx: int  # of the middle slice
    hu: NDArray[np.int16]  # (7, row, col)
    mask: NDArray[np.bool_]  # (row, col), of the middle slice


class Painter:
    """Draws new nodules and paints them. Args: shapes: at least one."""

    def __init__(self, shapes: Sequence[NoduleShape]) -> None:
        self.shapes = sorted(shapes, key=lambda shape: shape.diameter_mm)
        self.diameters_mm = np.array([shape.diameter_mm for shape in self.shapes])

    def choose_shape(self, rng: np.random.Generator, diameter_mm: float) -> NoduleShape:
        """Choose a shape of about this size: small nodules are rounder than large ones."""
        first, last = np.searchsorted(self.diameters_mm, [diameter_mm / LIKE_SIZED, diameter_mm * LIKE_SIZED])
        if last - first < LEAST_LIKE_SIZED:
            first = max(0, min(first, len(self.shapes) - LEAST_LIKE_SIZED))
            last = max(last, first + LEAST_LIKE_SIZED)
        return self.shapes[int(rng.integers(first, min(last, len(self.shapes))))]

    def paint_window(self, background: Background, rng: np.random.Generator) -> tuple[Window, Window] | None:
        """Paint a nodule into a window of a lung, see `Background.draw_center`.

        Returns: the window with it, and the same without it; None if no nodule can be seen after some tries.
        """
        for _ in range(TRIES):
            diameter_mm = draw_size(rng)
            center = background.draw_center(rng, diameter_mm)
            if center is None:
                continue
            reach = ACROSS_SLICES * diameter_mm / background.vx_size_irc[0]
            index = int(np.clip(round(center[0] + rng.uniform(-reach, reach)), 0, len(background.hu) - 1))
            shift = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, 2)
            row, col = background.window_at(*(center[1:] + shift))
            without = cut_window(background, index, row, col)
            size = without.hu.shape[1]
            if background.shows_lesion(index, row, col, size):
                continue
            slices, rows, cols = background.context(index), row + np.arange(size), col + np.arange(size)
            axes_mm = [
                (ndxs - middle) * step
                for ndxs, middle, step in zip((slices, rows, cols), center, background.vx_size_irc, strict=True)
            ]
            wall = background.wall[slices, row : row + size, col : col + size]
            hu = without.hu.copy()
            nodule = draw_nodule(rng, self.choose_shape(rng, diameter_mm), diameter_mm)
            mask = paint_nodule(hu, axes_mm, nodule, background.look, wall, background.vx_size_irc, rng)
            if is_visible(without.hu, hu, mask, background.look.noise_hu):
                return Window(background, index, hu, mask[len(mask) // 2]), without
        return None


def draw_size(rng: np.random.Generator) -> float:
    """Draw a diameter in mm."""
    if rng.random() < EVEN_SHARE:
        return float(np.exp(rng.uniform(*np.log(SIZE_RANGE_MM))))
    return draw_diameter(rng)


def is_visible(before: NDArray[np.int16], after: NDArray[np.int16], mask: NDArray[np.bool_], noise_hu: float) -> bool:
    """Whether a painted nodule stands out from what was there: on average over its mask, all shaped alike."""
    if not mask.any():
        return False
    contrast_hu = float((after[mask].astype(np.float32) - before[mask]).mean())
    return contrast_hu > max(LEAST_CONTRAST_HU, LEAST_CONTRAST_NOISE * noise_hu / math.sqrt(np.count_nonzero(mask)))


def cut_window(background: Background, index: int, row: int, col: int) -> Window:
    """Cut the window of a slice, from this row and col on, without nodule."""
    rows, cols = slice(row, row + TRAINING_CROP_SIZE), slice(col, col + TRAINING_CROP_SIZE)
    hu = background.hu[background.context(index), rows, cols]
    return Window(background, index, hu, np.zeros(hu.shape[1:], dtype=bool))


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

    def mix_in(self, batches: Iterator[Batch], epoch_ndx: int, first_step: int = 0) -> Iterator[Batch]:
        """Replace the first samples of each batch: as many painted nodules as negatives, or one more."""
        for step, (ct_slices, masks, series_uids, slice_ndxs) in enumerate(batches, first_step):
            rng = np.random.default_rng([self.seed, epoch_ndx, step, self.learner.process.rank])
            windows = self._draw(rng, round(self.share * len(ct_slices)))
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
        for _ in range(count - count // 2):
            pair = self.painter.paint_window(self.backgrounds[int(rng.integers(len(self.backgrounds)))], rng)
            if pair is not None:
                painted.append(pair[0])
                twins.append(pair[1])
        negative_count = count - len(painted)
        negatives = twins[: negative_count // 2]
        negatives += [self._draw_negative(rng) for _ in range(negative_count - len(negatives))]
        return painted + negatives

    def _draw_negative(self, rng: np.random.Generator) -> Window:
        """Draw a hard place, the likelier the higher its logit, or any place in a lung."""
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
                break
        return window

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


def find_peaks(logits: NDArray[np.float32]) -> list[tuple[int, int, float]]:
    """Find the highest logits of a slice (row, col), some pixels apart: row, col and logit of each, highest first."""
    is_peak = (logits == ndimage.maximum_filter(logits, size=2 * PEAK_PIXELS + 1)) & (logits > LEAST_LOGIT)
    at = np.argwhere(is_peak)
    values = logits[is_peak]
    return [(int(at[k][0]), int(at[k][1]), float(values[k])) for k in values.argsort()[::-1][:PEAKS_PER_SLICE]]
