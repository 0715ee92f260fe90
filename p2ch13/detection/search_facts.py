"""How the scans of a run are searched: what their reports say of networks, threshold and options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from p2ch13.config import MAX_DIAMETER_MM, DetectionOptions
from p2ch13.detection.detector import Detector
from p2ch13.network.card import Card
from p2ch13.network.finding_scorer import Validation


@dataclass(frozen=True)
class SearchFacts:
    """What is the same for all scans of a run.

    Attributes:
        cards: names of the checkpoints' files and their cards; None for one without a card.
        threshold: probability from which on findings are shown; explanation: a sentence about it.
        is_calibrated: whether a second stage gives findings their probability.
        validation: of the only second stage; None without one, and of several.
        lung_mask, tta: see `segment`.
        min_diameter_mm: of the smallest findings, as spheres of their volume.
    """

    cards: tuple[tuple[str, Card | None], ...]
    threshold: float
    explanation: str
    is_calibrated: bool
    validation: Validation | None
    lung_mask: bool
    tta: bool
    min_diameter_mm: float

    @classmethod
    def of(
        cls, cards: Sequence[tuple[str, Card | None]], detector: Detector, threshold: float, options: DetectionOptions
    ) -> SearchFacts:
        scorers = detector.scorers
        smallest = detector.min_diameter_mm if options.min_diameter is None else options.min_diameter
        return cls(
            tuple(cards),
            threshold,
            detector.describe(threshold),
            bool(scorers),
            scorers[0].validation if len(scorers) == 1 else None,
            options.lung_mask,
            options.tta,
            smallest,
        )

    @property
    def network_names(self) -> list[str]:
        """The networks by their cards, or else by their files."""
        return [card.name if card and card.name else file.removesuffix(".state") for file, card in self.cards]

    def as_json(self) -> dict[str, Any]:
        """Return the keys `networks`, `threshold` and `search` of a report."""
        return {
            "networks": [{"file": name, "card": None if card is None else asdict(card)} for name, card in self.cards],
            "threshold": {
                "probability": self.threshold,
                "explanation": self.explanation,
                "is_calibrated": self.is_calibrated,
                "validation": self.validation and self._describe_validation(self.validation),
            },
            "search": {
                "lung_mask": self.lung_mask,
                "test_time_augmentation": self.tta,
                "min_diameter_mm": self.min_diameter_mm,
                "max_diameter_mm": MAX_DIAMETER_MM,
            },
        }

    def _describe_validation(self, validation: Validation) -> dict[str, Any]:
        return {
            "scan_count": validation.scan_count,
            "nodule_count": len(validation.nodules),
            "sensitivity": validation.sensitivity_at(self.threshold),
            "false_positives_per_scan": validation.false_positives_at(self.threshold),
        }
