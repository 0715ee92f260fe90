"""Train the second stage on the first one's candidates, calibrate it, and choose its operating points."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from p2ch13.config import SENSITIVE
from p2ch13.network.calibration import choose_threshold, fit_calibration, sigmoid
from p2ch13.network.compute import Compute
from p2ch13.network.finding_scorer import DEFAULT, FindingScorer, Validation
from p2ch13.network.second_stage import SecondStage
from p2ch13.training.finding_examples import Examples, FindingExamples
from p2ch13.util.errors import InputError
from p2ch13.util.progress import progress_bar, show_progress
from p2ch13.util.threads import ThreadTuner

log = logging.getLogger(__name__)

BATCH_SIZE = 48  # half nodules, half false positives
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.01
LABEL_SMOOTHING = 0.02
FIRST_LOSS, MOST_LOSS = 0.7, 3.0  # of an example that was not seen yet: log 2; and most that counts
NOISE, HU_SCALE, HU_LEVEL = 0.04, 0.1, 0.05  # deviations, of HU scaled to -1..1
LOGITS_HIDDEN = 0.2  # share of examples without the first stage's logits
FOLDS = 2
SCORED_AT_ONCE = 64  # examples: more fill the memory
FALSE_POSITIVES = {DEFAULT: 1.0, SENSITIVE: 8.0}  # per scan, at the operating points


def train_second_stage(
    examples: Examples, chosen: NDArray[np.bool_], steps: int, seed: int, compute: Compute, threads: ThreadTuner
) -> SecondStage:
    """Train a second stage on the chosen examples, (example,).

    Raises: InputError unless there are nodules and false positives among them.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = SecondStage().to(compute.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    kinds = [np.flatnonzero(chosen & (examples.is_nodule == kind)) for kind in (True, False)]
    if not all(map(len, kinds)):
        counts = " and ".join(f"{len(kind)} {name}" for kind, name in zip(kinds, ("nodules", "others"), strict=True))
        raise InputError(f"{counts} among the candidates that a network is trained on; it needs both: give more scans")
    labels = torch.arange(BATCH_SIZE, device=compute.device) < BATCH_SIZE // 2
    targets = labels.float() * (1 - 2 * LABEL_SMOOTHING) + LABEL_SMOOTHING
    draws = [HardDraws(kind, examples.groups) for kind in kinds]
    with progress_bar(steps, "Second stage", "step") as bar:
        for _ in range(steps):
            ndxs = np.concatenate([each.draw(rng, BATCH_SIZE // 2) for each in draws])
            cubes = examples.take(ndxs, rng.integers(0, examples.view_count, len(ndxs)))
            cubes = augment(cubes.to(compute.device))
            with threads.measuring():
                with compute.autocast():
                    logits = model(cubes)
                losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
                loss = losses.mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
            for each, own in zip(draws, losses.detach().cpu().numpy().reshape(2, -1), strict=True):
                each.learn(own)
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            bar.update()
    return model.eval()


class HardDraws:
    """Draws examples of a kind: half evenly over the groups, so that small ones are seen too, half the hard ones.

    An example is the likelier drawn the larger its loss was when it was last seen. So the few false positives that look
    like nodules are seen more often than vessels, of which there are many. Losses above `MOST_LOSS` count as this:
    labels are wrong, too.

    Args: ndxs: of the kind; groups: (example,).
    """

    def __init__(self, ndxs: NDArray[np.int64], groups: NDArray[np.int64]) -> None:
        self.ndxs = ndxs
        self.members = [np.flatnonzero(groups[ndxs] == group) for group in np.unique(groups[ndxs])]
        self.losses = np.full(len(ndxs), FIRST_LOSS)
        self.drawn = np.empty(0, np.int64)

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Return examples."""
        of_groups = [rng.choice(self.members[group]) for group in rng.integers(len(self.members), size=count // 2)]
        hard = rng.choice(len(self.ndxs), count - count // 2, p=self.losses / self.losses.sum())
        self.drawn = np.concatenate([np.array(of_groups, dtype=np.int64), hard])
        return self.ndxs[self.drawn]

    def learn(self, losses: NDArray[np.float32]) -> None:
        """Take the losses of the examples that were drawn last."""
        self.losses[self.drawn] = np.minimum(losses, MOST_LOSS)


def augment(cubes: torch.Tensor) -> torch.Tensor:
    """Flip and turn cubes, change HU and add noise, hide logits: (batch, scale, channel, 32, 32, 32)."""
    for axis in (-3, -2, -1):
        is_flipped = torch.rand(len(cubes), 1, 1, 1, 1, 1, device=cubes.device) < 0.5
        cubes = torch.where(is_flipped, cubes.flip(axis), cubes)
    is_turned = torch.rand(len(cubes), 1, 1, 1, 1, 1, device=cubes.device) < 0.5
    cubes = torch.where(is_turned, cubes.transpose(-1, -2), cubes)

    def draw() -> torch.Tensor:
        return torch.randn(len(cubes), 1, 1, 1, 1, device=cubes.device)

    hu, logits = cubes.unbind(dim=2)
    hu = (hu + 1) * (1 + HU_SCALE * draw()) - 1 + HU_LEVEL * draw() + NOISE * draw().abs() * torch.randn_like(hu)
    is_hidden = torch.rand(len(cubes), 1, 1, 1, 1, device=cubes.device) < LOGITS_HIDDEN
    return torch.stack([hu.clamp(-1, 1), torch.where(is_hidden, -1.0, logits)], dim=2)


def build_scorer(
    examples: Examples,
    candidate_threshold: float,
    steps: int,
    seed: int,
    compute: Compute,
    threads: ThreadTuner,
    real_count: int = 0,
) -> FindingScorer:
    """Train a second stage on all scans, and calibrate it by the scores that each scan gets from one without it.

    Args: real_count: scans of real lungs among others that are smaller and simpler. All false positives are counted
        against them, where the operating points are chosen; 0: against all scans.
    Raises: see `train_second_stage`.
    """
    logits = cross_score(examples, steps // 2, seed, compute, threads)
    features = np.column_stack([logits, examples.features])
    calibration = fit_calibration(features, examples.is_nodule)
    validation = validate(examples.scans, sigmoid(calibration.apply(features)), examples.is_nodule)
    points = choose_operating_points(validation, real_count or validation.scan_count)
    for name, point in points.items():
        log.info(
            f"Operating point {name}: probability {point:.3f}; {validation.sensitivity_at(point):.3f} of "
            f"{len(validation.nodules)} nodules, {validation.false_positives_at(point):.2f} false positives per scan"
        )
    network = train_second_stage(examples, np.ones(len(examples), dtype=bool), steps, seed, compute, threads)
    return FindingScorer(network, calibration, candidate_threshold, points, validation)


def choose_operating_points(validation: Validation, scan_count: int) -> dict[str, float]:
    """Choose the thresholds of `FALSE_POSITIVES`.

    Args: scan_count: scans that all false positives are counted against.
    """
    return {
        name: choose_threshold(validation.false_positives, scan_count, count) for name, count in FALSE_POSITIVES.items()
    }


def cross_score(
    examples: Examples, steps: int, seed: int, compute: Compute, threads: ThreadTuner
) -> NDArray[np.float64]:
    """Score each fold's examples by a second stage that is trained on the others': logits, (example,)."""
    folds = examples.spread(split_groups(examples.scan_groups, seed))
    logits = np.empty(len(folds))
    for fold in range(FOLDS):
        model = train_second_stage(examples, folds != fold, steps, seed + 1 + fold, compute, threads)
        parts = np.array_split(np.flatnonzero(folds == fold), max(1, (folds == fold).sum() // SCORED_AT_ONCE))
        for some in show_progress(parts, "Scoring candidates", "batch"):
            logits[some] = model.score(examples.take(some)).numpy()
    return logits


def split_groups(groups: Sequence[int], seed: int) -> NDArray[np.int64]:
    """Return the fold of each scan, by its group: (scan,). Folds get as many groups, give or take one."""
    names, ndxs = np.unique(groups, return_inverse=True)
    fold_of = np.empty(len(names), np.int64)
    fold_of[np.random.default_rng(seed).permutation(len(names))] = np.arange(len(names)) % FOLDS
    return fold_of[ndxs]


def validate(
    scans: Sequence[FindingExamples], probabilities: NDArray[np.float64], is_nodule: NDArray[np.bool_]
) -> Validation:
    """Sum up what the scans' candidates reached."""
    nodules: list[float] = []
    start = 0
    for scan in scans:
        own = probabilities[start : start + len(scan)]
        nodules += [float(own[hits].max()) for hits in scan.hits] + [0.0] * scan.missed_count
        start += len(scan)
    false_positives = sorted(probabilities[~is_nodule].tolist())
    return Validation(tuple(sorted(nodules)), tuple(false_positives), len(scans))
