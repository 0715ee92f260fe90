"""Figures of the worst cases: nodules missed or poorly marked, and false positives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from p2ch13.data.ct import Ct
from p2ch13.detection.colors import COMPARED, explain
from p2ch13.detection.findings import Finding
from p2ch13.detection.pictures import Image, draw_row, stack, write_png
from p2ch13.evaluation.scoring import Labels, NoduleScore, ScanScores
from p2ch13.util.coordinates import IrcTuple

CASE_COUNT = 6  # of each kind
CAPTION_HEIGHT = 28  # pixels


@dataclass(frozen=True, eq=False)
class Case:
    severity: tuple[float, float]  # the largest is the worst
    row: list[Image]


@dataclass
class WorstCases:
    """The worst cases of all added scans, drawn at once, so that no scan is opened twice."""

    nodules: list[Case] = field(default_factory=list)
    false_positives: list[Case] = field(default_factory=list)

    def add(self, ct: Ct, labels: Labels | None, scores: ScanScores) -> None:
        """Args: labels: (index, row, col), not 0 in findings; None draws none."""
        subjects: list[NoduleScore | Finding] = [*scores.nodules, *scores.false_positives]
        for subject in subjects:
            kept = self.nodules if isinstance(subject, NoduleScore) else self.false_positives
            severity = severity_of(subject)
            if len(kept) < CASE_COUNT or severity > kept[-1].severity:
                kept.append(Case(severity, draw_case(ct, labels, subject)))
                kept.sort(key=lambda case: case.severity, reverse=True)
                del kept[CASE_COUNT:]

    def write(self, folder: Path) -> None:
        """Write `worst_nodules.png` and `worst_false_alarms.png`, the worst on top, if there are any."""
        for name, cases in (("worst_nodules.png", self.nodules), ("worst_false_alarms.png", self.false_positives)):
            if cases:
                write_png(folder / name, stack([case.row for case in cases]))
            else:
                (folder / name).unlink(missing_ok=True)  # an earlier evaluation's


def severity_of(subject: NoduleScore | Finding) -> tuple[float, float]:
    """Rank missed nodules first, the largest on top, then found ones by falling error; false positives by score."""
    if isinstance(subject, Finding):
        return subject.score, 0.0 if math.isnan(subject.diameter_mm) else subject.diameter_mm
    if not subject.is_found:
        return 1.0, subject.diameter_mm
    return 0.0, 0.0 if math.isnan(subject.dice) else 1 - subject.dice


def describe(subject: NoduleScore | Finding) -> str:
    size = "" if math.isnan(subject.diameter_mm) else f" of {subject.diameter_mm:.1f} mm"
    if isinstance(subject, Finding):
        return f"false positive{size}, {describe_score(subject)}"
    found = f"found with {describe_score(subject)}" if subject.is_found else "missed"
    return f"nodule{size}, {found}{'' if math.isnan(subject.dice) else f', Dice {subject.dice:.2f}'}"


def describe_score(subject: NoduleScore | Finding) -> str:
    """The probability, and the logit if known, since many probabilities are 1.00."""
    logit = "" if math.isnan(subject.logit) else f", logit {subject.logit:.1f}"
    return f"probability {subject.probability:.2f}{logit}"


def draw_case(ct: Ct, labels: Labels | None, subject: NoduleScore | Finding) -> list[Image]:
    """Draw the slice through its center and the center enlarged, below captions."""
    index, row, col = find_voxel(ct, subject.center_xyz)
    label = ct.get_slice_mask(index)
    is_predicted = np.zeros_like(label) if labels is None else labels[index] != 0
    images = draw_row(ct.hu[index], is_predicted, label, row, col)
    captions = [
        ct.series_uid,
        f"slice {index}: {describe(subject)}",
        explain(*COMPARED),
    ]
    return [write_caption(image, caption) for image, caption in zip(images, captions, strict=True)]


def find_voxel(ct: Ct, point_xyz: Sequence[float]) -> IrcTuple:
    """Find the nearest voxel of the scan: other programs' findings may lie outside."""
    pairs = zip(ct.to_irc(point_xyz), ct.shape_irc, strict=True)
    return IrcTuple(*(min(max(value, 0), size - 1) for value, size in pairs))


def write_caption(image: Image, text: str) -> Image:
    """Put a caption above an image, white on black, cut at the image's width."""
    strip = PillowImage.new("RGB", (image.shape[1], CAPTION_HEIGHT))
    ImageDraw.Draw(strip).text((4, 4), text, fill="white", font=ImageFont.load_default(size=14))
    return np.concatenate([np.asarray(strip), image], axis=0)
