"""Both stages of a checkpoint as one detector: scan -> nodules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from p2ch13.config import ENGINES, MIN_CANDIDATE_MM, MIN_DIAMETER_MM, NODULE_THRESHOLD
from p2ch13.data.ct import Ct
from p2ch13.detection.candidates import find_candidates, score_candidates
from p2ch13.detection.findings import Finding, number_findings, score_components
from p2ch13.detection.segment import LOWEST_THRESHOLD, as_segmenter, segment
from p2ch13.network.average import AveragedNetworks
from p2ch13.network.calibration import control_sensitivity
from p2ch13.network.checkpoint import build_finding_scorer, build_model, load_checkpoint, read_pixel_mm
from p2ch13.network.compute import get_device
from p2ch13.network.engine import choose_engine
from p2ch13.network.finding_scorer import DEFAULT, FindingScorer
from p2ch13.network.model import SegmentationNetwork
from p2ch13.util.errors import InputError
from p2ch13.util.files import FileName
from p2ch13.util.logits import to_logit, to_probability


class Detection(NamedTuple):
    """The nodules detected in a scan; labels and scores are computed before the logits are rounded."""

    logits: NDArray[np.float16]  # (index, row, col), -inf outside the searched box; for display, in half the memory
    labels: NDArray[np.int32]  # (index, row, col), the finding's number of each voxel, 0 for none
    findings: list[Finding]  # by falling logit


@dataclass(frozen=True)
class Detector:
    """The networks that search a scan.

    Attributes:
        network: the first stage, which maps slices to logits; of several checkpoints, their average.
        scorers: the second stages of all checkpoints, whose calibrated logits are averaged; none: findings are
            components of the first stage's map.
        pixel_mm: of the pixels that the first stage sees, see `segment`.
    """

    network: SegmentationNetwork
    scorers: tuple[FindingScorer, ...] = ()
    pixel_mm: float = 0.0

    @property
    def candidate_threshold(self) -> float:
        """The lowest of the second stages' own. Raises: ValueError without a second stage."""
        return min(scorer.candidate_threshold for scorer in self.scorers)

    @property
    def min_diameter_mm(self) -> float:
        """Of the smallest findings: the second stage tells small ones from noise."""
        return MIN_CANDIDATE_MM if self.scorers else MIN_DIAMETER_MM

    def choose_threshold(self, threshold: float | str | None = None, sensitivity: float | None = None) -> float:
        """Choose the probability at which findings are cut: of a finding, without a second stage of its voxels.

        Args: threshold: a probability, or one of `OPERATING_POINTS`, None for the default one; sensitivity: of
            validation nodules, see `control_sensitivity`, instead of a threshold.
        Raises: InputError for an operating point or a sensitivity without a second stage; see `control_sensitivity`.
        """
        if sensitivity is not None:
            if len(self.scorers) != 1:
                message = f"is for a checkpoint with a second stage, and here are {len(self.scorers)}; use --threshold"
                raise InputError(message, option="--sensitivity")
            return control_sensitivity(self.scorers[0].validation.nodules, sensitivity)
        if not isinstance(threshold, str | None):
            return threshold
        if self.scorers:
            points = [scorer.operating_points[threshold or DEFAULT] for scorer in self.scorers]
            return points[0] if len(points) == 1 else to_probability(fmean(map(to_logit, points)))
        if threshold is not None:
            message = f"{threshold!r} is of a second stage, and the checkpoint has none in use; give a probability"
            raise InputError(message, option="--threshold")
        return NODULE_THRESHOLD

    def describe(self, threshold: float) -> str:
        """Say what a threshold means, in a sentence."""
        if not self.scorers:
            return f"Findings are components of voxels above a probability of {threshold:g}; no second stage."
        sentence = f"Findings are shown from a calibrated probability of {threshold:.3g} on"
        if len(self.scorers) > 1:
            return f"{sentence}, by {len(self.scorers)} second stages on average."
        validation = self.scorers[0].validation
        return (
            f"{sentence}. In the {validation.scan_count} validation scans, that finds "
            f"{validation.sensitivity_at(threshold):.0%} of {len(validation.nodules)} nodules, with "
            f"{validation.false_positives_at(threshold):.2g} false positives per scan."
        )


def load_detector(
    checkpoint: FileName,
    network: str | None = None,
    second_stage: bool = True,
    device: torch.device | None = None,
    engine: str = ENGINES[0],
) -> Detector:
    """Load both stages of a checkpoint onto a device.

    Args: network: see `load_model`; second_stage: use the checkpoint's second stage, if it has one; device: None for
        `get_device`'s default; engine: of the first stage.
    Raises: InputError if the file cannot be read, see `load_segmenter`, or the engine not be used, see `choose_engine`.
    """
    checkpoint = Path(checkpoint)
    state = load_checkpoint(checkpoint)
    device = device or get_device()
    model = as_segmenter(checkpoint, build_model(checkpoint, state, network)).to(device)
    scorer = build_finding_scorer(checkpoint, state) if second_stage else None
    scorers = () if scorer is None else (scorer.to(device),)
    return Detector(choose_engine(model, engine), scorers, read_pixel_mm(checkpoint, state))


def average(detectors: Mapping[Path, Detector]) -> Detector:
    """Return the only one of the detectors, or the average of several.

    Args: detectors: of checkpoints, by their paths; at least one.
    Raises: InputError, naming the file, for a network of other context slices than the first, and for one with a second
        stage beside one without.
    """
    (first, detector), *others = detectors.items()
    for path, other in others:
        if other.network.slice_spacing_mm != detector.network.slice_spacing_mm:
            raise InputError(
                f"its slice spacing is {other.network.slice_spacing_mm} mm, that of {first} "
                f"{detector.network.slice_spacing_mm} mm; only networks of the same --slice-spacing-mm can be averaged",
                path=path,
            )
        if other.pixel_mm != detector.pixel_mm:
            raise InputError(
                f"it sees pixels of {other.pixel_mm} mm, {first} of {detector.pixel_mm} mm; --pixel-mm sets both",
                path=path,
            )
        if bool(other.scorers) != bool(detector.scorers):
            raise InputError(
                f"of this and {first}, one alone has a second stage; average the first stages by --no-second-stage",
                path=path,
            )
    if not others:
        return detector
    members = list(detectors.values())
    scorers = tuple(scorer for member in members for scorer in member.scorers)
    return Detector(AveragedNetworks([member.network for member in members]), scorers, detector.pixel_mm)


def detect(
    ct: Ct,
    detector: Detector,
    threshold: float | None = None,
    min_diameter_mm: float | None = None,
    pixel_mm: float | None = None,
    **search: Any,
) -> Detection:
    """Find the nodules of a scan.

    Args:
        threshold: probability, see `Detector.choose_threshold`; None: the detector's default. With a second stage, 0
            keeps all candidates.
        min_diameter_mm: smaller findings are dropped; pixel_mm: see `segment`; None: the detector's own.
        search: keyword arguments of `segment`.
    Raises: see `segment`.
    """
    cut = detector.choose_threshold() if threshold is None else threshold
    if min_diameter_mm is None:
        min_diameter_mm = detector.min_diameter_mm
    lowest = min(detector.candidate_threshold if detector.scorers else cut, LOWEST_THRESHOLD)
    pixels = detector.pixel_mm if pixel_mm is None else pixel_mm
    logits = segment(ct, detector.network, pixel_mm=pixels, lowest_threshold=lowest, **search)
    if detector.scorers:
        candidates = find_candidates(ct, logits, detector.candidate_threshold, min_diameter_mm)
        scored = score_candidates(ct, logits, candidates, detector.scorers)
        shown = [each for each in scored if to_probability(each.logit) >= cut]
    else:
        shown = score_components(ct, logits, cut, min_diameter_mm)
    rounded = logits.astype(np.float16)
    del logits  # the labels take as much memory
    labels, findings = number_findings(ct, shown)
    return Detection(rounded, labels, findings)
