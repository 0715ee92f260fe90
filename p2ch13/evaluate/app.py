"""Scan after scan: what marks it, its scores, and the report at the end."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from p2ch13.cache import CtCache
from p2ch13.candidates import EXCLUDED_FILE, CandidateInfoTuple, read_excluded
from p2ch13.checkpoint import load_checkpoint
from p2ch13.compute import choose_threads, keep_freed_memory
from p2ch13.config import LabelOptions, TrainingConfig
from p2ch13.ct import Ct
from p2ch13.datasets import split_series
from p2ch13.evaluate.external import find_mask, read_findings, read_mask
from p2ch13.evaluate.options import EvaluationOptions
from p2ch13.evaluate.report import format_summary, write_report
from p2ch13.evaluate.worst_cases import WorstCases
from p2ch13.findings import Finding, find_nodules
from p2ch13.label_options import change_labels
from p2ch13.scoring import Labels, ScanScores, score_scan, summarize
from p2ch13.segmentation import load_segmenter, segment
from util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from util.files import make_writable_folder
from util.progress import progress_bar

log = logging.getLogger(__name__)

# A scan -> its labels (index, row, col), None where there is no mask, and its findings.
Finder = Callable[[Ct], tuple[Labels | None, list[Finding]]]
Excluded = dict[str, list[CandidateInfoTuple]]  # series UID -> its annotations that count for nothing


def evaluate(options: EvaluationOptions) -> int:
    """Score the chosen scans one by one, and write the report.

    Returns: the exit status, 1 if a scan was left out because it or its mask cannot be read.
    Raises: InputError if nothing can be scored.
    """
    start = time.monotonic()
    checkpoint = Checkpoint.read(options.checkpoint)
    labels = change_labels(checkpoint.labels, options.label_changes)
    ct_cache = CtCache(options.folders, labels)
    for note in ct_cache.labels.notes:
        log.info(note)
    series_list = choose_series(options, ct_cache.series_list, checkpoint)
    finder = make_finder(options, series_list)
    excluded = read_excluded_annotations(options)
    make_writable_folder(options.output, "--output")

    results = score_series(ct_cache, series_list, finder, excluded)
    if not results.scans:
        raise InputError(next(iter(results.skipped.values())))
    for reason in results.skipped.values():
        log.warning(f"Skipped: {reason}")
    summary = summarize(results.scans, options.seed)
    write_report(options.output, summary, describe_settings(options, series_list, labels), results.skipped)
    results.worst_cases.write(options.output)
    log.info(
        f"{len(results.scans)} scans with {summary.slice_count} slices and {len(summary.nodules)} nodules, "
        f"{len(results.skipped)} skipped.\n\n{format_summary(summary)}\n"
    )
    log.info(
        f"Each nodule's and scan's scores, curve and pictures: {options.output}. {time.monotonic() - start:.0f} s."
    )
    return EXIT_SKIPPED if results.skipped else EXIT_DONE


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
    findings = read_findings(options.findings) if options.findings else None
    if findings and not set(findings).intersection(series_list):
        raise InputError(
            f"{options.findings}: none of its findings is in a series that is scored; is it the right one?"
        )
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
        probability = segment(
            ct,
            model,
            lung_field=options.lung_field,
            tta=options.tta,
            precision=options.precision,
            threads=threads,
        )
        return find_nodules(ct, probability, options.threshold, options.min_diameter)

    return find


def make_mask_finder(mask_dir: Path, min_diameter_mm: float, given: dict[str, list[Finding]] | None) -> Finder:
    """Args: given: findings that take the place of the mask's connected components."""

    def find(ct: Ct) -> tuple[Labels | None, list[Finding]]:
        probability = read_mask(find_mask(mask_dir, ct.series_uid), ct).astype(np.float16)
        labels, findings = find_nodules(ct, probability, 0.5, min_diameter_mm)
        return labels, findings if given is None else given.get(ct.series_uid, [])

    return find


def choose_series(options: EvaluationOptions, series_list: Sequence[str], checkpoint: Checkpoint) -> list[str]:
    """The checkpoint's own validation series if no others are named.

    Says so if the checkpoint was trained on some of them. Raises: InputError if there is none.
    """
    if options.all or options.series_uid:
        chosen = split_series(series_list, 0, None, options.series_uid)
    elif options.val_stride or not checkpoint.val_series.intersection(series_list):
        chosen = split_series(series_list, options.val_stride or checkpoint.val_stride, True, None)
    else:
        chosen = [series_uid for series_uid in series_list if series_uid in checkpoint.val_series]
    trained_on = checkpoint.trn_series.intersection(chosen)
    if trained_on:
        log.warning(
            f"{options.checkpoint} was trained on {len(trained_on)} of these {len(chosen)} scans: how well it does on "
            "them says little about others."
        )
    return chosen


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


def read_excluded_annotations(options: EvaluationOptions) -> Excluded:
    csv_path = find_excluded_file(options)
    excluded: defaultdict[str, list[CandidateInfoTuple]] = defaultdict(list)
    for annotation in read_excluded(csv_path) if csv_path else []:
        excluded[annotation.series_uid].append(annotation)
    return excluded


def find_excluded_file(options: EvaluationOptions) -> Path | None:
    in_data_dir = options.data_dir / EXCLUDED_FILE
    return options.excluded or (in_data_dir if in_data_dir.is_file() else None)


def describe_settings(options: EvaluationOptions, series_list: Sequence[str], labels: LabelOptions) -> dict[str, Any]:
    """All that the scores depend on, as plain values; None for what does not matter to them."""
    settings = asdict(options) | {"excluded": find_excluded_file(options), "series": list(series_list)}
    settings["labels"] = {key: plain(value) for key, value in asdict(labels).items()}
    irrelevant = ("all", "val_stride", "series_uid", "output", "label_changes", "threads")
    if options.checkpoint is None:
        settings |= dict.fromkeys(("threshold", "tta", "lung_field", "precision"))
    return {key: plain(value) for key, value in settings.items() if key not in irrelevant}


def plain(value: Any) -> Any:
    """A path as text, which JSON can hold."""
    return str(value) if isinstance(value, Path) else value
