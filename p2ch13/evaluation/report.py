"""The files of an evaluation: metrics.json, tables as CSV and on the screen, the FROC curve."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from p2ch13.evaluation.calibration import CALIBRATIONS
from p2ch13.evaluation.figures import draw_froc
from p2ch13.evaluation.froc import BOOTSTRAP_COUNT, CONFIDENCE, FINDINGS_PER_SCAN, OPERATING_POINTS
from p2ch13.evaluation.scoring import NoduleScore, ScanScores
from p2ch13.evaluation.size_classes import name_class
from p2ch13.evaluation.summary import Summary
from p2ch13.labels.tables import POSITION_COLUMNS
from p2ch13.util.files import atomic_write, write_csv
from p2ch13.util.json_values import only_finite

FROC_FILE, NETWORKS_FILE = "froc.png", "per_network.csv"
FORMAT_VERSION = 2  # of metrics.json; raised when a key changes its meaning or goes
NODULE_COLUMNS = (
    *(*POSITION_COLUMNS, "diameter_mm", "found", "probability", "logit", "recall", "dice"),
    *("readers", "inter_reader_dice", "dice_with_readers", "volume_error", "surface_distance_mm"),
)
SCAN_COLUMNS = (
    *("seriesuid", "slices", "nodules", "found", "findings", "false_positives"),
    *("voxels_tp", "voxels_fn", "voxels_fp", "precision", "recall", "dice"),
)


NETWORK_COLUMNS = {
    "network": "network",
    "scans": "scans",
    "nodules": "nodules",
    "found": "found",
    "false_positives_per_scan": "false positives per scan",
    "cpm": "CPM",
    "cpm_low": f"{CONFIDENCE:.0%} CI, lower",
    "cpm_high": "upper",
    "mean_dice": "mean Dice",
    "mean_dice_low": f"{CONFIDENCE:.0%} CI, lower",
    "mean_dice_high": "upper",
}


def write_report(folder: Path, summary: Summary, settings: dict[str, Any], skipped: dict[str, str]) -> None:
    """Write `metrics.json`, `per_nodule.csv`, `per_scan.csv` and, if it says anything, `froc.png`.

    Of networks that score scans of their own, also `per_network.csv`.

    Args:
        settings: all settings that the scores depend on; paths are written as text.
        skipped: series UID -> why its scan was skipped.
    """
    froc = {"bootstrap_draws": BOOTSTRAP_COUNT, "confidence": CONFIDENCE, "findings_per_scan": FINDINGS_PER_SCAN}
    metrics = {"format_version": FORMAT_VERSION, "settings": settings | froc, "skipped": skipped} | summary.as_dict()
    with atomic_write(folder / "metrics.json") as file:
        file.write(json.dumps(only_finite(metrics), indent=2, allow_nan=False, default=str).encode() + b"\n")
    write_csv(folder / "per_nodule.csv", NODULE_COLUMNS, map(nodule_row, summary.nodules))
    write_csv(folder / "per_scan.csv", SCAN_COLUMNS, map(scan_row, summary.scans))
    if summary.networks:
        rows = [[name, *part.in_short().values()] for name, part in summary.networks.items()]
        write_csv(
            folder / NETWORKS_FILE,
            tuple(NETWORK_COLUMNS),
            [[math.nan if value is None else value for value in row] for row in rows],
        )
    if summary.has_curve:
        with atomic_write(folder / FROC_FILE) as file:
            file.write(draw_froc(summary.froc))


def nodule_row(nodule: NoduleScore) -> list[object]:
    scores = (nodule.probability, nodule.logit, nodule.recall, nodule.dice)
    readers = (nodule.reader_count or math.nan, nodule.inter_reader_dice, nodule.dice_with_readers)
    shape = (nodule.volume_error, nodule.surface_distance_mm)
    return [nodule.series_uid, *nodule.center_xyz, nodule.diameter_mm, nodule.is_found, *scores, *readers, *shape]


def scan_row(scan: ScanScores) -> list[object]:
    found_count = sum(nodule.is_found for nodule in scan.nodules)
    row = [scan.series_uid, scan.slice_count, len(scan.nodules), found_count]
    row += [len(scan.findings), len(scan.false_positives)]
    if scan.voxels is None:
        return [*row, *[math.nan] * 6]
    scores = scan.voxels.scores
    return [*row, scan.voxels.tp, scan.voxels.fn, scan.voxels.fp, scores.precision, scores.recall, scores.f1]


def format_summary(summary: Summary) -> str:
    """Format the tables for the screen, in Markdown."""
    return "\n\n".join(format_table(rows) for rows in make_tables(summary).values())


def make_tables(summary: Summary) -> dict[str, list[list[str]]]:
    """Make the tables of all scores that are defined, each with its header first, by what they show."""
    values = summary.as_dict()
    tables = {}
    if values["voxels"] is not None:
        tables["voxels"] = voxel_table(values["voxels"])
    tables["nodules"] = nodule_table(values["nodules"], values["findings"])
    if summary.nodules:
        tables["sizes"] = size_table(values["sizes"])
    if values["nodules"]["outlined"]:
        tables["readers"] = reader_table(values["nodules"])
    if values["operating_point"] is not None:
        tables["operating_point"] = operating_point_table(values["operating_point"])
    if summary.has_curve:
        tables["froc"] = froc_table(values["froc"])
    if values["networks"]:
        tables["networks"] = network_table([*values["networks"], {"network": "all", **summary.in_short()}])
    if values["calibration"] is not None:
        tables["calibration"] = calibration_table(values["calibration"])
    return tables


def voxel_table(voxels: dict[str, Any]) -> list[list[str]]:
    names = ("precision", "recall", "dice")
    rows = [
        ["voxels", "precision", "recall", "Dice", "false positives per slice"],
        ["all scans as one", *(show(voxels[name]) for name in names), show(voxels["false_positives_per_slice"], ".1f")],
        ["mean of the scans with nodules", *(show(voxels[f"mean_{name}_of_scans"]) for name in names), ""],
    ]
    return with_interval(rows, voxels, "dice")


def nodule_table(nodules: dict[str, Any], findings: dict[str, Any]) -> list[list[str]]:
    counts = [show(nodules[name], "d") for name in ("count", "found", "touched")]
    shares = [show(nodules["recall"]), show(nodules["mean_dice"])]
    false_positives = show(findings["false_positives_per_scan"], ".2f")
    rows = [
        ["nodules", "found", "touched", "found / all", "mean Dice", "findings", "false positives per scan"],
        [*counts, *shares, show(findings["count"], "d"), false_positives],
    ]
    return with_interval(rows, nodules, "mean_dice")


def with_interval(rows: list[list[str]], values: dict[str, Any], key: str) -> list[list[str]]:
    """Add the interval of the first row's Dice, if it is defined, as columns behind it."""
    if values[f"{key}_low"] is None:
        return rows
    header, _, *others = rows
    added = [f"{CONFIDENCE:.0%} CI of Dice, lower", "upper"], [show(values[f"{key}_{end}"]) for end in ("low", "high")]
    place = next(ndx for ndx, name in enumerate(header) if name.endswith("Dice")) + 1
    columns = [*added, *(["", ""] for _ in others)]
    return [[*row[:place], *more, *row[place:]] for row, more in zip(rows, columns, strict=True)]


def size_table(sizes: dict[str, Any]) -> list[list[str]]:
    """Show the scores of the size classes that have nodules, and of all."""
    rows = [["nodules by size", "count", "found", "mean Dice", "volume bias", "spread", "surface distance, mm"]]
    for part in sizes["classes"]:
        if part["count"]:
            name = name_class(part["from_mm"], part["to_mm"])
            rows.append([name, *(show(part[key], "d") for key in ("count", "found")), show(part["mean_dice"])])
            rows[-1] += show_shapes(part)
    counts = [sum(part[key] for part in sizes["classes"]) for key in ("count", "found")]
    return [*rows, ["all", *map(str, counts), "", *show_shapes(sizes)]]


def show_shapes(part: dict[str, Any]) -> list[str]:
    shares = [show(part["volume_bias"], "+.0%"), show(part["volume_spread"], ".0%")]
    return [*shares, show(part["mean_surface_distance_mm"], ".2f")]


def operating_point_table(point: dict[str, Any]) -> list[list[str]]:
    return [
        ["at the operating point: probability", "found", "sensitivity", "false positives per scan"],
        [
            show(point["threshold"], ".3g"),
            show(point["found"], "d"),
            show(point["sensitivity"]),
            show(point["false_positives_per_scan"], ".2f"),
        ],
    ]


def network_table(networks: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Show the scores of networks on scans of their own, and of all scans."""
    formats = {"scans": "d", "nodules": "d", "found": "d", "false_positives_per_scan": ".2f"}
    rows = [
        [each["network"], *(show(each[key], formats.get(key, ".3f")) for key in list(NETWORK_COLUMNS)[1:])]
        for each in networks
    ]
    return [list(NETWORK_COLUMNS.values()), *rows]


def calibration_table(calibration: dict[str, Any]) -> list[list[str]]:
    has_interval = any(calibration[key]["ece_low"] is not None for key in CALIBRATIONS.values())
    scores = ("ece", "ece_low", "ece_high") if has_interval else ("ece",)
    interval = [f"{CONFIDENCE:.0%} CI, lower", "upper"] if has_interval else []
    rows = [["calibration", "findings", "nodules", "ECE", *interval]]
    for name, key in CALIBRATIONS.items():
        part = calibration[key]
        counts = (show(part[count], "d") for count in ("findings", "nodules"))
        rows.append([name, *counts, *(show(part[score]) for score in scores)])
    return rows


def reader_table(nodules: dict[str, Any]) -> list[list[str]]:
    """Show how readers agree on the nodules that two or more outlined, beside how findings agree with them."""
    return [
        ["nodules outlined by several readers", "mean Dice of two readers", "mean Dice of findings and a reader"],
        [
            show(nodules["outlined"], "d"),
            *map(show, (nodules["mean_inter_reader_dice"], nodules["mean_dice_with_readers"])),
        ],
    ]


def froc_table(froc: dict[str, Any]) -> list[list[str]]:
    rows = [["false positives per scan", *map(str, map(Fraction, OPERATING_POINTS)), "CPM"]]
    lines = [("sensitivity", ""), (f"{CONFIDENCE:.0%} CI, lower", "_low"), (f"{CONFIDENCE:.0%} CI, upper", "_high")]
    for name, ending in lines if froc["cpm_low"] is not None else lines[:1]:
        rows.append([name, *map(show, [*froc[f"sensitivity{ending}"], froc[f"cpm{ending}"]])])
    return rows


def show(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of texts, the header first, as a Markdown table."""
    widths = [max(len(row[ndx]) for row in rows) for ndx in range(len(rows[0]))]
    lines = [" | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    rule = " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))
