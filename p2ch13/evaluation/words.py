"""An evaluation in plain words: what was scored, how, and the result in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p2ch13.config import MIN_CANDIDATE_MM, MIN_DIAMETER_MM, OPENVINO, EvaluationOptions
from p2ch13.evaluation.froc import BOOTSTRAP_COUNT, CONFIDENCE, FINDINGS_PER_SCAN
from p2ch13.evaluation.results import Results, describe_settings
from p2ch13.evaluation.summary import Summary

LABELS = {
    "box": "the voxels denser than lung in a box around each annotated center, as in the book",
    "refined": "the dense voxels within each annotated diameter, without vessels and chest wall",
    "lidc": "the voxels that at least half of the radiologists outlined",
    "mask": "the voxels of the mask files beside the scans",
}
PRECISIONS = {"bf16": "in bfloat16", "fp32": "in float32", "auto": "in bfloat16 where the processor has it"}


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def describe_result(summary: Summary) -> str:
    """Say in one sentence how many nodules are found, and at how many false positives."""
    values = summary.as_dict()
    point = values["operating_point"]
    scans, nodule_count = count(len(summary.scans), "scan"), len(summary.nodules)
    found = (values["nodules"] if point is None else point)["found"]
    per_scan = (values["findings"] if point is None else point)["false_positives_per_scan"]
    which = "" if point is None else f", among findings {describe_point(point)}"
    if not nodule_count:
        number = round(per_scan * len(summary.scans))
        there = f"there {'is' if number == 1 else 'are'} {count(number, 'false positive')}"
        return f"No nodule is annotated in {scans}; {there}, {per_scan:.2f} a scan{which}."
    share = f"{found} of {count(nodule_count, 'nodule')} ({found / nodule_count:.0%})"
    if len(summary.scans) == 1:
        false_positives = count(round(per_scan), "false positive")
        return f"{share} {'is' if found == 1 else 'are'} found in 1 scan, with {false_positives}{which}."
    return (
        f"{share} {'is' if found == 1 else 'are'} found in {scans}, with {per_scan:.2f} false positives a scan{which}."
    )


def describe_point(point: Mapping[str, Any]) -> str:
    """Name the operating point; several networks may have different ones."""
    if point["threshold"] is None:
        return "from each network's operating point on"
    return f"with a probability of at least {point['threshold']:.3g}"


def describe_ranking(summary: Summary) -> str:
    """Say how well findings are ranked, and how sure that is."""
    froc = summary.froc
    if not summary.nodules:
        return "Without an annotated nodule there is no sensitivity, and neither FROC nor CPM."
    if not summary.has_curve:
        return "One scan says little about others: a FROC curve, its CPM and confidence intervals need several."
    cpm = f"CPM (mean sensitivity at 1/8 to 8 false positives a scan; 1 is perfect) {froc.cpm:.3f}"
    if froc.has_interval:
        low, high = froc.cpm_interval
        same = "" if low < high else " All of these scans score the same, which says little about others."
        return f"{cpm}, {CONFIDENCE:.0%} confidence interval {low:.3f} to {high:.3f}.{same}"
    return f"{cpm}, without a confidence interval: that needs nodules in two scans or more."


def describe_gaps(options: EvaluationOptions, summary: Summary) -> list[str]:
    """Say what could not be scored, and why."""
    gaps = []
    if not summary.nodules:
        gaps.append("Sensitivity, FROC and CPM: none of these scans has an annotated nodule.")
    if summary.voxels is None:
        gaps.append("Voxels (precision, recall, Dice): a list of findings has centers alone; --mask scores outlines.")
    if summary.slice_count is None:
        gaps.append("Pictures: no scan was opened, since findings and annotations are lists.")
    if options.checkpoint is not None and summary.calibration is None:
        gaps.append("Calibration: only a second stage's probabilities are calibrated, and none of them was scored.")
    return gaps


def describe_skipped(number: int) -> str:
    return f"{count(number, 'scan')} could not be read and {'was' if number == 1 else 'were'} skipped"


def describe_scope(options: EvaluationOptions, summary: Summary, results: Results) -> list[tuple[str, str]]:
    """List what was scored and how, as pairs of a name and its words."""
    rows = [("Scored", subject) for subject in list_subjects(options)]
    for _, card in results.networks:
        if card is not None:
            texts = (card.name, card.trained_on, card.limits, card.operating_point)
            names = ("Network", "Trained on", "Limits", "Its operating point")
            rows += [(name, text) for name, text in zip(names, texts, strict=True) if text]
    slices = "" if summary.slice_count is None else f" with {count(summary.slice_count, 'slice')}"
    skipped = f"; {count(len(results.skipped), 'other')} skipped" if results.skipped else ""
    where = str(options.data_dir if results.labels is not None else options.annotations or options.data_dir)
    rows.append(("Scans", f"{count(len(summary.scans), 'scan')}{slices}, of {where}{skipped}"))
    rows += describe_truth(options, summary, results)
    if results.thresholds:
        rows += [("Findings", describe_search(options, summary, results.thresholds)), ("Search", list_search(options))]
    if summary.froc.has_interval:
        draws = f"{CONFIDENCE:.0%}, of {BOOTSTRAP_COUNT:,} random draws of the scans (seed {options.seed})"
        rows.append(("Confidence intervals", draws))
    return rows


def list_subjects(options: EvaluationOptions) -> list[str]:
    """Name what is scored: networks, masks, or findings."""
    if options.checkpoint is not None:
        return [f"the network {path}" for path in options.checkpoint]
    masks = [] if options.mask is None else [f"the masks in {options.mask}"]
    return [*masks, *([] if options.findings is None else [f"the findings in {options.findings}"])]


def describe_truth(options: EvaluationOptions, summary: Summary, results: Results) -> list[tuple[str, str]]:
    """Say what findings and voxels are compared with."""
    settings = describe_settings(options, results)
    source = "the data folder's annotations" if options.annotations is None else str(options.annotations)
    rows = [("Nodules", f"{count(len(summary.nodules), 'nodule')}, of {source}")]
    if summary.voxels is not None and results.labels is not None:
        rows.append(("Their voxels", f"{LABELS[results.labels.labels]} (--labels {results.labels.labels})"))
    if settings["excluded"] is not None:
        rows.append(("Neither nodule nor false positive", f"the excluded findings in {settings['excluded']}"))
    return rows


def list_search(options: EvaluationOptions) -> str:
    """Say how networks search a scan."""
    parts = [
        "in the lungs only" if options.lung_mask else "in the whole scan",
        "on average over flipped slices (--tta)" if options.tta else "without flipped slices",
        PRECISIONS[options.precision],
    ]
    if options.engine == OPENVINO:
        parts.append("by OpenVINO (--engine)")
    if options.pixel_mm:
        parts.append(f"with slices enlarged to pixels of {options.pixel_mm:g} mm")
    return ", ".join(parts)


def describe_search(options: EvaluationOptions, summary: Summary, thresholds: Sequence[float]) -> str:
    """Say which findings of networks are scored."""
    cut = f"a probability of {' or '.join(format(threshold, '.3g') for threshold in thresholds)} (--threshold)"
    limit = MIN_DIAMETER_MM if summary.operating_point is None else MIN_CANDIDATE_MM
    size = f"of at least {limit if options.min_diameter is None else options.min_diameter:g} mm (--min-diameter)"
    search = "The scores of validation in training are of slices, without this search, and differ."
    if summary.operating_point is None:
        return (
            f"Findings are components above {cut} and {size}; the curve ends with the least probable of them. {search}"
        )
    return (
        f"Findings are candidates of the first stage {size}, scored by the second; curve and calibration use all of "
        f"them, voxel scores those from {cut} on. {search}"
    )


def describe_curve(summary: Summary) -> str:
    """Say where the curve ends, and which findings of crowded scans it uses; nothing of one that is not shown."""
    if not summary.has_curve:
        return ""
    froc = summary.froc
    end = f"The curve ends at {froc.curve.false_positives_per_scan[-1]:.2f} false positives per scan."
    if not froc.limited_count:
        return end
    verb = "has" if froc.limited_count == 1 else "have"
    return (
        f"{end} {count(froc.limited_count, 'scan')} {verb} more than {FINDINGS_PER_SCAN} findings: as in LUNA16's "
        f"script, the curve uses those that score higher than number {FINDINGS_PER_SCAN + 1}. The other tables use all "
        "findings."
    )
