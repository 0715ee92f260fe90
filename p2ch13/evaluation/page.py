"""report.html: an evaluation as one page, for people who have never seen the program."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from p2ch13 import __version__
from p2ch13.config import EvaluationOptions
from p2ch13.detection.statements import INTENDED_USE
from p2ch13.evaluation.figures import ON_DARK, ON_LIGHT, Style, draw_froc, draw_reliability
from p2ch13.evaluation.froc import OPERATING_POINTS
from p2ch13.evaluation.page_cases import list_failures
from p2ch13.evaluation.page_texts import HEADINGS, INTERVAL, MEANINGS
from p2ch13.evaluation.report import make_tables
from p2ch13.evaluation.results import Results, describe_settings
from p2ch13.evaluation.scoring import ScanScores
from p2ch13.evaluation.summary import Summary
from p2ch13.evaluation.words import (
    count,
    describe_curve,
    describe_gaps,
    describe_ranking,
    describe_result,
    describe_scope,
    describe_skipped,
)
from p2ch13.util.files import as_text, atomic_write
from p2ch13.util.web_page import as_data_uri, render

PAGE_FILE = "report.html"
TEMPLATE = Path(__file__).with_name("page.html")
LISTED_SCANS = 1000  # at most, those with most errors; and as many skipped ones


def write_page(path: Path, options: EvaluationOptions, summary: Summary, results: Results) -> None:
    """Write the page: one file below 5 MB that refers to no other."""
    settings = describe_settings(options, results)
    del settings["series"]  # the table of scans has them
    html = render(
        TEMPLATE,
        title="How well nodules are found",
        intended_use=INTENDED_USE,
        version=__version__,
        result=describe_result(summary),
        ranking=describe_ranking(summary),
        warnings=results.warnings,
        gaps=describe_gaps(options, summary),
        scope=describe_scope(options, summary, results),
        scores=list(list_scores(summary)),
        failures=list(list_failures(summary, results.worst_cases)),
        scans=tabulate_scans(summary.scans),
        scans_title=name_scans(len(summary.scans)),
        skipped=tabulate_skipped(results.skipped),
        skipped_text=describe_skipped(len(results.skipped)),
        settings=json.dumps(settings, indent=2, default=str),
    )
    with atomic_write(path) as file:
        file.write(as_text(html).encode())


def list_scores(summary: Summary) -> Iterator[dict[str, Any]]:
    """Yield the tables of scores that are defined, each with its figure and what its scores mean."""
    tables = make_tables(summary)
    for name in [*(each for each in HEADINGS if each in tables), *(each for each in tables if each not in HEADINGS)]:
        rows = tables[name]
        figure, note = None, ""
        if name == "froc":
            figure, note = show_froc(summary), describe_curve(summary)
        elif name in ("nodules", "sizes") and summary.operating_point is not None:
            note = "This table counts findings of any probability, even those that are not shown."
        elif name == "calibration" and summary.calibration is not None:
            figure = show_reliability(summary.calibration)
        has_interval = any("CI" in cell for row in rows for cell in row)
        meanings = [each for each in MEANINGS.get(name, ()) if each != INTERVAL or has_interval]
        words = {"heading": HEADINGS.get(name, rows[0][0]), "note": note, "meanings": meanings}
        yield {"name": name, "rows": rows, "figure": figure, **words}


def show_froc(summary: Summary) -> dict[str, str]:
    froc = summary.froc
    points = zip(OPERATING_POINTS, froc.sensitivities, strict=True)
    values = ", ".join(f"{value:.2f} at {Fraction(rate)}" for rate, value in points)
    band = " The band is the confidence interval." if froc.has_interval else ""
    return show_chart(
        lambda style: draw_froc(froc, style),
        f"FROC curve. Sensitivity by false positives a scan: {values}.",
        f"The share of nodules that is found, over the false positives a scan that come with them.{band}",
    )


def show_reliability(calibration: dict[str, Any]) -> dict[str, str]:
    return show_chart(
        lambda style: draw_reliability(calibration, style),
        "Reliability curves: share of nodules over the probability of findings, before and after calibration.",
        "Of findings with a probability of 0.7, 70% should be nodules: the dashed line. Each point is a tenth of the "
        "range of probabilities that has findings.",
    )


def show_chart(draw: Callable[[Style], bytes], alt: str, caption: str) -> dict[str, str]:
    """Draw a chart for light and dark pages."""
    light, dark = (as_data_uri(draw(style), "image/png") for style in (ON_LIGHT, ON_DARK))
    return {"light": light, "dark": dark, "alt": alt, "caption": caption}


def tabulate_scans(scans: Sequence[ScanScores]) -> list[list[str]]:
    """Make the table of scans, those with most errors on top."""
    rows = sorted(map(tabulate_scan, scans), key=lambda row: (-int(row[3]) - int(row[4]), row[0]))
    return [["series", "slices", "nodules", "missed", "false positives", "Dice"], *rows[:LISTED_SCANS]]


def tabulate_scan(scan: ScanScores) -> list[str]:
    missed = sum(not scan.shows(nodule.probability) for nodule in scan.nodules)
    false_positives = sum(scan.shows(each.probability) for each in scan.false_positives)
    slices = "-" if scan.slice_count is None else str(scan.slice_count)
    dice = "-" if scan.voxels is None or not scan.nodules else f"{scan.voxels.scores.f1:.3f}"
    return [scan.series_uid, slices, str(len(scan.nodules)), str(missed), str(false_positives), dice]


def name_scans(scan_count: int) -> str:
    limit = "" if scan_count <= LISTED_SCANS else f": the {LISTED_SCANS:,} with most errors; per_scan.csv has all"
    return f"{count(scan_count, 'scan')}, one by one{limit}"


def tabulate_skipped(skipped: dict[str, str]) -> list[list[str]]:
    if not skipped:
        return []
    rows = [[series_uid, reason] for series_uid, reason in skipped.items()]
    more = [["...", f"{len(rows) - LISTED_SCANS:,} more are in metrics.json"]] if len(rows) > LISTED_SCANS else []
    return [["series", "why"], *rows[:LISTED_SCANS], *more]
