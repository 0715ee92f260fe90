"""Summary: the scores of many scans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from p2ch13.evaluation.bootstrap import ratio_interval
from p2ch13.evaluation.calibration import measure_calibration
from p2ch13.evaluation.froc import OPERATING_POINTS, Froc, compute_froc
from p2ch13.evaluation.scoring import NoduleScore, ScanScores, VoxelCounts
from p2ch13.evaluation.size_classes import summarize_sizes
from p2ch13.util.json_values import only_finite


@dataclass(frozen=True)
class Summary:
    """Scores of many scans.

    Attributes: `calibration`, see `measure_calibration`; `networks`, name of each network that scores scans of its own,
        as in a cross-validation -> the scores of these; `voxels`, of all scans together; None without masks.
    """

    scans: tuple[ScanScores, ...]
    froc: Froc
    calibration: dict[str, Any] | None = None
    seed: int = 0
    networks: Mapping[str, Summary] = field(default_factory=dict)

    @cached_property
    def nodules(self) -> list[NoduleScore]:
        return [nodule for scan in self.scans for nodule in scan.nodules]

    @cached_property
    def voxels(self) -> VoxelCounts | None:
        counts = [scan.voxels for scan in self.scans if scan.voxels is not None]
        return sum(counts, VoxelCounts()) if counts else None

    @cached_property
    def mean_dice_interval(self) -> tuple[float, float]:
        """The interval of the nodules' mean Dice, over resampled scans."""
        dice = [[each.dice for each in scan.nodules if not math.isnan(each.dice)] for scan in self.scans]
        return ratio_interval(list(map(sum, dice)), list(map(len, dice)), self.seed)

    @cached_property
    def voxel_dice_interval(self) -> tuple[float, float]:
        """The interval of the Dice of all scans' voxels, over resampled scans."""
        counts = [scan.voxels for scan in self.scans if scan.voxels is not None]
        return ratio_interval(
            [2 * each.tp for each in counts], [2 * each.tp + each.fn + each.fp for each in counts], self.seed
        )

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
                "mean_dice_low": self.mean_dice_interval[0],
                "mean_dice_high": self.mean_dice_interval[1],
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
            "networks": [{"network": name, **part.in_short()} for name, part in self.networks.items()],
        }
        plain: dict[str, Any] = only_finite(values)
        return plain

    def in_short(self) -> dict[str, Any]:
        """Return the main scores: one row of a table of networks."""
        values = self.as_dict()
        point, froc, nodules = values["operating_point"], values["froc"], values["nodules"]
        shown = {"found": nodules["found"], **values["findings"]} if point is None else point
        return {
            "scans": len(self.scans),
            "nodules": len(self.nodules),
            **{name: shown[name] for name in ("found", "false_positives_per_scan")},
            **{name: froc[name] for name in ("cpm", "cpm_low", "cpm_high")},
            **{name: nodules[name] for name in ("mean_dice", "mean_dice_low", "mean_dice_high")},
        }

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
            "dice_low": self.voxel_dice_interval[0],
            "dice_high": self.voxel_dice_interval[1],
            "mean_precision_of_scans": mean([scan.precision for scan in each]),
            "mean_recall_of_scans": mean([scan.recall for scan in each]),
            "mean_dice_of_scans": mean([scan.f1 for scan in each]),
        }


def summarize(
    scans: Sequence[ScanScores], seed: int = 0, scored_by: Mapping[str, Sequence[str]] | None = None
) -> Summary:
    """Args: scans: at least one; seed: of the bootstrap; scored_by: series UID -> names of networks that score it."""
    froc = compute_froc([scan.match for scan in scans], seed=seed)
    calibration = measure_calibration(scans, seed)
    return Summary(tuple(scans), froc, calibration, seed, split_by_network(scans, seed, scored_by or {}))


def split_by_network(
    scans: Sequence[ScanScores], seed: int, scored_by: Mapping[str, Sequence[str]]
) -> dict[str, Summary]:
    """Summarize each network's scans, by name in order; none unless there are several, and one scores each scan."""
    of_network: dict[str, list[ScanScores]] = {}
    for scan in scans:
        names = scored_by.get(scan.series_uid, ())
        if len(names) != 1:
            return {}
        of_network.setdefault(names[0], []).append(scan)
    return {name: summarize(of_network[name], seed) for name in sorted(of_network)} if len(of_network) > 1 else {}


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
