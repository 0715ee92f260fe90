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
from p2ch13.detection.findings import Finding
from p2ch13.detection.pictures import Image, draw_enlarged, draw_overlay, stack, write_png
from p2ch13.evaluation.scoring import Labels, NoduleScore, ScanScores
from p2ch13.util.coordinates import IrcTuple, XyzTuple, xyz2irc

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
        for nodule in scores.nodules:
            severity, text = severity_of_nodule(nodule), describe_nodule(nodule)
            self._keep(self.nodules, severity, ct, labels, nodule.center_xyz, text)
        for finding in scores.false_positives:
            severity = (finding.score, 0.0 if math.isnan(finding.diameter_mm) else finding.diameter_mm)
            text = describe_finding(finding)
            self._keep(self.false_positives, severity, ct, labels, finding.center_xyz, text)

    def _keep(
        self,
        cases: list[Case],
        severity: tuple[float, float],
        ct: Ct,
        labels: Labels | None,
        center_xyz: XyzTuple,
        text: str,
    ) -> None:
        if len(cases) == CASE_COUNT and severity <= cases[-1].severity:
            return
        cases.append(Case(severity, draw_case(ct, labels, center_xyz, text)))
        cases.sort(key=lambda case: case.severity, reverse=True)
        del cases[CASE_COUNT:]

    def write(self, folder: Path) -> None:
        """Write `worst_nodules.png` and `worst_false_alarms.png`, the worst on top, if there are any."""
        for name, cases in (("worst_nodules.png", self.nodules), ("worst_false_alarms.png", self.false_positives)):
            if cases:
                write_png(folder / name, stack([case.row for case in cases]))
            else:
                (folder / name).unlink(missing_ok=True)  # an earlier evaluation's


def severity_of_nodule(nodule: NoduleScore) -> tuple[float, float]:
    """Rank missed nodules first, the largest on top, then found ones by falling error."""
    if not nodule.is_found:
        return 1.0, nodule.diameter_mm
    return 0.0, 0.0 if math.isnan(nodule.dice) else 1 - nodule.dice


def describe_nodule(nodule: NoduleScore) -> str:
    found = f"found with {describe_score(nodule)}" if nodule.is_found else "missed"
    dice = "" if math.isnan(nodule.dice) else f", Dice {nodule.dice:.2f}"
    return f"nodule of {nodule.diameter_mm:.1f} mm, {found}{dice}"


def describe_finding(finding: Finding) -> str:
    size = "" if math.isnan(finding.diameter_mm) else f" of {finding.diameter_mm:.1f} mm"
    return f"false positive{size}, {describe_score(finding)}"


def describe_score(subject: NoduleScore | Finding) -> str:
    """The probability, and the logit if known, since many probabilities are 1.00."""
    logit = "" if math.isnan(subject.logit) else f", logit {subject.logit:.1f}"
    return f"probability {subject.probability:.2f}{logit}"


def draw_case(ct: Ct, labels: Labels | None, center_xyz: XyzTuple, text: str) -> list[Image]:
    """Draw the slice through a point and the point enlarged, below captions."""
    index, row, col = find_voxel(ct, center_xyz)
    label = ct.get_slice_mask(index)
    is_predicted = np.zeros_like(label) if labels is None else labels[index] != 0
    overlay = draw_overlay(ct.hu[index], is_predicted, label)
    images = [overlay, *draw_enlarged(ct.hu[index], overlay, row, col)]
    captions = [ct.series_uid, f"slice {index}: {text}", "green: true positive, orange: missed, red: false positive"]
    return [write_caption(image, caption) for image, caption in zip(images, captions, strict=True)]


def find_voxel(ct: Ct, point_xyz: Sequence[float]) -> IrcTuple:
    """Find the nearest voxel of the scan: other programs' findings may lie outside."""
    irc = xyz2irc(point_xyz, ct.origin_xyz, ct.vx_size_xyz, ct.direction)
    return IrcTuple(*(min(max(value, 0), size - 1) for value, size in zip(irc, ct.shape_irc, strict=True)))


def write_caption(image: Image, text: str) -> Image:
    """Put a caption above an image, white on black, cut at the image's width."""
    strip = PillowImage.new("RGB", (image.shape[1], CAPTION_HEIGHT))
    ImageDraw.Draw(strip).text((4, 4), text, fill="white", font=ImageFont.load_default(size=14))
    return np.concatenate([np.asarray(strip), image], axis=0)
