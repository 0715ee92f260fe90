"""Scores of a whole scan: voxels, nodules, findings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.evaluation.froc import ScanMatch, match_findings
from p2ch13.evaluation.metrics import Scores
from p2ch13.evaluation.shapes import score_shape
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.rules import LidcRule
from p2ch13.util.boxes import BoxMask
from p2ch13.util.coordinates import XyzTuple

Labels = NDArray[np.integer[Any]]  # (index, row, col): the finding's number of each voxel, 0 for none


@dataclass(frozen=True)
class NoduleScore:
    """Scores of one annotated nodule; those of voxels are NaN without a mask.

    Those with readers are of LIDC-IDRI's readers who outlined any of its voxels, if readers' contours are its label and
    there is a mask to compare with them. With the database as their source each annotation is a reader of its own.
    """

    series_uid: str
    center_xyz: XyzTuple
    diameter_mm: float
    probability: float = math.nan  # of the hit with the highest score; NaN without a hit
    logit: float = math.nan  # of the same hit; NaN also if it has a probability alone
    recall: float = math.nan  # share of its voxels that are marked
    dice: float = math.nan  # of its voxels and all voxels of the findings that overlap it; 0 if none does
    volume_error: float = math.nan  # see `ShapeScore`
    surface_distance_mm: float = math.nan  # likewise
    reader_count: int = 0
    inter_reader_dice: float = math.nan  # mean Dice of the outlines of each two readers; NaN with fewer than two
    dice_with_readers: float = math.nan  # mean of `dice` with each reader's outline in place of the consensus; likewise

    @property
    def is_found(self) -> bool:
        """Whether a finding hits it, by LUNA16's rule."""
        return not math.isnan(self.probability)


@dataclass(frozen=True)
class VoxelCounts:
    """True positives, false negatives and false positives among the voxels of one or many scans."""

    tp: int = 0
    fn: int = 0
    fp: int = 0

    def __add__(self, other: VoxelCounts) -> VoxelCounts:
        return VoxelCounts(self.tp + other.tp, self.fn + other.fn, self.fp + other.fp)

    @property
    def scores(self) -> Scores:
        """Precision, recall, and Dice under its other name, F1; NaN without nodule voxels."""
        return Scores.from_counts(math.nan, math.nan, self.tp, self.fn, self.fp)


def is_shown(probability: float, threshold: float | None) -> bool:
    """Whether a finding of this probability is shown, see `ScanScores`; NaN, of a nodule without a hit, is not."""
    return probability >= threshold if threshold is not None else not math.isnan(probability)


@dataclass(frozen=True)
class ScanScores:
    """The scores of one scan.

    Attributes: threshold: probability from which on findings are shown, if there are less probable ones too, for FROC;
        None if all are shown.
    """

    series_uid: str
    nodules: tuple[NoduleScore, ...]
    findings: tuple[Finding, ...]
    match: ScanMatch  # findings and nodules in the order of `findings` and `nodules`
    slice_count: int | None = None  # None if the scan was not opened
    voxels: VoxelCounts | None = None  # None without a mask
    threshold: float | None = None

    def shows(self, probability: float) -> bool:
        return is_shown(probability, self.threshold)

    @property
    def false_positives(self) -> list[Finding]:
        pairs = zip(self.findings, self.match.is_false_positive, strict=True)
        return [finding for finding, is_false_positive in pairs if is_false_positive]


def score_scan(
    ct: Ct, labels: Labels | None, findings: Sequence[Finding], excluded: Sequence[CandidateInfoTuple] = ()
) -> ScanScores:
    """Score findings, and their mask if there is one, against the annotations of their scan.

    Args:
        labels: (index, row, col); every voxel that is not 0 is marked as nodule.
        excluded: the scan's excluded findings.
    Raises: InputError, naming the scan, if a nodule lies outside it or it cannot be read.
    """
    scores = score_findings(ct.series_uid, ct.nodules, findings, excluded)
    if labels is None:
        return replace(scores, slice_count=ct.shape_irc[0])
    nodules = score_overlaps(scores.nodules, ct, labels) if scores.nodules else ()
    return replace(scores, nodules=nodules, slice_count=ct.shape_irc[0], voxels=count_voxels(ct, labels))


def score_findings(
    series_uid: str,
    nodules: Sequence[CandidateInfoTuple],
    findings: Sequence[Finding],
    excluded: Sequence[CandidateInfoTuple] = (),
) -> ScanScores:
    """Score the findings of a scan against its annotations, without opening the scan."""
    match = match_findings(
        [finding.center_xyz for finding in findings],
        [finding.score for finding in findings],
        [nodule.center_xyz for nodule in nodules],
        [nodule.diameter_mm for nodule in nodules],
        [annotation.center_xyz for annotation in excluded],
        [annotation.diameter_mm for annotation in excluded],
    )
    nodule_scores = []
    for nodule, ndx in zip(nodules, match.best_hits.tolist(), strict=True):
        score = NoduleScore(nodule.series_uid, nodule.center_xyz, nodule.diameter_mm)
        if ndx >= 0:
            score = replace(score, probability=findings[ndx].probability, logit=findings[ndx].logit)
        nodule_scores.append(score)
    return ScanScores(series_uid, tuple(nodule_scores), tuple(findings), match)


def count_voxels(ct: Ct, labels: Labels) -> VoxelCounts:
    """Count the voxels of a scan slice by slice, without another array of its size."""
    counts = VoxelCounts()
    for slice_ndx, marks in enumerate(labels):
        mask = ct.get_slice_mask(slice_ndx)
        tp, labeled, marked = (int(np.count_nonzero(voxels)) for voxels in (marks[mask], mask, marks))
        counts += VoxelCounts(tp, labeled - tp, marked - tp)
    return counts


def score_overlaps(nodules: Sequence[NoduleScore], ct: Ct, labels: Labels) -> tuple[NoduleScore, ...]:
    """Add to the scores of the scan's nodules, at least one, those of their voxels."""
    sizes = count_labels(labels)
    boxes = ndimage.find_objects(labels)
    vx_size_irc = ct.vx_size_xyz[::-1]
    outlines = ct.rule.mark_readers(ct) if isinstance(ct.rule, LidcRule) else [[] for _ in nodules]
    scored = []
    for score, nodule, readers in zip(nodules, ct.nodules, outlines, strict=True):
        mask = ct.build_annotation_mask([nodule])
        recall, dice = score_overlap(labels[mask], sizes)
        volume_error, surface_distance_mm = score_shape(mask, labels, boxes, vx_size_irc)
        inter_reader_dice, dice_with_readers = score_readers(readers, labels, sizes)
        scored.append(
            replace(
                score,
                recall=recall,
                dice=dice,
                volume_error=volume_error,
                surface_distance_mm=surface_distance_mm,
                reader_count=len(readers),
                inter_reader_dice=inter_reader_dice,
                dice_with_readers=dice_with_readers,
            )
        )
    return tuple(scored)


def count_labels(labels: Labels) -> NDArray[np.int64]:
    """Count the voxels of each label, (label,)."""
    largest = int(labels.max())
    sizes = np.zeros(largest + 1, dtype=np.int64)
    for marks in labels:
        sizes += np.bincount(marks.ravel(), minlength=largest + 1)
    return sizes


def score_overlap(labels_inside: Labels, sizes: NDArray[np.int64]) -> tuple[float, float]:
    """Compute recall and Dice of a nodule, see `NoduleScore`.

    Args: labels of a nodule's voxels, (voxel,); number of voxels of each label, (label,).
    """
    overlapping = np.unique(labels_inside[labels_inside != 0])
    overlap = np.count_nonzero(labels_inside)
    dice = 2 * overlap / (len(labels_inside) + sizes[overlapping].sum()) if len(labels_inside) else math.nan
    recall = overlap / len(labels_inside) if len(labels_inside) else math.nan
    return float(recall), float(dice)


def score_readers(readers: Sequence[BoxMask], labels: Labels, sizes: NDArray[np.int64]) -> tuple[float, float]:
    """Compute the mean Dice of readers with each other and with findings, see `NoduleScore`.

    Args: readers: their masks of one nodule, in the same box; sizes: number of voxels of each label, (label,).
    """
    if len(readers) < 2:
        return math.nan, math.nan
    between = [compute_dice(one.mask, other.mask) for one, other in combinations(readers, 2)]
    return fmean(between), fmean(score_overlap(labels[reader.box][reader.mask], sizes)[1] for reader in readers)


def compute_dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    common, sizes = np.count_nonzero(one & other), [np.count_nonzero(mask) for mask in (one, other)]
    return float(2 * common / sum(sizes))
