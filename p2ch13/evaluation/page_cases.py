"""The worst cases on the page: pictures small enough for it, with words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw

from p2ch13.detection.colors import Color
from p2ch13.detection.pictures import ENLARGED, Image, encode_png
from p2ch13.detection.statements import COORDINATES, SLICES
from p2ch13.evaluation.summary import Summary
from p2ch13.evaluation.words import count
from p2ch13.evaluation.worst_cases import ENLARGED_PIXELS, Case, WorstCases
from p2ch13.util.web_page import as_data_uri

OVERVIEW_PIXELS = 320  # of the longer side of a whole slice: larger ones would make the page too large
FRAME = (255, 255, 255)  # around the part of the slice that is enlarged
VIEW = (
    "Left: the whole slice, seen from the feet, so that the patient's right side is on the left; the white frame is "
    "what is enlarged. Middle: without colors. Right: with them."
)


def list_failures(summary: Summary, worst_cases: WorstCases) -> Iterator[dict[str, Any]]:
    """Yield the sections of missed or poorly marked nodules, and of false positives."""
    if summary.nodules:
        cases = [case for case in worst_cases.nodules if case.is_missed or summary.voxels is not None]
        yield show_cases("worst_nodules", "Where it fails: nodules", describe_nodules(summary, cases), cases)
    cases = worst_cases.false_positives
    text = describe_false_positives(summary, cases)
    yield show_cases("worst_false_positives", "Where it fails: false positives", text, cases)


def show_cases(name: str, heading: str, text: str, cases: Sequence[Case]) -> dict[str, Any]:
    colors: list[Color] = []
    for case in cases:
        colors += [color for color in case.colors if color not in colors]
    text = f"{text} {VIEW} {SLICES} {COORDINATES}" if cases else text
    return {"name": name, "heading": heading, "text": text, "colors": colors, "cases": list(map(show_case, cases))}


def describe_nodules(summary: Summary, cases: Sequence[Case]) -> str:
    missed = sum(not scan.shows(nodule.probability) for scan in summary.scans for nodule in scan.nodules)
    text = f"{count(missed, 'nodule')} missed, the largest first." if missed else "No nodule is missed."
    if all(case.is_missed for case in cases):
        return text
    others = "Then those" if missed else "These are those"
    return f"{text} {others} whose outline overlaps least with the annotated one."


def describe_false_positives(summary: Summary, cases: Sequence[Case]) -> str:
    number = sum(scan.shows(each.probability) for scan in summary.scans for each in scan.false_positives)
    if not number:
        return "There is no false positive."
    text = count(number, "false positive")
    return f"{text}; here {'is' if len(cases) == 1 else 'are'} the {len(cases)} most probable." if cases else f"{text}."


def show_case(case: Case) -> dict[str, str]:
    return {
        "text": case.text[:1].upper() + case.text[1:],
        "place": case.place[:1].upper() + case.place[1:],
        "series_uid": case.series_uid,
        "alt": f"{case.text}, {case.place}",
        "overview": as_png_uri(draw_overview(case)),
        "surroundings": as_png_uri(case.surroundings[::ENLARGED, ::ENLARGED]),  # the browser enlarges it
        "marked": as_png_uri(case.marked[::ENLARGED, ::ENLARGED]),
    }


def draw_overview(case: Case) -> Image:
    """Draw the whole slice, smaller, with a frame around the part that is enlarged."""
    picture = PillowImage.fromarray(case.overlay)
    picture.thumbnail((OVERVIEW_PIXELS, OVERVIEW_PIXELS))
    factor = picture.width / case.overlay.shape[1]
    half = ENLARGED_PIXELS / 2
    corners = (
        ((case.col - half) * factor, (case.row - half) * factor),
        ((case.col + half) * factor, (case.row + half) * factor),
    )
    ImageDraw.Draw(picture).rectangle(corners, outline=FRAME)
    return np.asarray(picture)


def as_png_uri(picture: Image) -> str:
    return as_data_uri(encode_png(picture), "image/png")
