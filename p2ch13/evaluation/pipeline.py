"""Evaluation, scan by scan: find the nodules, score them, write the report.

The scores differ from those of validation in training: validation thresholds slices as they are, while here scans are
searched within the lung mask and components below the minimum diameter are dropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from p2ch13.config import BEST_STATE, EvaluationOptions, LabelOptions, TrainingConfig
from p2ch13.data.ct import Ct
from p2ch13.data.index import ScanIndex, split_series
from p2ch13.detection.findings import Finding, find_marked
from p2ch13.detection.segment import detect, load_segmenter
from p2ch13.evaluation.external import find_mask, read_excluded_by_series, read_findings, read_series_file
from p2ch13.evaluation.report import describe_curve, format_summary, write_report
from p2ch13.evaluation.scoring import Labels, ScanScores, score_scan
from p2ch13.evaluation.submission import check_findings, is_submission, score_submission
from p2ch13.evaluation.summary import summarize
from p2ch13.evaluation.worst_cases import WorstCases
from p2ch13.labels.candidates import CandidateInfoTuple, find_excluded_file, read_annotations, sort_candidates
from p2ch13.labels.mask import read_mask
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.network.compute import choose_threads, keep_freed_memory
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.files import make_writable_folder
from p2ch13.util.progress import progress_bar

log = logging.getLogger(__name__)

# A scan -> its labels (index, row, col), None without a mask, and its findings.
Finder = Callable[[Ct], tuple[Labels | None, list[Finding]]]
Excluded = dict[str, list[CandidateInfoTuple]]  # series UID -> its excluded findings


def evaluate(options: EvaluationOptions) -> int:
    """Score the chosen scans, or a table of findings without scans, and write the report.

    Returns: the exit status, 1 if a scan was skipped because it or its mask cannot be read.
    Raises: InputError if nothing can be scored.
    """
    start = time.monotonic()
    if options.findings is not None and is_submission(options):
        make_writable_folder(options.output, "--output")
        results, labels = Results(score_submission(options, options.findings)), None
    else:
        results, labels = evaluate_scans(options)
    summary = summarize(results.scans, options.seed)
    settings = describe_settings(options, results, labels)
    write_report(options.output, summary, settings, results.skipped)
    results.worst_cases.write(options.output)
    slices = "" if summary.slice_count is None else f" with {summary.slice_count} slices"
    log.info(
        f"{len(results.scans)} scans{slices} and {len(summary.nodules)} nodules, {len(results.skipped)} skipped.\n\n"
        f"{format_summary(summary)}\n\n{describe_curve(summary)}"
    )
    if options.checkpoint is not None:
        log.info(describe_search(options))
    log.info(f"Tables, curve and figures: {options.output}. {time.monotonic() - start:.0f} s.")
    return EXIT_SKIPPED if results.skipped else EXIT_DONE


def describe_search(options: EvaluationOptions) -> str:
    return (
        f"Findings are components above a probability of {options.threshold:g} (--threshold) and of at least "
        f"{options.min_diameter:g} mm (--min-diameter); the curve ends with the least probable of them. The scores of "
        "validation in training are of slices, without this search, and differ."
    )


def evaluate_scans(options: EvaluationOptions) -> tuple[Results, LabelOptions]:
    """Score scans on disk. Returns: the results, and the label options. Raises: InputError if there are no scans."""
    checkpoint = Checkpoint.read(options.checkpoint)
    nodules = sort_candidates(read_annotations(options.annotations)) if options.annotations else None
    labels = checkpoint.labels.changed(options.label_changes)
    index = ScanIndex(options.data_dir, labels, nodules)
    for note in index.labels.notes:
        log.info(note)
    series_list = index.keep_labeled(choose_series(options, index.all_series, checkpoint))
    finder = make_finder(options, series_list)
    excluded = read_excluded_by_series(find_excluded_file(options.data_dir, options.excluded))
    make_writable_folder(options.output, "--output")

    results = score_series(index, series_list, finder, excluded)
    if not results.scans:
        raise InputError(next(iter(results.skipped.values())))
    for reason in results.skipped.values():
        log.warning(f"Skipped: {reason}")
    return results, labels


@dataclass
class Results:
    scans: list[ScanScores] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # series UID -> why
    worst_cases: WorstCases = field(default_factory=WorstCases)


def score_series(index: ScanIndex, series_list: Sequence[str], finder: Finder, excluded: Excluded) -> Results:
    """Score one scan at a time; skip those that cannot be read."""
    results = Results()
    with progress_bar(len(series_list), "Scoring", "scan") as bar:
        for series_uid in series_list:
            try:
                ct = index.get_ct(series_uid)
                labels, findings = finder(ct)
                scores = score_scan(ct, labels, findings, excluded.get(series_uid, ()))
                results.worst_cases.add(ct, labels, scores)
                results.scans.append(scores)
            except InputError as error:
                results.skipped[series_uid] = one_line(error)
            bar.update()
    return results


def make_finder(options: EvaluationOptions, series_list: Sequence[str]) -> Finder:
    """Make the function that searches a scan, reads its mask, or looks up its findings.

    Raises: InputError if the checkpoint, the folder of masks or the findings cannot be used.
    """
    if options.checkpoint is not None:
        model, threads = load_segmenter(options.checkpoint, options.network), choose_threads(options.threads)
        keep_freed_memory()
        return lambda ct: detect(ct, model, **options.detection, threads=threads)[1:]
    given = None
    if options.findings is not None:
        given = read_findings(options.findings)
        check_findings(options.findings, given, series_list)
    mask_dir = options.mask
    if mask_dir is not None and not mask_dir.is_dir():
        raise InputError("no such folder; --mask needs a folder of masks", path=mask_dir)

    def find(ct: Ct) -> tuple[Labels | None, list[Finding]]:
        labels: Labels | None = None
        findings: list[Finding] = []
        if mask_dir is not None:
            mask = read_mask(find_mask(mask_dir, ct.series_uid), ct)
            labels, findings = find_marked(ct, mask, options.min_diameter)
        return labels, findings if given is None else given.get(ct.series_uid, [])

    return find


def choose_series(options: EvaluationOptions, series_list: Sequence[str], checkpoint: Checkpoint) -> list[str]:
    """Choose the requested series; else the checkpoint's validation series, all for findings, every tenth for masks.

    Warns if the checkpoint was trained or selected on some of them. Raises: InputError if there is none.
    """
    if options.series is not None:
        chosen = choose_named(options.series, series_list, options.data_dir)
    elif options.all or options.series_uid or (options.val_stride is None and options.marks_nothing):
        chosen = split_series(series_list, 0, None, options.series_uid)
    elif options.val_stride or not checkpoint.val_series.intersection(series_list):
        val_stride = options.val_stride or checkpoint.val_stride
        chosen = split_series(series_list, val_stride, True, None)
        log.info(f"Scoring every {val_stride}. of {len(series_list)} scans; --all scores all of them.")
    else:
        chosen = [series_uid for series_uid in series_list if series_uid in checkpoint.val_series]
    warn_of_used_scans(options.checkpoint, checkpoint, chosen)
    return chosen


def choose_named(path: Path, series_list: Sequence[str], data_dir: Path) -> list[str]:
    """Read the series of a file. Raises: InputError if one of them has no scan."""
    chosen = sorted(read_series_file(path))
    missing = sorted(set(chosen).difference(series_list))
    if missing:
        raise InputError(
            f"{len(missing)} of its {len(chosen)} series have no scan in {data_dir}, such as {missing[0]}", path=path
        )
    return chosen


def warn_of_used_scans(path: Path | None, checkpoint: Checkpoint, chosen: Sequence[str]) -> None:
    """Warn if a model was trained on these scans, or selected as its run's best on them."""
    trained_on = checkpoint.trn_series.intersection(chosen)
    if trained_on:
        log.warning(
            f"{path} was trained on {len(trained_on)} of these {len(chosen)} scans: its scores on them say little "
            "about other scans."
        )
    validated_on = checkpoint.val_series.intersection(chosen)
    if validated_on and path is not None and path.name.endswith(BEST_STATE):
        log.warning(
            f"{path} was selected on {len(validated_on)} of these {len(chosen)} scans as its run's best, and is likely "
            "to score better on them than on others. The run's last state was not selected."
        )


@dataclass(frozen=True)
class Checkpoint:
    """Labels and split of a model's training; the default ones for the book's files, and without a checkpoint."""

    labels: LabelOptions
    val_stride: int
    trn_series: frozenset[str]
    val_series: frozenset[str]

    @classmethod
    def read(cls, path: Path | None) -> Checkpoint:
        """Raises: InputError if the file cannot be read."""
        state = load_checkpoint(path) if path else {}
        try:
            config, series = TrainingConfig.from_dict(state.get("config", {})), state.get("series", {})
            labels = config.label_options
            threshold_hu = None if labels.threshold_hu is None else int(labels.threshold_hu)
            split = (frozenset(series.get(mode, ())) for mode in ("trn", "val"))
            return cls(replace(labels, threshold_hu=threshold_hu), int(config.val_stride), *split)
        except (AttributeError, TypeError, ValueError, ArithmeticError) as error:
            raise InputError(f"invalid settings ({one_line(error)}); the file is damaged", path=path) from None


def describe_settings(options: EvaluationOptions, results: Results, labels: LabelOptions | None) -> dict[str, Any]:
    """Return all settings that the scores depend on, as plain values.

    Args: labels: None if no scan is opened.
    """
    series_list = [*(scan.series_uid for scan in results.scans), *results.skipped]
    excluded = find_excluded_file(options.data_dir, options.excluded)
    settings = asdict(options) | {"excluded": excluded, "series": sorted(series_list)}
    settings["labels"] = None
    if labels is not None:
        values = labels.as_dict()
        settings["labels"] = {"kind": values.pop("labels"), **values}
    irrelevant = ("all", "val_stride", "series_uid", "output", "label_changes", "threads", "network")
    if options.checkpoint is None:
        settings |= dict.fromkeys(("threshold", "tta", "lung_mask", "precision"))
    return {key: plain(value) for key, value in settings.items() if key not in irrelevant}


def plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
