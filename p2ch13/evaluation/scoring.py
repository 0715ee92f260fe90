"""The scores of whole scans: voxels, nodules, findings; and what they come to over many scans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.evaluation.froc import OPERATING_POINTS, Froc, ScanMatch, compute_froc, match_findings
from p2ch13.evaluation.metrics import Scores
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.util.coordinates import XyzTuple

Labels = NDArray[np.integer[Any]]  # (index, row, col): the number of the finding that a voxel belongs to, 0 for none


@dataclass(frozen=True)
class NoduleScore:
    """What was found of one nodule.

    Attributes:
        probability, logit: of the finding with the highest score among those whose center is less than its radius
            away; NaN if there is none. `logit` is NaN too where the finding has a probability alone.
        recall: the share of its voxels that were marked.
        dice: of its voxels and all voxels of the findings that touch it; 0 if none does. It and `recall` are NaN where
            there is no mask to compare with.
    """

    series_uid: str
    center_xyz: XyzTuple
    diameter_mm: float
    probability: float = math.nan
    logit: float = math.nan
    recall: float = math.nan
    dice: float = math.nan

    @property
    def is_found(self) -> bool:
        """By LUNA16's rule."""
        return not math.isnan(self.probability)

    @property
    def overlaps(self) -> bool:
        """Whether any of its voxels was marked."""
        return self.recall > 0


@dataclass(frozen=True)
class VoxelCounts:
    """True positives, false negatives and false positives among a scan's voxels, or those of many scans."""

    tp: int = 0
    fn: int = 0
    fp: int = 0

    def __add__(self, other: VoxelCounts) -> VoxelCounts:
        return VoxelCounts(self.tp + other.tp, self.fn + other.fn, self.fp + other.fp)

    @property
    def scores(self) -> Scores:
        """Precision, recall, and Dice under its other name, F1; NaN if no voxel is labelled."""
        return Scores.from_counts(math.nan, math.nan, self.tp, self.fn, self.fp)


@dataclass(frozen=True)
class ScanScores:
    """The scores of one scan.

    Attributes: `match`, its findings in the order of `findings`, its nodules in that of `nodules`; `slice_count`, None
        where the scan was not opened; `voxels`, None where there is no mask to compare with.
    """

    series_uid: str
    nodules: tuple[NoduleScore, ...]
    findings: tuple[Finding, ...]
    match: ScanMatch
    slice_count: int | None = None
    voxels: VoxelCounts | None = None

    @property
    def false_positives(self) -> list[Finding]:
        pairs = zip(self.findings, self.match.is_false_positive, strict=True)
        return [finding for finding, is_false_positive in pairs if is_false_positive]


def score_scan(
    ct: Ct, labels: Labels | None, findings: Sequence[Finding], excluded: Sequence[CandidateInfoTuple] = ()
) -> ScanScores:
    """Score findings, and where there is one the mask that they come from, against the annotations of their scan.

    Args:
        labels: (index, row, col); a voxel that is not 0 is marked as nodule.
        excluded: the scan's annotations that count neither as nodule nor as none.
    Raises: InputError, naming the scan, if a nodule lies outside it or it cannot be read.
    """
    scores = score_findings(ct.series_uid, ct.nodules, findings, excluded)
    slice_count = ct.shape_irc[0]
    if labels is None:
        return replace(scores, slice_count=slice_count)
    overlaps = score_overlaps(ct, labels)
    nodules = tuple(
        replace(nodule, recall=recall, dice=dice)
        for nodule, (recall, dice) in zip(scores.nodules, overlaps, strict=True)
    )
    return replace(scores, nodules=nodules, slice_count=slice_count, voxels=count_voxels(ct, labels))


def score_findings(
    series_uid: str,
    nodules: Sequence[CandidateInfoTuple],
    findings: Sequence[Finding],
    excluded: Sequence[CandidateInfoTuple] = (),
) -> ScanScores:
    """Score the findings of a scan against its annotations; the scan itself is not needed."""
    match = match_findings(
        [finding.center_xyz for finding in findings],
        [finding.score for finding in findings],
        [nodule.center_xyz for nodule in nodules],
        [nodule.diameter_mm for nodule in nodules],
        [annotation.center_xyz for annotation in excluded],
        [annotation.diameter_mm for annotation in excluded],
    )
    nodule_scores = tuple(
        score_nodule(nodule, findings[ndx] if ndx >= 0 else None)
        for nodule, ndx in zip(nodules, match.best_hits.tolist(), strict=True)
    )
    return ScanScores(series_uid, nodule_scores, tuple(findings), match)


def score_nodule(nodule: CandidateInfoTuple, finding: Finding | None) -> NoduleScore:
    """Args: finding: the best one in it, None if it is missed."""
    score = NoduleScore(nodule.series_uid, nodule.center_xyz, nodule.diameter_mm)
    return replace(score, probability=finding.probability, logit=finding.logit) if finding else score


def count_voxels(ct: Ct, labels: Labels) -> VoxelCounts:
    """Over all voxels of a scan; slice by slice, so that no further array as large as the scan is made."""
    counts = (count_slice(marks != 0, ct.get_slice_mask(slice_ndx)) for slice_ndx, marks in enumerate(labels))
    return sum(counts, VoxelCounts())


def count_slice(is_marked: NDArray[np.bool_], mask: NDArray[np.bool_]) -> VoxelCounts:
    tp = int(np.count_nonzero(is_marked & mask))
    return VoxelCounts(tp, int(np.count_nonzero(mask)) - tp, int(np.count_nonzero(is_marked)) - tp)


def score_overlaps(ct: Ct, labels: Labels) -> list[tuple[float, float]]:
    """Recall and Dice of each of the scan's nodules, see `NoduleScore`."""
    if not ct.nodules:
        return []
    largest = int(labels.max())
    sizes = np.zeros(largest + 1, dtype=np.int64)  # voxels of each label
    for marks in labels:
        sizes += np.bincount(marks.ravel(), minlength=largest + 1)
    return [score_overlap(labels[ct.build_annotation_mask([nodule])], sizes) for nodule in ct.nodules]


def score_overlap(labels_inside: Labels, sizes: NDArray[np.int64]) -> tuple[float, float]:
    """Args: the labels of a nodule's voxels, (voxel,); the voxels that each label has in all, (label,)."""
    touching = np.unique(labels_inside[labels_inside != 0])
    overlap = np.count_nonzero(labels_inside)
    dice = 2 * overlap / (len(labels_inside) + sizes[touching].sum()) if len(labels_inside) else math.nan
    recall = overlap / len(labels_inside) if len(labels_inside) else math.nan
    return float(recall), float(dice)


@dataclass(frozen=True)
class Summary:
    """The scores of many scans together.

    Attributes: `scans`; `froc`, the FROC analysis; `voxels`, pooled, None where there are no masks.
    """

    scans: tuple[ScanScores, ...]
    froc: Froc

    @cached_property
    def nodules(self) -> list[NoduleScore]:
        return [nodule for scan in self.scans for nodule in scan.nodules]

    @cached_property
    def voxels(self) -> VoxelCounts | None:
        counts = [scan.voxels for scan in self.scans if scan.voxels is not None]
        return sum(counts, VoxelCounts()) if counts else None

    @property
    def slice_count(self) -> int | None:
        """None if a scan was not opened."""
        counts = [scan.slice_count for scan in self.scans if scan.slice_count is not None]
        return sum(counts) if len(counts) == len(self.scans) else None

    @property
    def found_count(self) -> int:
        return sum(nodule.is_found for nodule in self.nodules)

    @property
    def touched_count(self) -> int:
        return sum(nodule.overlaps for nodule in self.nodules)

    @property
    def nodule_recall(self) -> float:
        """The share of the nodules that were found, by LUNA16's rule."""
        return divide(self.found_count, len(self.nodules))

    @property
    def mean_nodule_dice(self) -> float:
        """Over all nodules; those that nothing touches count as 0."""
        return mean([nodule.dice for nodule in self.nodules])

    @cached_property
    def false_positive_count(self) -> int:
        return sum(int(scan.match.is_false_positive.sum()) for scan in self.scans)

    @property
    def false_positives_per_scan(self) -> float:
        """Of all findings; the FROC curve ends earlier where a scan has more than it takes of one."""
        return self.false_positive_count / len(self.scans)

    @property
    def score_unit(self) -> str | None:
        """What findings are ranked by, "logit" or "probability"; None if there is none."""
        has_logit = [not math.isnan(finding.logit) for scan in self.scans for finding in scan.findings]
        return ("logit" if all(has_logit) else "probability") if has_logit else None

    @property
    def false_positive_voxels_per_slice(self) -> float:
        return self.voxels.fp / self.slice_count if self.voxels and self.slice_count else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, those that are not defined or not finite as None; the README explains the keys."""
        values = {
            "scans": len(self.scans),
            "slices": self.slice_count,
            "voxels": self._voxels_as_dict(),
            "nodules": {
                "count": len(self.nodules),
                "found": self.found_count,
                "recall": self.nodule_recall,
                "touched": self.touched_count if self.voxels else None,
                "mean_dice": self.mean_nodule_dice,
            },
            "findings": {
                "count": sum(len(scan.findings) for scan in self.scans),
                "irrelevant": sum(int(scan.match.is_ignored.sum()) for scan in self.scans),
                "false_positives": self.false_positive_count,
                "false_positives_per_scan": self.false_positives_per_scan,
            },
            "froc": froc_as_dict(self.froc) | {"threshold_unit": self.score_unit},
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
            "false_positives_per_slice": self.false_positive_voxels_per_slice,
            "precision": scores.precision,
            "recall": scores.recall,
            "dice": scores.f1,
            "mean_precision_of_scans": mean([scan.precision for scan in each]),
            "mean_recall_of_scans": mean([scan.recall for scan in each]),
            "mean_dice_of_scans": mean([scan.f1 for scan in each]),
        }


def summarize(scans: Sequence[ScanScores], seed: int = 0) -> Summary:
    """Args: scans: one at least; seed: of the bootstrap."""
    return Summary(tuple(scans), compute_froc([scan.match for scan in scans], seed=seed))


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
    """Of those that are defined; NaN if none is."""
    defined = [value for value in values if not math.isnan(value)]
    return divide(sum(defined), len(defined))


def divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def only_finite(value: Any) -> Any:
    """The same lists, dicts and numbers, with None in place of NaN and infinities, which JSON does not know."""
    if isinstance(value, dict):
        return {key: only_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [only_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
