"""Summary: the scores of many scans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from p2ch13.evaluation.calibration import measure_calibration
from p2ch13.evaluation.froc import OPERATING_POINTS, Froc, compute_froc
from p2ch13.evaluation.scoring import NoduleScore, ScanScores, VoxelCounts
from p2ch13.evaluation.size_classes import summarize_sizes
from p2ch13.util.json_values import only_finite


@dataclass(frozen=True)
class Summary:
    """Scores of many scans.

    Attributes: `calibration`, see `measure_calibration`; `voxels`, of all scans together; None without masks.
    """

    scans: tuple[ScanScores, ...]
    froc: Froc
    calibration: dict[str, Any] | None = None

    @cached_property
    def nodules(self) -> list[NoduleScore]:
        return [nodule for scan in self.scans for nodule in scan.nodules]

    @cached_property
    def voxels(self) -> VoxelCounts | None:
        counts = [scan.voxels for scan in self.scans if scan.voxels is not None]
        return sum(counts, VoxelCounts()) if counts else None

    @property
    def has_curve(self) -> bool:
        """Whether FROC and CPM say anything: a scan alone has a CPM of 1 as soon as its nodules rank first."""
        return len(self.scans) > 1 and bool(self.nodules)

    @property
    def slice_count(self) -> int | None:
        """Number of slices; None if a scan was not opened."""
        counts = [scan.slice_count for scan in self.scans if scan.slice_count is not None]
        return sum(counts) if len(counts) == len(self.scans) else None

    @cached_property
    def operating_point(self) -> dict[str, Any] | None:
        """Sensitivity and false positives per scan of the findings that are shown; None if all findings are.

        Networks that score different scans may have different thresholds; then that one is None.
        """
        thresholds = {scan.threshold for scan in self.scans}
        if None in thresholds:
            return None
        found = [scan.shows(nodule.probability) for scan in self.scans for nodule in scan.nodules]
        false_positives = sum(scan.shows(each.probability) for scan in self.scans for each in scan.false_positives)
        return {
            "threshold": thresholds.pop() if len(thresholds) == 1 else None,
            "found": sum(found),
            "sensitivity": divide(sum(found), len(found)),
            "false_positives": false_positives,
            "false_positives_per_scan": false_positives / len(self.scans),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, undefined ones as None; docs/evaluation.md explains the keys."""
        found_count = sum(nodule.is_found for nodule in self.nodules)
        outlined = [nodule for nodule in self.nodules if nodule.reader_count > 1]
        false_positive_count = sum(int(scan.match.is_false_positive.sum()) for scan in self.scans)
        has_logit = [not math.isnan(finding.logit) for scan in self.scans for finding in scan.findings]
        score_unit = ("logit" if all(has_logit) else "probability") if has_logit else None
        values = {
            "scans": len(self.scans),
            "slices": self.slice_count,
            "voxels": self._voxels_as_dict(),
            "nodules": {
                "count": len(self.nodules),
                "found": found_count,
                "recall": divide(found_count, len(self.nodules)),
                "touched": sum(nodule.recall > 0 for nodule in self.nodules) if self.voxels else None,
                "mean_dice": mean([nodule.dice for nodule in self.nodules]),  # 0 without an overlap
                "outlined": len(outlined) if self.voxels else None,  # by two readers or more, and so in both means
                "mean_inter_reader_dice": mean([nodule.inter_reader_dice for nodule in outlined]),
                "mean_dice_with_readers": mean([nodule.dice_with_readers for nodule in outlined]),
            },
            "findings": {
                "count": sum(len(scan.findings) for scan in self.scans),
                "irrelevant": sum(int(scan.match.is_ignored.sum()) for scan in self.scans),
                "false_positives": false_positive_count,
                "false_positives_per_scan": false_positive_count / len(self.scans),  # of all findings
            },
            "sizes": summarize_sizes(self.nodules),
            "operating_point": self.operating_point,
            "calibration": self.calibration,
            "froc": froc_as_dict(self.froc) | {"threshold_unit": score_unit},
        }
        plain: dict[str, Any] = only_finite(values)
        return plain

    def _voxels_as_dict(self) -> dict[str, Any] | None:
        if self.voxels is None:
            return None
        scores = self.voxels.scores
        each = [scan.voxels.scores for scan in self.scans if scan.voxels is not None]
        return {
            "true_positives": self.voxels.tp,
            "false_negatives": self.voxels.fn,
            "false_positives": self.voxels.fp,
            "false_positives_per_slice": divide(self.voxels.fp, self.slice_count or 0),
            "precision": scores.precision,
            "recall": scores.recall,
            "dice": scores.f1,
            "mean_precision_of_scans": mean([scan.precision for scan in each]),
            "mean_recall_of_scans": mean([scan.recall for scan in each]),
            "mean_dice_of_scans": mean([scan.f1 for scan in each]),
        }


def summarize(scans: Sequence[ScanScores], seed: int = 0) -> Summary:
    """Args: scans: at least one; seed: of the bootstrap."""
    froc = compute_froc([scan.match for scan in scans], seed=seed)
    return Summary(tuple(scans), froc, measure_calibration(scans, seed))


def froc_as_dict(froc: Froc) -> dict[str, Any]:
    low, high = froc.sensitivity_intervals.tolist()
    return {
        "false_positives_per_scan": list(OPERATING_POINTS),
        "sensitivity": froc.sensitivities.tolist(),
        "sensitivity_low": low,
        "sensitivity_high": high,
        "cpm": froc.cpm,
        "cpm_low": float(froc.cpm_interval[0]),
        "cpm_high": float(froc.cpm_interval[1]),
        "end": {
            "false_positives_per_scan": float(froc.curve.false_positives_per_scan[-1]),
            "sensitivity": float(froc.curve.sensitivity[-1]),
            "scans_with_more_findings": froc.limited_count,
        },
        "curve": {
            "false_positives_per_scan": froc.curve.false_positives_per_scan[1:].tolist(),
            "sensitivity": froc.curve.sensitivity[1:].tolist(),
            "threshold": froc.curve.thresholds[1:].tolist(),
        },
    }


def mean(values: Sequence[float]) -> float:
    """Average the defined values; NaN without any."""
    defined = [value for value in values if not math.isnan(value)]
    return divide(sum(defined), len(defined))


def divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
