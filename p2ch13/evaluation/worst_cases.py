"""Figures of the worst cases: nodules missed or poorly marked, and false positives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2ch13.data.ct import Ct
from p2ch13.detection.colors import ANNOTATED, COMPARED, FALSE_POSITIVE, Color, explain
from p2ch13.detection.findings import Finding
from p2ch13.detection.pictures import Image, blend, draw_gray, draw_overlay, enlarge, stack, write_caption, write_png
from p2ch13.evaluation.scoring import Labels, NoduleScore, ScanScores, is_shown
from p2ch13.util.coordinates import IrcTuple

CASE_COUNT = 6  # of each kind
ENLARGED_PIXELS = 128  # of the slice, around a center
CROSS_PIXELS = np.arange(6, 15)  # of each arm of a cross, from its center, which stays free
NODULES_FILE, FALSE_POSITIVES_FILE = "worst_nodules.png", "worst_false_alarms.png"


@dataclass(frozen=True, eq=False)
class Case:
    """A nodule or a false positive, and how it looks.

    Attributes:
        severity: the largest is the worst.
        is_missed: whether it is a nodule that no finding hits, or none that is shown.
        place: its slice, and its center in mm.
        text: its size and scores.
        colors: those that the pictures may have.
        row, col: of its center in the slice.
        overlay, surroundings, marked: its slice; the pixels around its center enlarged, plain and with the overlay.
    """

    severity: tuple[float, float]
    is_missed: bool
    series_uid: str
    place: str
    text: str
    colors: tuple[Color, ...]
    row: int
    col: int
    overlay: Image
    surroundings: Image
    marked: Image

    def draw(self) -> Image:
        """Arrange the pictures side by side, below a caption."""
        pictures = stack([[self.overlay, self.surroundings, self.marked]])
        return write_caption(pictures, f"{self.series_uid}, {self.place}: {self.text}. {explain(*self.colors)}")


@dataclass
class WorstCases:
    """The worst cases of all added scans, drawn at once, so that no scan is opened twice.

    Attributes: the `CASE_COUNT` worst of each kind, the worst first; findings that are not shown are no false positives
        here, and their nodules are missed.
    """

    nodules: list[Case] = field(default_factory=list)
    false_positives: list[Case] = field(default_factory=list)

    def add(self, ct: Ct, labels: Labels | None, scores: ScanScores) -> None:
        """Args: labels: (index, row, col), not 0 in findings; None draws none."""
        false_positives = [each for each in scores.false_positives if scores.shows(each.probability)]
        subjects: list[NoduleScore | Finding] = [*scores.nodules, *false_positives]
        for subject in subjects:
            is_nodule = isinstance(subject, NoduleScore)
            if self.has_room(is_nodule, severity_of(subject, scores.threshold)):
                self.keep(is_nodule, draw_case(ct, labels, subject, scores.threshold))

    def has_room(self, is_nodule: bool, severity: tuple[float, float]) -> bool:
        """Whether a case would be among the worst of its kind."""
        kept = self.nodules if is_nodule else self.false_positives
        return len(kept) < CASE_COUNT or severity > kept[-1].severity

    def keep(self, is_nodule: bool, case: Case) -> None:
        """Add a case to the worst of its kind, and drop what is too many."""
        kept = self.nodules if is_nodule else self.false_positives
        kept.append(case)
        kept.sort(key=lambda each: each.severity, reverse=True)
        del kept[CASE_COUNT:]

    def write(self, folder: Path) -> None:
        """Write a figure of each kind, the worst on top, if there are any."""
        for name, cases in ((NODULES_FILE, self.nodules), (FALSE_POSITIVES_FILE, self.false_positives)):
            if cases:
                write_png(folder / name, stack([[case.draw()] for case in cases]))


def severity_of(subject: NoduleScore | Finding, threshold: float | None = None) -> tuple[float, float]:
    """Rank missed nodules first, the largest on top, then found ones by falling error; false positives by score.

    Args: threshold: see `ScanScores`; a nodule whose findings are all below it is missed.
    """
    if isinstance(subject, Finding):
        return subject.score, 0.0 if math.isnan(subject.diameter_mm) else subject.diameter_mm
    if not is_shown(subject.probability, threshold):
        return 1.0, subject.diameter_mm
    return 0.0, 0.0 if math.isnan(subject.dice) else 1 - subject.dice


def describe(subject: NoduleScore | Finding, threshold: float | None = None) -> str:
    size = "" if math.isnan(subject.diameter_mm) else f" of {subject.diameter_mm:.1f} mm"
    if isinstance(subject, Finding):
        return f"false positive{size}, {describe_score(subject)}"
    dice = "" if math.isnan(subject.dice) else f", Dice {subject.dice:.2f}"
    if is_shown(subject.probability, threshold):
        return f"nodule{size}, found with {describe_score(subject)}{dice}"
    below = f": {describe_score(subject)} is below the threshold of {threshold:.3g}" if subject.is_found else ""
    return f"nodule{size}, missed{below}{dice}"


def describe_score(subject: NoduleScore | Finding) -> str:
    """The probability, and the logit if known, since many probabilities are 1.00."""
    logit = "" if math.isnan(subject.logit) else f", logit {subject.logit:.1f}"
    return f"probability {subject.probability:.2f}{logit}"


def draw_case(ct: Ct, labels: Labels | None, subject: NoduleScore | Finding, threshold: float | None) -> Case:
    """Draw the slice through its center and the center enlarged.

    Without labels there is nothing to compare with annotated nodules, and a cross marks a false positive.
    """
    index, row, col = find_voxel(ct, subject.center_xyz)
    hu, label = ct.hu[index], ct.get_slice_mask(index)
    colors: tuple[Color, ...] = COMPARED
    if labels is not None:
        overlay = draw_overlay(hu, labels[index] != 0, label)
    else:
        overlay, colors = draw_gray(hu), (ANNOTATED,)
        blend(overlay, label, ANNOTATED)
        if isinstance(subject, Finding):
            blend(overlay, draw_cross(label.shape, row, col), FALSE_POSITIVE)
            colors = (ANNOTATED, FALSE_POSITIVE)
    center = ", ".join(f"{value:.1f}" for value in subject.center_xyz)
    width, height = (ENLARGED_PIXELS * size for size in ct.vx_size_xyz[:2])
    place = (
        f"slice {index} of 0 to {ct.shape_irc[0] - 1}, center {center} mm (LPS), {width:.0f} x {height:.0f} mm enlarged"
    )
    plain = draw_gray(hu)
    surroundings, marked = (enlarge(each, row, col, ENLARGED_PIXELS) for each in (plain, overlay))
    is_missed = isinstance(subject, NoduleScore) and not is_shown(subject.probability, threshold)
    words = (ct.series_uid, place, describe(subject, threshold))
    severity = severity_of(subject, threshold)
    return Case(severity, is_missed, *words, colors, row, col, overlay, surroundings, marked)


def draw_cross(shape: tuple[int, ...], row: int, col: int) -> NDArray[np.bool_]:
    """Mark a cross around a pixel: bool (row, col)."""
    cross = np.zeros(shape, dtype=bool)
    rows, cols = row + np.hstack([-CROSS_PIXELS, CROSS_PIXELS]), col + np.hstack([-CROSS_PIXELS, CROSS_PIXELS])
    cross[rows[(rows >= 0) & (rows < shape[0])], col] = True
    cross[row, cols[(cols >= 0) & (cols < shape[1])]] = True
    return cross


def find_voxel(ct: Ct, point_xyz: Sequence[float]) -> IrcTuple:
    """Find the nearest voxel of the scan: other programs' findings may lie outside."""
    pairs = zip(ct.to_irc(point_xyz), ct.shape_irc, strict=True)
    return IrcTuple(*(min(max(value, 0), size - 1) for value, size in pairs))
