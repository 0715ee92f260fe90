"""The figure of a scan's findings for notebooks: three planes of each, with contours, diameters and a scale bar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont
from scipy import ndimage

from p2ch13.data.ct import Ct
from p2ch13.detection.colors import MARKED, explain
from p2ch13.detection.findings import Finding
from p2ch13.detection.measure import Measures
from p2ch13.detection.pictures import Image, draw_gray, stack, write_caption
from p2ch13.detection.planes import AXIAL, CORONAL, ENDS, SAGITTAL, Line, Plane, cut_planes
from p2ch13.detection.report_pictures import VIEW, choose_scale_bar
from p2ch13.detection.statements import show_probability, show_side

PIXELS = 320  # of each side of a plane
FINER = 2  # times, in which lines are drawn, to be smooth
CONTOUR, OTHER, DIAMETER = 4, 2, 2  # widths of lines, in finer pixels
MARGIN, LETTER = 8, 14  # pixels
CROSSED = {AXIAL: "slice", CORONAL: "row", SAGITTAL: "column"}
GAP = 4  # pixels between planes


def draw_figure(
    ct: Ct, labels: NDArray[np.int32], shown: Sequence[tuple[Finding, Measures, str | None]], title: str
) -> Image:
    """Draw findings, a row for each, below a title; without any, the scan's middle slice.

    Args: labels: (index, row, col), the finding's number of each voxel; shown: findings, their measures and sides.
    """
    boxes = ndimage.find_objects(labels)
    rows = []
    for finding, measures, side in shown:
        planes = cut_planes(ct, labels, finding.number, boxes[finding.number - 1], measures.axes, FINER * PIXELS)
        rows.append([write_caption(beside([draw_plane(plane) for plane in planes]), describe(finding, measures, side))])
    if not rows:
        middle = ct.shape_irc[0] // 2
        return write_caption(draw_gray(ct.hu[middle]), f"{title} Slice {middle}, the middle one.")
    return write_caption(stack(rows), f"{title} {explain(MARKED).capitalize()}.")


def describe(finding: Finding, measures: Measures, side: str | None) -> str:
    axes = measures.axes
    return (
        f"Finding {finding.number}: probability {show_probability(finding.probability)}, {show_side(side)}, "
        f"{measures.kind}, {axes.long.length_mm:.1f} x {axes.short.length_mm:.1f} mm"
    )


def draw_plane(plane: Plane) -> Image:
    """Draw a plane with lines on it, below the name of its slice."""
    image = PillowImage.fromarray(plane.gray).convert("RGB")
    draw = ImageDraw.Draw(image)
    for lines, color, width in (
        (plane.others, MARKED.rgb, OTHER),
        (plane.contours, MARKED.rgb, CONTOUR),
        (plane.diameters, (255, 255, 255), DIAMETER),
    ):
        for line in lines:
            draw.line(as_points(line), fill=color, width=width, joint="curve")
    image = image.resize((PIXELS, PIXELS), PillowImage.Resampling.LANCZOS)
    letter_ends(image, ENDS[plane.name])
    draw_scale_bar(image, plane.mm_per_pixel * FINER)
    return write_caption(np.asarray(image), f"{plane.name}, {CROSSED[plane.name]} {plane.slice_ndx}")


def as_points(line: Line) -> list[tuple[float, float]]:
    """Return the points of a line; of a contour, which has more than two, the first again at its end."""
    points = [(float(x), float(y)) for x, y in line]
    return points + points[:1] if len(points) > 2 else points


def letter_ends(image: PillowImage.Image, ends: tuple[str, ...]) -> None:
    """Write the patient's sides at the middle of the edges: top, right, bottom, left."""
    middle, last = PIXELS / 2, PIXELS - MARGIN / 2
    places = ((middle, MARGIN / 2, "mt"), (last, middle, "rm"), (middle, last, "mb"), (MARGIN / 2, middle, "lm"))
    for letter, (x, y, anchor) in zip(ends, places, strict=True):
        write(image, (x, y), letter, anchor)


def draw_scale_bar(image: PillowImage.Image, mm_per_pixel: float) -> None:
    bar = choose_scale_bar(mm_per_pixel * PIXELS / VIEW)
    length = bar.length * PIXELS / VIEW
    bottom = PIXELS - MARGIN
    ImageDraw.Draw(image).line([(MARGIN, bottom), (MARGIN + length, bottom)], fill="white", width=2)
    write(image, (MARGIN, bottom - MARGIN / 2), f"{bar.mm} mm", "lb")


def write(image: PillowImage.Image, place: tuple[float, float], text: str, anchor: str) -> None:
    font = ImageFont.load_default(size=LETTER)
    ImageDraw.Draw(image).text(place, text, fill="white", font=font, anchor=anchor, stroke_width=1, stroke_fill="black")


def beside(images: Sequence[Image]) -> Image:
    """Arrange images of one height beside each other."""
    black = np.zeros((images[0].shape[0], GAP, 3), dtype=np.uint8)
    parts = [part for image in images for part in (image, black)]
    return np.concatenate(parts[:-1], axis=1)
