"""The report of a scan: its findings with measures and pictures, for a browser and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ch13 import __version__
from p2ch13.config import MAX_DIAMETER_MM
from p2ch13.data.ct import Ct
from p2ch13.detection import statements
from p2ch13.detection.colors import MARKED
from p2ch13.detection.findings import Finding
from p2ch13.detection.measure import Axes, Measures
from p2ch13.detection.planes import ENDS
from p2ch13.detection.report_pictures import VIEW, draw_findings, draw_overview
from p2ch13.detection.search_facts import SearchFacts
from p2ch13.detection.size_categories import fleischner, lung_rads, round_half_up
from p2ch13.util.files import as_text, atomic_write
from p2ch13.util.web_page import render

FORMAT_VERSION = 1
TEMPLATE = Path(__file__).with_name("report.html")
SIDES = {"R": "right", "L": "left", "A": "front", "P": "back", "I": "feet", "S": "head"}
DIRECTIONS = ("RL", "AP", "IS")  # from where to where the patient's x, y and z axes run


def make_report(
    name: str,
    ct: Ct,
    findings: Sequence[Finding],
    measures: Sequence[Measures],
    sides: Sequence[str | None],
    facts: SearchFacts,
) -> dict[str, Any]:
    """Make the content of a scan's report, as `docs/report.md` describes it.

    Args: name: of the scan's files; measures, sides: of each finding.
    """
    entries = [describe_finding(*each) for each in zip(findings, measures, sides, strict=True)]
    return {
        "format_version": FORMAT_VERSION,
        "program": {"name": "p2ch13", "version": __version__},
        "intended_use": statements.INTENDED_USE,
        "summary": statements.summarize(entries, facts),
        "scan": describe_scan(name, ct),
        **facts.as_json(),
        "limits": statements.list_limits(ct, entries, facts),
        "coordinates": statements.COORDINATES,
        "slices": statements.SLICES,
        "findings": entries,
    }


def describe_scan(name: str, ct: Ct) -> dict[str, Any]:
    """Describe a scan's geometry, in axial order but for `stored_axes`."""
    slice_count, row_count, column_count = ct.shape_irc
    return {
        "name": as_text(name),
        "series_uid": as_text(ct.series_uid),
        "slice_count": slice_count,
        "row_count": row_count,
        "column_count": column_count,
        "voxel_size_xyz_mm": ct.vx_size_xyz.tolist(),
        "first_voxel_xyz_mm": ct.origin_xyz.tolist(),
        "direction": ct.direction.tolist(),
        "stored_axes": "".join(map(name_axis, ct.header.direction.T)),
    }


def name_axis(direction: NDArray[np.float64]) -> str:
    """Name the patient's side that an axis runs to: L, R, P, A, S (superior) or I, the nearest one."""
    axis = int(np.abs(direction).argmax())
    return DIRECTIONS[axis][int(direction[axis] > 0)]


def describe_finding(finding: Finding, measures: Measures, side: str | None) -> dict[str, Any]:
    return {
        "number": finding.number,
        "probability": finding.probability,
        "logit": finding.logit if math.isfinite(finding.logit) else None,
        "side": side,
        "first_slice": finding.first_slice,
        "last_slice": finding.last_slice,
        "center_xyz_mm": list(finding.center_xyz),
        **describe_axes(measures.axes),
        "volume_mm3": int(round_half_up(measures.volume_mm3, "1")),
        "mean_hu": int(round_half_up(measures.mean_hu, "1")),
        "kind": measures.kind,
        "solid_part": measures.solid_axes and describe_axes(measures.solid_axes),
        "is_at_pleura": measures.is_at_pleura,
        "is_larger_than_made_for": finding.diameter_mm > MAX_DIAMETER_MM,
        "size_categories": [rule(measures)._asdict() for rule in (lung_rads, fleischner)],
    }


def describe_axes(axes: Axes) -> dict[str, Any]:
    """The mean is that of the axes before they are rounded."""
    return {
        "longest_diameter_mm": float(round_half_up(axes.long.length_mm, "0.1")),
        "perpendicular_diameter_mm": float(round_half_up(axes.short.length_mm, "0.1")),
        "mean_diameter_mm": float(round_half_up(axes.mean_mm, "0.1")),
        "diameter_slice": axes.slice_ndx,
    }


def write_report(
    stem: Path,
    ct: Ct,
    labels: NDArray[np.int32],
    findings: Sequence[Finding],
    measures: Sequence[Measures],
    sides: Sequence[str | None],
    facts: SearchFacts,
) -> None:
    """Write `<stem>_report.json` and `<stem>_report.html`.

    Args: stem: folder and name of the scan's files; see `make_report` and `write_page`.
    """
    report = make_report(stem.name, ct, findings, measures, sides, facts)
    write_json(stem.with_name(f"{stem.name}_report.json"), report)
    write_page(stem.with_name(f"{stem.name}_report.html"), report, ct, labels, findings, measures, facts)


def write_json(path: Path, report: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_page(
    path: Path,
    report: dict[str, Any],
    ct: Ct,
    labels: NDArray[np.int32],
    findings: Sequence[Finding],
    measures: Sequence[Measures],
    facts: SearchFacts,
) -> None:
    """Write a report as a web page in one file, with a picture of each finding.

    Args: report: see `make_report`; labels: (index, row, col), the finding's number of each voxel.
    """
    page = render(
        TEMPLATE,
        **report,
        probability_note=statements.explain_probability(facts),
        pictures=draw_findings(ct, labels, findings, measures),
        overview=draw_overview(ct, findings),
        view=VIEW,
        ends=ENDS,
        marked=MARKED,
        axis_names=", ".join(SIDES[letter] for letter in report["scan"]["stored_axes"]),
        show_probability=statements.show_probability,
        show_side=statements.show_side,
        show_slices=statements.show_slices,
    )
    with atomic_write(path) as file:
        file.write(page.encode())
