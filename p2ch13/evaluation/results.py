"""What an evaluation has scored, and by which settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from p2ch13.config import EvaluationOptions, LabelOptions
from p2ch13.evaluation.scoring import ScanScores
from p2ch13.evaluation.worst_cases import WorstCases
from p2ch13.labels.candidates import find_excluded_file
from p2ch13.network.card import Card

OF_SELECTION = ("all", "val_stride", "split", "splits", "series_uid", "shard", "merge")
IRRELEVANT = (*OF_SELECTION, "output", "json", "label_changes", "threads", "network")
OF_NETWORKS = ("threshold", "sensitivity", "second_stage", "tta", "pixel_mm", "lung_mask", "precision", "engine")


@dataclass
class Results:
    """The scores of all scans.

    Attributes:
        skipped: series UID -> why its scan was skipped.
        labels: None if no scan is opened.
        thresholds: of findings, of all networks that score a scan; none without networks.
        networks: their files and cards.
        scored_by: series UID -> the networks that score it.
        warnings: why scores on these scans may say little about others.
    """

    scans: list[ScanScores] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    worst_cases: WorstCases = field(default_factory=WorstCases)
    labels: LabelOptions | None = None
    thresholds: tuple[float, ...] = ()
    networks: Sequence[tuple[Path, Card | None]] = ()
    scored_by: dict[str, list[str]] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def describe_settings(options: EvaluationOptions, results: Results) -> dict[str, Any]:
    """Return all settings that the scores depend on, as plain values and paths."""
    settings = asdict(options)
    settings["excluded"] = find_excluded_file(options.data_dir, options.excluded)
    settings["series"] = sorted([*(scan.series_uid for scan in results.scans), *results.skipped])
    settings["labels"] = None
    if results.labels is not None:
        values = results.labels.as_dict()
        settings["labels"] = {"kind": values.pop("labels"), **values}
    if not results.thresholds:
        settings |= dict.fromkeys(OF_NETWORKS)
    elif len(results.thresholds) == 1:
        settings["threshold"] = results.thresholds[0]  # what the checkpoint makes of the option
    return {key: value for key, value in settings.items() if key not in IRRELEVANT}
