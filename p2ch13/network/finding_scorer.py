"""A second stage as a checkpoint holds it: network, calibration, thresholds and what it reached in validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from p2ch13.config import SENSITIVE
from p2ch13.network.calibration import Calibration, Floats
from p2ch13.network.second_stage import SecondStage

SECOND_STAGE = "second_stage"  # key of a checkpoint
DEFAULT = "default"
OPERATING_POINTS = (DEFAULT, SENSITIVE)


@dataclass(frozen=True)
class Validation:
    """Findings of the validation scans, by their calibrated probabilities, sorted.

    Attributes:
        nodules: the highest probability of a finding that hits each nodule, at least one; 0 for a missed one.
        false_positives: the probabilities of all of them.
    """

    nodules: tuple[float, ...]
    false_positives: tuple[float, ...]
    scan_count: int

    def sensitivity_at(self, threshold: float) -> float:
        """Compute the share of nodules that are found at a threshold."""
        return float(np.mean(np.array(self.nodules) >= threshold))

    def false_positives_at(self, threshold: float) -> float:
        """Compute the mean number of false positives in a scan at a threshold."""
        return float(np.count_nonzero(np.array(self.false_positives) >= threshold)) / self.scan_count


@dataclass(frozen=True)
class FindingScorer:
    """Score findings by a second stage.

    Attributes:
        candidate_threshold: probability of the first stage above which voxels are parts of a candidate.
        operating_points: probability of a finding from which on it is shown, for each of `OPERATING_POINTS`.
    """

    network: SecondStage
    calibration: Calibration
    candidate_threshold: float
    operating_points: Mapping[str, float]
    validation: Validation

    def score(
        self, cubes: torch.Tensor, first_stage_logits: ArrayLike, diameters_mm: ArrayLike
    ) -> tuple[Floats, Floats]:
        """Compute the second stage's logits and the calibrated ones, each (finding,).

        Args: cubes: see `SecondStage.forward`; first_stage_logits, diameters_mm: (finding,).
        """
        logits = self.network.score(cubes).numpy().astype(np.float64)
        features = np.column_stack([logits, np.asarray(first_stage_logits), np.log(np.asarray(diameters_mm))])
        return logits, self.calibration.apply(features)

    def to(self, device: torch.device) -> FindingScorer:
        """Move the network, in place."""
        self.network.to(device)
        return self

    def as_state(self) -> dict[str, Any]:
        """Return the part of a checkpoint: plain tensors, numbers and texts."""
        return {
            "model_args": self.network.model_args,
            "model_state": self.network.state_dict(),
            "calibration": self.calibration.as_dict(),
            "candidate_threshold": self.candidate_threshold,
            "operating_points": dict(self.operating_points),
            "validation": {
                "nodules": list(self.validation.nodules),
                "false_positives": list(self.validation.false_positives),
                "scan_count": self.validation.scan_count,
            },
        }

    @classmethod
    def from_state(cls, values: Mapping[str, Any]) -> FindingScorer:
        """Build what `as_state` returned, on the CPU and in evaluation mode.

        Raises: KeyError, TypeError, ValueError, RuntimeError or the like for anything else.
        """
        with torch.device("meta"):  # allocates nothing: a file can claim a network of any size
            SecondStage(**values["model_args"]).load_state_dict(values["model_state"], strict=True, assign=True)
        network = SecondStage(**values["model_args"])
        network.load_state_dict(values["model_state"], strict=True)
        if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
            raise ValueError("weights that are not finite")
        validation = values["validation"]
        (candidate_threshold,) = check_probabilities([values["candidate_threshold"]])
        points = check_probabilities([values["operating_points"][name] for name in OPERATING_POINTS])
        scan_count = int(validation["scan_count"])
        if not 0 < candidate_threshold < 1 or scan_count < 1 or not validation["nodules"]:
            raise ValueError("no candidate threshold, validation scan or validation nodule")
        return cls(
            network.eval(),
            Calibration.from_dict(values["calibration"]),
            candidate_threshold,
            dict(zip(OPERATING_POINTS, points, strict=True)),
            Validation(
                check_probabilities(validation["nodules"]),
                check_probabilities(validation["false_positives"]),
                scan_count,
            ),
        )


def check_probabilities(values: Sequence[Any]) -> tuple[float, ...]:
    """Return the values as numbers. Raises: ValueError or TypeError unless each is a number from 0 to 1."""
    numbers = tuple(map(float, values))
    for number in numbers:
        if not 0 <= number <= 1:
            raise ValueError(f"{number} is no probability")
    return numbers
