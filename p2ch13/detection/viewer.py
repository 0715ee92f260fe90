"""The viewer: one page with all slices of a scan and its findings, which a browser opens without a network or server.

Each slice is compressed text in the page, which viewer.js decodes when it is shown. It is no PNG: a canvas has 8 bits,
and some browsers add noise to what a page reads back from it.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ch13.data.ct import Ct
from p2ch13.detection.colors import MARKED
from p2ch13.detection.findings import Finding
from p2ch13.detection.measure import Measures
from p2ch13.detection.pictures import LUNG_WINDOW_HU
from p2ch13.detection.statements import COORDINATES, INTENDED_USE, SLICES, show_probability, show_slices
from p2ch13.util.files import as_text, atomic_write
from p2ch13.util.threads import available_cores
from p2ch13.util.web_page import render

# Black and white of each window; the first one is shown when the page opens.
WINDOWS_HU = {"Lung": LUNG_WINDOW_HU, "Mediastinum": (-160.0, 240.0), "Bone": (-500.0, 1300.0)}
LOWEST_HU, HIGHEST_HU = -1024, 3071  # the 12 bits of a CT scanner; values beyond become these
STEPS_HU = (1, 2, 4, 8, 12, 16, 24, 32)  # that HU are rounded to: the smallest one with which the page is not too large
MOST_BYTES = 0.73  # of the page, for each pixel: 57 MB for 300 slices of 512 x 512
SAMPLE_COUNT = 12  # slices that are encoded to choose the step
TEMPLATE = Path(__file__).with_name("viewer.html")
SLICES_PLACE = "<!-- slices -->"  # in the template; no text can hold it, since < is written otherwise there


def write_viewer(
    path: Path,
    name: str,
    ct: Ct,
    labels: NDArray[np.int32],
    findings: Sequence[Finding],
    measures: Sequence[Measures],
) -> None:
    """Write the page.

    Args:
        name: of the scan's files.
        labels: (index, row, col), the finding's number of each voxel, 0 for none.
        measures: of each finding.
    """
    step = choose_step(ct.hu)
    page = render(
        TEMPLATE,
        name=as_text(name),
        geometry=describe_geometry(ct),
        intended_use=INTENDED_USE,
        findings=[describe_finding(*pair) for pair in zip(findings, measures, strict=True)],
        notes=list_notes(findings, step),
        scan=describe_scan(ct, findings, measures, step),
    )
    head, tail = page.split(SLICES_PLACE)
    with atomic_write(path) as file:
        file.write(head.encode())
        for element in encode_slices(ct.hu, labels, step):
            file.write(element)
        file.write(tail.encode())


def describe_geometry(ct: Ct) -> str:
    slice_count, rows, cols = ct.shape_irc
    x, y, z = ct.vx_size_xyz
    return f"{slice_count} slices of {rows} x {cols}, {y:.2f} x {x:.2f} mm each, {z:.2f} mm apart"


def describe_finding(finding: Finding, measures: Measures) -> str:
    """Another program's finding has no probability."""
    probability = "" if math.isnan(finding.logit) else f"probability {show_probability(finding.probability)}, "
    long, short = measures.axes.long.length_mm, measures.axes.short.length_mm
    slices = show_slices(finding.first_slice, finding.last_slice)
    return f"{finding.number}: {probability}{long:.1f} x {short:.1f} mm, {measures.kind}, {slices}"


def list_notes(findings: Sequence[Finding], step: int) -> list[str]:
    is_ours = not any(math.isnan(finding.logit) for finding in findings)
    rounding = f"HU are rounded, by {step // 2} at most" if step > 1 else "HU are exact"
    return [
        f"{MARKED.name.capitalize()}: {MARKED.meaning if is_ours else 'marked in the mask'}.",
        f"{rounding}; those beyond {LOWEST_HU} and {HIGHEST_HU} are shown as these.",
        SLICES,
        COORDINATES,
    ]


def describe_scan(ct: Ct, findings: Sequence[Finding], measures: Sequence[Measures], step: int) -> dict[str, Any]:
    """Return what viewer.js has to know beside the slices."""
    return {
        "shape": ct.shape_irc,
        "spacing": ct.vx_size_xyz[:2].tolist(),
        "origin": ct.origin_xyz.tolist(),
        "steps": (ct.direction * ct.vx_size_xyz).tolist(),  # mm along x, y, z from a col, row, slice to the next
        "first": len(ct.hu) // 2,
        "windows": WINDOWS_HU,
        "color": MARKED.css,
        "low": LOWEST_HU,
        "step": step,
        "levels": count_levels(step),
        "findings": [
            {
                "number": finding.number,
                "slice": each.axes.slice_ndx,
                "slices": [finding.first_slice, finding.last_slice],
                "center": ct.to_irc(finding.center_xyz)[1:],
                "long_mm": each.axes.long.length_mm,
            }
            for finding, each in zip(findings, measures, strict=True)
        ],
    }


def choose_step(hu: NDArray[np.int16]) -> int:
    """Choose what HU are rounded to: 1, unless noise, which hardly compresses, makes the page too large.

    A noisy scan needs a larger step, which stays below its noise.
    """
    sample = [hu[ndx] for ndx in np.unique(np.linspace(0, len(hu) - 1, SAMPLE_COUNT).round().astype(int))]
    most = MOST_BYTES * sum(each.size for each in sample)
    fitting = (step for step in STEPS_HU if sum(len(encode_slice(quantize(each, step))) for each in sample) <= most)
    return next(fitting, STEPS_HU[-1])


def count_levels(step: int) -> int:
    return (HIGHEST_HU - LOWEST_HU) // step + 2


def quantize(hu: NDArray[np.int16], step: int) -> NDArray[np.int32]:
    """Return the nearest levels, which are so many HU apart; level 0 is `LOWEST_HU`."""
    above = hu.clip(LOWEST_HU, HIGHEST_HU).astype(np.int32) - LOWEST_HU
    return (above + step // 2) // step


def encode_slices(hu: NDArray[np.int16], labels: NDArray[np.int32], step: int) -> Iterator[bytes]:
    """Encode each slice, and its labels if it has any, as elements of the page."""

    def encode(ndx: int) -> bytes:
        elements = wrap("hu", ndx, encode_slice(quantize(hu[ndx], step)))
        if labels[ndx].any():
            elements += wrap("labels", ndx, encode_slice(labels[ndx].astype(np.int32)))
        return elements

    with ThreadPoolExecutor(available_cores()) as threads:  # zlib and NumPy do not hold Python's lock
        yield from threads.map(encode, range(len(hu)))


def wrap(kind: str, ndx: int, text: bytes) -> bytes:
    return b'<script type="text/plain" id="%s-%d">%s</script>\n' % (kind.encode(), ndx, text)


def encode_slice(values: NDArray[np.int32]) -> bytes:
    """Compress (row, col), values from 0 to 32767, to base64 of a zlib stream, which viewer.js restores.

    Each value is predicted from those above and to the left; the residuals, folded to values from 0 on, are stored
    as all low bytes, then all high ones. On real CT this takes 2/3 of what zlib alone makes of the slices.
    Source: Weinberger et al., The LOCO-I lossless image compression algorithm, IEEE Trans. Image Processing 9 (2000),
    the median edge detector.
    """
    residuals = values - predict(values)
    folded = (residuals << 1) ^ (residuals >> 31)
    compressor = zlib.compressobj(4, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
    planes = (folded & 0xFF).astype(np.uint8).tobytes() + (folded >> 8).astype(np.uint8).tobytes()
    return base64.b64encode(compressor.compress(planes) + compressor.flush())


def predict(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """Predict each value of (row, col): the plane through its neighbors, but between those above and to the left.

    At the borders, the neighbor that there is stands for the others; for the first value, 0 does.
    """
    up, left, corner = np.zeros((3, *values.shape), dtype=np.int32)
    up[1:] = values[:-1]
    left[:, 1:] = values[:, :-1]
    corner[1:, 1:] = values[:-1, :-1]
    left[:, 0] = corner[:, 0] = up[:, 0]
    up[0] = corner[0] = left[0]
    predicted: NDArray[np.int32] = (left + up - corner).clip(np.minimum(left, up), np.maximum(left, up))
    return predicted
