"""How the scans of a run are searched: the networks, and what reports say of them, the threshold and the options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from p2ch13.config import MAX_DIAMETER_MM, DetectionOptions, SearchOptions
from p2ch13.detection.detector import Detector, average, load_detector
from p2ch13.network.card import Card, log_card, read_card
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.network.compute import get_device
from p2ch13.network.finding_scorer import Validation
from p2ch13.util.process_rank import ProcessRank

Cards: TypeAlias = tuple[tuple[str, Card | None], ...]  # names of checkpoints' files, and their cards; None without one


@dataclass(frozen=True)
class SearchFacts:
    """What is the same for all scans of a run.

    Attributes:
        cards: of the checkpoints.
        threshold: probability from which on findings are shown; explanation: a sentence about it.
        is_calibrated: whether a second stage gives findings their probability.
        validation: of the only second stage; None without one, and of several.
        lung_mask, tta: see `segment`.
        min_diameter_mm: of the smallest findings, as spheres of their volume.
    """

    cards: Cards
    threshold: float
    explanation: str
    is_calibrated: bool
    validation: Validation | None
    lung_mask: bool
    tta: bool
    min_diameter_mm: float

    @classmethod
    def of(cls, cards: Cards, detector: Detector, threshold: float, options: DetectionOptions) -> SearchFacts:
        scorers = detector.scorers
        smallest = detector.min_diameter_mm if options.min_diameter is None else options.min_diameter
        return cls(
            cards,
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


def load_networks(
    checkpoints: Sequence[Path],
    network: str | None,
    second_stage: bool,
    device: str,
    engine: str,
    process: ProcessRank | None = None,
) -> tuple[Detector, Cards]:
    """Load the networks of checkpoints, which are averaged, and their cards. Raises: see `load_detector`, `average`."""
    cards = []
    for path in checkpoints:
        card = read_card(path, load_checkpoint(path))
        cards.append((path.name, card))
        log_card(path, card)
    where = get_device(device, process)
    detectors = {path: load_detector(path, network, second_stage, where, engine) for path in checkpoints}
    return average(detectors), tuple(cards)


def prepare_search(
    options: SearchOptions, load: Callable[..., tuple[Detector, Cards]] = load_networks
) -> tuple[Detector, SearchFacts]:
    """Load the networks of options, and choose their threshold.

    Args: load: `load_networks`, or what has its result from an earlier call.
    Raises: InputError if a checkpoint cannot be used, or not in this way.
    """
    detector, cards = load(options.checkpoint, options.network, options.second_stage, options.device, options.engine)
    threshold = detector.choose_threshold(options.threshold, options.sensitivity)
    return detector, SearchFacts.of(cards, detector, threshold, options)
