"""Evaluation, scan by scan: find the nodules, score them, write the report.

The scores differ from those of validation in training: validation thresholds slices as they are, while here scans are
searched within the lung mask and components below the minimum diameter are dropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from p2ch13.config import EvaluationOptions, LabelOptions
from p2ch13.data.index import ScanIndex
from p2ch13.data.layouts import find_layout
from p2ch13.evaluation.checkpoints import (
    Checkpoint,
    choose_labels,
    choose_series,
    describe_used_scans,
    fit_labels,
    name_networks,
)
from p2ch13.evaluation.external import read_excluded_by_series
from p2ch13.evaluation.finders import Finder, load_detectors, make_reader, make_searcher
from p2ch13.evaluation.kept import identify_scans, pack, unpack
from p2ch13.evaluation.page import PAGE_FILE, write_page
from p2ch13.evaluation.report import FROC_FILE, NETWORKS_FILE, format_summary, write_report
from p2ch13.evaluation.results import Results, describe_settings
from p2ch13.evaluation.scoring import score_scan
from p2ch13.evaluation.submission import is_submission, score_submission
from p2ch13.evaluation.summary import Summary, summarize
from p2ch13.evaluation.words import count, describe_curve, describe_ranking, describe_result, describe_search
from p2ch13.evaluation.worst_cases import FALSE_POSITIVES_FILE, NODULES_FILE, WorstCases
from p2ch13.labels.candidates import find_excluded_file, read_annotations, sort_candidates
from p2ch13.network.card import log_card
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.files import make_writable_folder, written_together
from p2ch13.util.outcome import Outcome
from p2ch13.util.process_rank import ProcessRank
from p2ch13.util.shared_work import FOLDER, SharedWork

log = logging.getLogger(__name__)


def evaluate(options: EvaluationOptions, process: ProcessRank | None = None, keeps_scans: bool = False) -> Outcome:
    """Score the chosen scans, or a table of findings without scans, and write the report.

    Args: process: shares the scans with others of a torchrun; keeps_scans: keep the scores of each scan, for a later
        call with these options.
    Returns: the scores, and exit status 1 if a scan was skipped because it or its mask cannot be read.
    Raises: InputError if nothing can be scored.
    """
    start = time.monotonic()
    if options.findings is not None and is_submission(options):
        make_writable_folder(options.output, "--output")
        return report(options, Results(score_submission(options, options.findings)), start)
    work, results = evaluate_scans(options, process)
    # torchrun takes any other status for a failure and ends all processes, even those at work.
    status = EXIT_SKIPPED if results.skipped and work.process.is_alone else EXIT_DONE
    if not results.scans:
        return conclude_part(options, work, results.skipped, status)
    outcome = report(options, results, start)
    if not keeps_scans:
        work.close()
    return replace(outcome, status=status)


def conclude_part(options: EvaluationOptions, work: SharedWork, skipped: Mapping[str, str], status: int) -> Outcome:
    """Say what one of several processes or jobs has done."""
    done = work.describe(options.share(work.names))
    lines = [f"Part {options.shard}: {done}. Put all parts together with --merge."]
    return Outcome(lines, {"shard": options.shard, "done": done, "skipped": skipped}, status)


def report(options: EvaluationOptions, results: Results, start: float) -> Outcome:
    """Write all files, and say on the screen what is in them. Args: start: when the evaluation began."""
    summary = summarize(results.scans, options.seed, results.scored_by)
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
    return Outcome(list(filter(None, lines)), values)


def write_results(options: EvaluationOptions, summary: Summary, results: Results) -> None:
    """Write all files of an evaluation together, and remove pictures of an earlier one that this one has not."""
    with written_together(options.output, "evaluation") as unfinished:
        write_report(unfinished, summary, describe_settings(options, results), results.skipped)
        results.worst_cases.write(unfinished)
        write_page(unfinished / PAGE_FILE, options, summary, results)
        written = {path.name for path in unfinished.iterdir()}
    for name in {FROC_FILE, NETWORKS_FILE, NODULES_FILE, FALSE_POSITIVES_FILE} - written:
        (options.output / name).unlink(missing_ok=True)


def evaluate_scans(options: EvaluationOptions, process: ProcessRank | None = None) -> tuple[SharedWork, Results]:
    """Score scans on disk, of which other processes may score some.

    Returns: the work on the scans; and what is known of them, with the scores of all if this is the process to report.
    Raises: InputError if there are none, or some are missing for `--merge`.
    """
    process = process or ProcessRank()
    checkpoints = [Checkpoint.read(path) for path in options.checkpoint or ()]
    for each in checkpoints:
        log_card(each.path, each.card)
    index, labels = open_index(options, checkpoints)
    series_list = index.keep_labeled(choose_series(options, index, checkpoints))
    results = Results(labels=labels, networks=[(each.path, each.card) for each in checkpoints])
    results.scored_by = name_networks(checkpoints, series_list)
    results.warnings = describe_used_scans(checkpoints, series_list)
    for warning in results.warnings if process.is_first else ():
        log.warning(warning)
    detectors = load_detectors(options, checkpoints, series_list, process)
    results.thresholds = tuple(sorted({each.threshold for each in detectors.values()}))
    finder = make_searcher(options, detectors, process) if detectors else make_reader(options, index, series_list)
    make_writable_folder(options.output, "--output")
    scans = identify_scans(options, labels, index, series_list, checkpoints)
    work, own = SharedWork(options.output / FOLDER, scans, process), options.share(series_list)
    if options.merge:
        work.check_complete("--shard")
    else:
        score_scans(options, work, own, index, finder)
    if options.shard:
        results.skipped = work.find_skipped()
    elif process.is_first:
        read_scores(work, results, index)
    return work, results


def open_index(options: EvaluationOptions, checkpoints: Sequence[Checkpoint]) -> tuple[ScanIndex, LabelOptions]:
    """Index the data folder by the labels to score by. Returns: it, and these. Raises: InputError for unusable data."""
    labels = choose_labels(checkpoints, options.label_changes)
    labels = fit_labels(labels, options.label_changes, options.data_dir)
    nodules = None
    if options.annotations is not None:
        nodules = sort_candidates(read_annotations(options.annotations, find_layout(options.data_dir).scans))
    index = ScanIndex(options.data_dir, labels, nodules)
    for note in index.labels.notes:
        log.info(note)
    return index, labels


def score_scans(
    options: EvaluationOptions, work: SharedWork, series_list: Sequence[str], index: ScanIndex, finder: Finder
) -> None:
    """Score those of these scans that no other process scores."""
    excluded = read_excluded_by_series(find_excluded_file(options.data_dir, options.excluded), index.layout.scans)
    worst_cases = WorstCases()
    with work.claimed(series_list, "Scoring") as claimed:
        for series_uid in claimed:
            try:
                ct = index.get_ct(series_uid)
                marks, findings, threshold = finder(ct)
                scores = score_scan(ct, marks, findings, excluded.get(series_uid, ()))
                scores = replace(scores, threshold=threshold)
                worst_cases.add(ct, marks, scores)
                work.store(series_uid, pack(scores, worst_cases))
            except InputError as error:
                work.skip(series_uid, one_line(error))


def read_scores(work: SharedWork, results: Results, index: ScanIndex) -> None:
    """Add the scores of all scans to the results. Raises: InputError if all were skipped."""
    results.skipped = work.find_skipped()
    results.scans = [unpack(work.read(uid), results.worst_cases) for uid in work.names if uid not in results.skipped]
    if not results.scans:
        raise InputError(next(iter(results.skipped.values())))
    for reason in results.skipped.values():
        log.warning(f"Skipped: {reason}")
    has_nodules = any(scan.nodules for scan in results.scans)
    if not has_nodules and (lack := index.no_nodules([scan.series_uid for scan in results.scans])):
        log.warning(f"No nodule: {one_line(lack)}.")
