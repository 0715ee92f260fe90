"""Evaluation, scan by scan: find the nodules, score them, write the report.

The scores differ from those of validation in training: validation thresholds slices as they are, while here scans are
searched within the lung mask and components below the minimum diameter are dropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from p2ch13.config import EvaluationOptions
from p2ch13.data.ct import Ct
from p2ch13.data.index import ScanIndex
from p2ch13.data.layouts import find_layout
from p2ch13.detection.detector import Detector, average, detect, load_detector
from p2ch13.detection.findings import Finding, find_marked
from p2ch13.detection.outputs import NODULES_FILE as FINDINGS_FILE
from p2ch13.evaluation.checkpoints import (
    Checkpoint,
    choose_labels,
    choose_series,
    choose_unseen,
    describe_used_scans,
    fit_labels,
)
from p2ch13.evaluation.external import choose_values, find_mask, read_excluded_by_series, read_findings
from p2ch13.evaluation.page import PAGE_FILE, write_page
from p2ch13.evaluation.report import FROC_FILE, format_summary, write_report
from p2ch13.evaluation.results import Results, describe_settings
from p2ch13.evaluation.scoring import Labels, score_scan
from p2ch13.evaluation.submission import check_findings, is_submission, score_submission
from p2ch13.evaluation.summary import Summary, summarize
from p2ch13.evaluation.words import count, describe_curve, describe_ranking, describe_result, describe_search
from p2ch13.evaluation.worst_cases import FALSE_POSITIVES_FILE, NODULES_FILE
from p2ch13.labels.candidates import find_excluded_file, read_annotations, sort_candidates
from p2ch13.labels.mask import read_mask
from p2ch13.network.card import log_card
from p2ch13.network.compute import choose_threads, get_device, keep_freed_memory
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.files import make_writable_folder, written_together
from p2ch13.util.outcome import Outcome
from p2ch13.util.progress import progress_bar

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """What was found in a scan. Its labels are None without a mask; `threshold`, see `ScanScores`."""

    labels: Labels | None  # (index, row, col)
    findings: list[Finding]
    threshold: float | None = None


Finder = Callable[[Ct], Found]


def evaluate(options: EvaluationOptions) -> Outcome:
    """Score the chosen scans, or a table of findings without scans, and write the report.

    Returns: the scores, and exit status 1 if a scan was skipped because it or its mask cannot be read.
    Raises: InputError if nothing can be scored.
    """
    start = time.monotonic()
    if options.findings is not None and is_submission(options):
        make_writable_folder(options.output, "--output")
        results = Results(score_submission(options, options.findings))
    else:
        results = evaluate_scans(options)
    summary = summarize(results.scans, options.seed)
    write_results(options, summary, results)
    slices = "" if summary.slice_count is None else f" with {count(summary.slice_count, 'slice')}"
    counts = f"{count(len(results.scans), 'scan')}{slices} and {count(len(summary.nodules), 'nodule')}"
    log.info(
        f"{counts}, {len(results.skipped)} skipped, in {time.monotonic() - start:.0f} s.\n\n{format_summary(summary)}\n"
    )
    if results.thresholds:
        log.info(describe_search(options, summary, results.thresholds))
    return conclude(options, summary, results)


def conclude(options: EvaluationOptions, summary: Summary, results: Results) -> Outcome:
    """Say what was reached, and where everything is."""
    page = options.output / PAGE_FILE
    lines = [describe_result(summary), describe_ranking(summary), describe_curve(summary)]
    lines.append(f"All of this with pictures: {page}; tables are beside it.")
    values = {"folder": options.output, "report": page, "skipped": results.skipped, "scores": summary.as_dict()}
    return Outcome(list(filter(None, lines)), values, EXIT_SKIPPED if results.skipped else EXIT_DONE)


def write_results(options: EvaluationOptions, summary: Summary, results: Results) -> None:
    """Write all files of an evaluation together, and remove pictures of an earlier one that this one has not."""
    with written_together(options.output, "evaluation") as unfinished:
        write_report(unfinished, summary, describe_settings(options, results), results.skipped)
        results.worst_cases.write(unfinished)
        write_page(unfinished / PAGE_FILE, options, summary, results)
        written = {path.name for path in unfinished.iterdir()}
    for name in {FROC_FILE, NODULES_FILE, FALSE_POSITIVES_FILE} - written:
        (options.output / name).unlink(missing_ok=True)


def evaluate_scans(options: EvaluationOptions) -> Results:
    """Score scans on disk. Raises: InputError if there are none, or all were skipped."""
    checkpoints = [Checkpoint.read(path) for path in options.checkpoint or ()]
    for each in checkpoints:
        log_card(each.path, each.card)
    labels = choose_labels(checkpoints, options.label_changes)
    labels = fit_labels(labels, options.label_changes, options.data_dir)
    nodules = None
    if options.annotations is not None:
        nodules = sort_candidates(read_annotations(options.annotations, find_layout(options.data_dir).scans))
    index = ScanIndex(options.data_dir, labels, nodules)
    for note in index.labels.notes:
        log.info(note)
    series_list = index.keep_labeled(choose_series(options, index, checkpoints))
    warnings = describe_used_scans(checkpoints, series_list)
    for warning in warnings:
        log.warning(warning)
    detectors = load_detectors(options, checkpoints, series_list)
    finder = make_searcher(options, detectors) if detectors else make_reader(options, index, series_list)
    excluded = read_excluded_by_series(find_excluded_file(options.data_dir, options.excluded), index.layout.scans)
    make_writable_folder(options.output, "--output")

    results = Results(
        labels=labels,
        thresholds=tuple(sorted({each.threshold for each in detectors.values()})),
        networks=[(each.path, each.card) for each in checkpoints],
        warnings=warnings,
    )
    with progress_bar(len(series_list), "Scoring", "scan") as bar:
        for series_uid in series_list:
            try:
                ct = index.get_ct(series_uid)
                marks, findings, threshold = finder(ct)
                scores = score_scan(ct, marks, findings, excluded.get(series_uid, ()))
                scores = replace(scores, threshold=threshold)
                results.worst_cases.add(ct, marks, scores)
                results.scans.append(scores)
            except InputError as error:
                results.skipped[series_uid] = one_line(error)
            bar.update()
    if not results.scans:
        raise InputError(next(iter(results.skipped.values())))
    for reason in results.skipped.values():
        log.warning(f"Skipped: {reason}")
    has_nodules = any(scan.nodules for scan in results.scans)
    if not has_nodules and (lack := index.no_nodules([scan.series_uid for scan in results.scans])):
        log.warning(f"No nodule: {one_line(lack)}.")
    return results


class ThresholdedDetector(NamedTuple):
    """The networks that search a scan, and the probability at which their findings are cut."""

    detector: Detector
    threshold: float


def load_detectors(
    options: EvaluationOptions, checkpoints: Sequence[Checkpoint], series_list: Sequence[str]
) -> dict[str, ThresholdedDetector]:
    """Load the networks that search each scan: those that were not trained on it, on average.

    Returns: by series; empty without checkpoints.
    Raises: InputError if a checkpoint cannot be used, or lacks what the threshold asks for.
    """
    if not checkpoints:
        return {}
    device = get_device(options.device)
    settings = (options.network, options.second_stage, device)
    loaded = {each.path: load_detector(each.path, *settings) for each in checkpoints}
    unseen = {uid: tuple(each.path for each in choose_unseen(checkpoints, uid)) for uid in series_list}
    averages = {}
    for paths in set(unseen.values()):
        detector = average({path: loaded[path] for path in paths})
        threshold = detector.choose_threshold(options.threshold, options.sensitivity)
        averages[paths] = ThresholdedDetector(detector, threshold)
    return {uid: averages[paths] for uid, paths in unseen.items()}


def make_searcher(options: EvaluationOptions, detectors: Mapping[str, ThresholdedDetector]) -> Finder:
    """Make the function that searches a scan.

    Of a second stage, all candidates are findings, since FROC needs them; the labels are of those that are shown.
    """
    threads = choose_threads(options.threads, get_device(options.device))
    keep_freed_memory()

    def search(ct: Ct) -> Found:
        detector, threshold = detectors[ct.series_uid]
        if not detector.scorers:
            return Found(*detect(ct, detector, threshold, **options.detection, threads=threads)[1:])
        _, labels, findings = detect(ct, detector, 0.0, **options.detection, threads=threads)
        shown_count = sum(finding.probability >= threshold for finding in findings)  # they have the first numbers
        labels[labels > shown_count] = 0
        return Found(labels, findings, threshold)

    return search


def make_reader(options: EvaluationOptions, index: ScanIndex, series_list: Sequence[str]) -> Finder:
    """Make the function that reads a scan's mask, or looks up its findings.

    Raises: InputError if the folder of masks or the findings cannot be used.
    """
    given = None
    if options.findings is not None:
        given = read_findings(options.findings, index.layout.scans)
        check_findings(options.findings, given, series_list)
    mask_dir = options.mask
    if mask_dir is not None and not mask_dir.is_dir():
        raise InputError("no such folder; --mask needs a folder of masks", path=mask_dir)
    if mask_dir is not None and given is None and (mask_dir / FINDINGS_FILE).is_file():
        log.warning(
            f"{mask_dir / FINDINGS_FILE} is not read, and each component of a mask counts with probability 1: "
            f"--findings {mask_dir / FINDINGS_FILE} scores the list, with its probabilities."
        )
    values = () if mask_dir is None else choose_values(mask_dir, series_list, index.labels.mask_values)

    def find(ct: Ct) -> Found:
        labels: Labels | None = None
        findings: list[Finding] = []
        if mask_dir is not None:
            mask = read_mask(find_mask(mask_dir, ct.series_uid), ct, values)
            labels, findings = find_marked(ct, mask, options.min_diameter or 0.0)
        return Found(labels, findings if given is None else given.get(ct.series_uid, []))

    return find
