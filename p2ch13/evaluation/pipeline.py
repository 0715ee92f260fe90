"""Scan after scan: what marks it, its scores, and the report at the end.

These scores and those of a training's validation are different numbers of one model. Validation thresholds slices as
they are; here scans are searched in axial order and in the lungs alone, and components below the smallest diameter are
dropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from p2ch13.config import BEST_STATE, EvaluationOptions, LabelOptions, TrainingConfig
from p2ch13.data.cache import CtCache
from p2ch13.data.ct import Ct
from p2ch13.data.datasets import split_series
from p2ch13.detection.findings import Finding, find_marked
from p2ch13.detection.segment import detect, load_segmenter
from p2ch13.evaluation.external import find_mask, read_findings, read_mask
from p2ch13.evaluation.report import describe_curve, format_summary, write_report
from p2ch13.evaluation.scoring import Labels, ScanScores, score_scan, summarize
from p2ch13.evaluation.submission import check_findings, is_submission, score_submission
from p2ch13.evaluation.truth import read_excluded_by_series, read_series_file
from p2ch13.evaluation.worst_cases import WorstCases
from p2ch13.labels.candidates import CandidateInfoTuple, find_excluded_file, read_annotations, sort_candidates
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.network.compute import choose_threads, keep_freed_memory
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.files import make_writable_folder
from p2ch13.util.progress import progress_bar

log = logging.getLogger(__name__)

# A scan -> its labels (index, row, col), None where there is no mask, and its findings.
Finder = Callable[[Ct], tuple[Labels | None, list[Finding]]]
Excluded = dict[str, list[CandidateInfoTuple]]  # series UID -> its annotations that count for nothing


def evaluate(options: EvaluationOptions) -> int:
    """Score the chosen scans, or a table of findings without any scan, and write the report.

    Returns: the exit status, 1 if a scan was left out because it or its mask cannot be read.
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
    log.info(f"Tables, curve and pictures: {options.output}. {time.monotonic() - start:.0f} s.")
    return EXIT_SKIPPED if results.skipped else EXIT_DONE


def describe_search(options: EvaluationOptions) -> str:
    """Where the curve of a model begins, and why its validation in training gave other numbers."""
    return (
        f"Findings are components above a probability of {options.threshold:g} (--threshold) and of "
        f"{options.min_diameter:g} mm or more (--min-diameter): what the model sees less clearly is on no part of the "
        "curve. Scores of validation in training are of slices, without this search, and are other numbers."
    )


def evaluate_scans(options: EvaluationOptions) -> tuple[Results, LabelOptions]:
    """Score scans on disk. Returns: the results, and how nodules are marked. Raises: InputError if there are none."""
    checkpoint = Checkpoint.read(options.checkpoint)
    nodules = sort_candidates(read_annotations(options.annotations)) if options.annotations else None
    labels = checkpoint.labels.changed(options.label_changes)
    ct_cache = CtCache(options.folders, labels, nodules)
    for note in ct_cache.labels.notes:
        log.info(note)
    series_list = ct_cache.keep_labelled(choose_series(options, ct_cache.all_series, checkpoint))
    finder = make_finder(options, series_list)
    excluded = read_excluded_by_series(find_excluded_file(options.data_dir, options.excluded))
    make_writable_folder(options.output, "--output")

    results = score_series(ct_cache, series_list, finder, excluded)
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


def score_series(ct_cache: CtCache, series_list: Sequence[str], finder: Finder, excluded: Excluded) -> Results:
    """One scan at a time; what cannot be read is left out."""
    results = Results()
    with progress_bar(len(series_list), "Scoring", "scan") as bar:
        for series_uid in series_list:
            try:
                ct = ct_cache.get_ct(series_uid)
                labels, findings = finder(ct)
                scores = score_scan(ct, labels, findings, excluded.get(series_uid, ()))
                results.worst_cases.add(ct, labels, scores)
                results.scans.append(scores)
            except InputError as error:
                results.skipped[series_uid] = one_line(error)
            bar.update()
    return results


def make_finder(options: EvaluationOptions, series_list: Sequence[str]) -> Finder:
    """Raises: InputError if the checkpoint, the folder of masks or the findings cannot be used."""
    if options.checkpoint is not None:
        return make_model_finder(options, options.checkpoint)
    findings = None
    if options.findings is not None:
        findings = read_findings(options.findings)
        check_findings(options.findings, findings, series_list)
    if options.mask is None:
        return lambda ct: (None, (findings or {}).get(ct.series_uid, []))
    if not options.mask.is_dir():
        raise InputError(f"{options.mask}: no such folder; --mask names the one with the masks")
    return make_mask_finder(options.mask, options.min_diameter, findings)


def make_model_finder(options: EvaluationOptions, checkpoint: Path) -> Finder:
    model = load_segmenter(checkpoint)
    keep_freed_memory()
    threads = choose_threads(options.threads)

    def find(ct: Ct) -> tuple[Labels | None, list[Finding]]:
        found = detect(ct, model, **options.detection, threads=threads)
        return found.labels, found.findings

    return find


def make_mask_finder(mask_dir: Path, min_diameter_mm: float, given: dict[str, list[Finding]] | None) -> Finder:
    """Args: given: findings that take the place of the mask's connected components."""

    def find(ct: Ct) -> tuple[Labels | None, list[Finding]]:
        labels, findings = find_marked(ct, read_mask(find_mask(mask_dir, ct.series_uid), ct), min_diameter_mm)
        return labels, findings if given is None else given.get(ct.series_uid, [])

    return find


def choose_series(options: EvaluationOptions, series_list: Sequence[str], checkpoint: Checkpoint) -> list[str]:
    """Those that are named; else the checkpoint's own validation series, all for findings alone, every tenth for masks.

    Says so if the checkpoint was trained on some of them, or chosen on them. Raises: InputError if there is none.
    """
    if options.series is not None:
        chosen = choose_named(options.series, series_list, options.data_dir)
    elif options.all or options.series_uid or (options.val_stride is None and options.marks_nothing):
        chosen = split_series(series_list, 0, None, options.series_uid)
    elif options.val_stride or not checkpoint.val_series.intersection(series_list):
        val_stride = options.val_stride or checkpoint.val_stride
        chosen = split_series(series_list, val_stride, True, None)
        log.info(f"Scored is every {val_stride}. of {len(series_list)} scans; --all takes all of them.")
    else:
        chosen = [series_uid for series_uid in series_list if series_uid in checkpoint.val_series]
    warn_of_used_scans(options.checkpoint, checkpoint, chosen)
    return chosen


def choose_named(path: Path, series_list: Sequence[str], data_dir: Path) -> list[str]:
    """The series of a file. Raises: InputError if one of them has no scan: the rest is not what was asked for."""
    chosen = sorted(read_series_file(path))
    missing = sorted(set(chosen).difference(series_list))
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of its {len(chosen)} series have no scan to be scored in {data_dir}, {missing[0]} "
            "is the first; name those that have"
        )
    return chosen


def warn_of_used_scans(path: Path | None, checkpoint: Checkpoint, chosen: Sequence[str]) -> None:
    """Say on how many of these scans a model was trained, and on how many it was found to be its run's best."""
    trained_on = checkpoint.trn_series.intersection(chosen)
    if trained_on:
        log.warning(
            f"{path} was trained on {len(trained_on)} of these {len(chosen)} scans: how well it does on them says "
            "little about others."
        )
    validated_on = checkpoint.val_series.intersection(chosen)
    if validated_on and path is not None and path.name.endswith(BEST_STATE):
        log.warning(
            f"{path} is its run's best on {len(validated_on)} of these {len(chosen)} scans: chosen on them, it is "
            "likely to score better here than on others. The run's last state was not chosen."
        )


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a model's training; nothing of the book's, and of masks by another program."""

    labels: LabelOptions = LabelOptions()  # noqa: RUF009  # frozen
    val_stride: int = TrainingConfig.val_stride
    trn_series: frozenset[str] = frozenset()
    val_series: frozenset[str] = frozenset()

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
            raise InputError(f"{path}: its settings make no sense ({one_line(error)}); it is damaged") from None


def describe_settings(options: EvaluationOptions, results: Results, labels: LabelOptions | None) -> dict[str, Any]:
    """All that the scores depend on, as plain values; None for what does not matter to them.

    Args: labels: None where no scan is opened, and so no voxel is marked.
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
    """A path as text, which JSON can hold."""
    return str(value) if isinstance(value, Path) else value
