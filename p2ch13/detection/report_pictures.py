"""Pictures of a report: planes of each finding and an overview of all, as images and lines of SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy import ndimage

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.detection.measure import Measures
from p2ch13.detection.planes import CORONAL, ENDS, SAGITTAL, Gray, Line, Plane, cut_planes
from p2ch13.util.progress import show_progress
from p2ch13.util.web_page import as_data_uri

JPEG_QUALITY = 80
VIEW = 256  # width and height of a plane in its SVG's units
MOST_PIXELS, LEAST_PIXELS = 256, 48  # of a side of a plane's image
PIXEL_BUDGET = 12_000_000  # of all pictures of a report: about 2.5 MB
SCALE_BARS_MM = (10, 20, 50, 100)
SCALE_BAR_SHARE = 0.15  # of a picture's width at least
OVERVIEW_PIXELS = 320  # width of a projection
OVERVIEW_HU = (-1000, 100)  # black and white of a mean over the whole body
FLATTEST = 0.1  # height / width of a projection that is still worth a look


class ScaleBar(NamedTuple):
    length: float  # in the SVG's units
    mm: int


class Picture(NamedTuple):
    """A plane of a finding, for an SVG image of `VIEW` x `VIEW` units."""

    plane: str
    slice_ndx: int
    uri: str
    contours: str  # path of the finding's
    others: str  # of other findings
    diameters: str
    scale_bar: ScaleBar


class Dot(NamedTuple):
    number: int
    x: float
    y: float


class Overview(NamedTuple):
    """A projection of the whole scan with the places of its findings."""

    plane: str
    uri: str
    width: int
    height: int
    dots: list[Dot]
    ends: tuple[str, ...]  # see `ENDS`


def draw_findings(
    ct: Ct, labels: NDArray[np.int32], findings: Sequence[Finding], measures: Sequence[Measures]
) -> list[list[Picture]]:
    """Draw the three planes of each finding, the smaller the more there are: a report has them all and stays small."""
    boxes = ndimage.find_objects(labels)
    pixel_count = choose_pixel_count(len(findings))
    return [
        [
            draw_plane(plane)
            for plane in cut_planes(ct, labels, each.number, boxes[each.number - 1], of.axes, pixel_count)
        ]
        for each, of in show_progress(list(zip(findings, measures, strict=True)), "Drawing findings", "finding")
    ]


def choose_pixel_count(finding_count: int) -> int:
    """Choose the side of a plane's picture for so many findings."""
    affordable = math.isqrt(PIXEL_BUDGET // (3 * max(1, finding_count)))
    return min(max(affordable, LEAST_PIXELS), MOST_PIXELS)


def draw_plane(plane: Plane) -> Picture:
    scale = VIEW / len(plane.gray)

    def draw(lines: Iterable[Line]) -> str:
        return as_path(thin(line) * scale for line in lines)

    return Picture(
        plane.name,
        plane.slice_ndx,
        as_jpeg(plane.gray),
        draw(plane.contours),
        draw(plane.others),
        as_path(line * scale for line in plane.diameters),
        choose_scale_bar(plane.mm_per_pixel / scale),
    )


def choose_scale_bar(mm_per_unit: float) -> ScaleBar:
    """Choose the shortest scale bar that is well visible."""
    least_mm = SCALE_BAR_SHARE * VIEW * mm_per_unit
    length_mm = next((length for length in SCALE_BARS_MM if length >= least_mm), SCALE_BARS_MM[-1])
    return ScaleBar(length_mm / mm_per_unit, length_mm)


def thin(line: Line) -> Line:
    """Drop points of a line that are within a pixel of the one before."""
    steps = np.linalg.norm(np.diff(line, axis=0, prepend=line[:1]), axis=1)
    places = np.floor(np.cumsum(steps))
    kept: Line = line[np.concatenate([[True], np.diff(places) > 0])]
    return kept


def as_path(lines: Iterable[Line]) -> str:
    """Write lines as the data of an SVG path."""
    return "".join(
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) + ("Z" if len(line) > 2 else "") for line in lines
    )


def as_jpeg(gray: Gray) -> str:
    file = io.BytesIO()
    PillowImage.fromarray(gray).save(file, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return as_data_uri(file.getvalue(), "image/jpeg")


def draw_overview(ct: Ct, findings: Sequence[Finding]) -> list[Overview]:
    """Draw the scan from the front and from the side, as means over its depth; none of a slab of a few slices."""
    centers_irc = [to_irc(ct, finding.center_xyz) for finding in findings]
    index_mm, row_mm, col_mm = (size * count for size, count in zip(ct.vx_size_xyz[::-1], ct.shape_irc, strict=True))
    overviews = []
    for name, depth, right, width_mm in ((CORONAL, 1, 2, col_mm), (SAGITTAL, 2, 1, row_mm)):
        height = round(OVERVIEW_PIXELS * index_mm / width_mm)
        if height < FLATTEST * OVERVIEW_PIXELS:
            continue
        shares = [
            ((irc[right] + 0.5) / ct.shape_irc[right], 1 - (irc[0] + 0.5) / ct.shape_irc[0]) for irc in centers_irc
        ]
        dots = [
            Dot(finding.number, x * OVERVIEW_PIXELS, y * height)
            for finding, (x, y) in zip(findings, shares, strict=True)
        ]
        image = PillowImage.fromarray(project(ct, depth)).resize((OVERVIEW_PIXELS, height))
        overviews.append(Overview(name, as_jpeg(np.asarray(image)), OVERVIEW_PIXELS, height, dots, ENDS[name]))
    return overviews


def project(ct: Ct, depth: int) -> Gray:
    """Average every fourth plane along an axis of the scan: (index, row or col), head up."""
    steps: list[slice] = [slice(None), slice(None, None, 2), slice(None, None, 2)]
    steps[depth] = slice(None, None, 4)
    black, white = OVERVIEW_HU
    mean_hu = ct.hu[tuple(steps)].clip(black, white).mean(axis=depth, dtype=np.float32)
    gray: Gray = ((mean_hu[::-1] - black) * (255 / (white - black))).round().astype(np.uint8)
    return gray


def to_irc(ct: Ct, point_xyz: Sequence[float]) -> NDArray[np.float64]:
    """Convert a point in patient coordinates to a voxel with fractions."""
    offset = np.linalg.solve(ct.direction, np.subtract(point_xyz, ct.origin_xyz)) / ct.vx_size_xyz
    return offset[::-1]
