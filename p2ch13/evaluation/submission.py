"""Scoring a table of findings against a table of annotations, as in the LUNA16 challenge, without scans."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from p2ch13.config import EvaluationOptions
from p2ch13.data.layouts import find_layout, list_nodules
from p2ch13.evaluation.external import read_excluded_by_series, read_findings, read_series_file
from p2ch13.evaluation.scoring import ScanScores, score_findings
from p2ch13.labels.candidates import (
    find_excluded_file,
    group_by_series,
    read_annotations,
    sort_candidates,
)
from p2ch13.util.errors import InputError
from p2ch13.util.options import as_flag

log = logging.getLogger(__name__)


def is_submission(options: EvaluationOptions) -> bool:
    """Whether to score by tables alone: if the options name them, or the data folder has no scans.

    A folder whose nodules are in masks, and in no table, needs its scans.
    """
    if not options.marks_nothing:
        return False
    if options.annotations is not None:
        return True
    try:
        layout = find_layout(options.data_dir)
    except InputError:
        return True
    return options.series is not None and (layout.has_annotations or layout.is_luna16)


def score_submission(options: EvaluationOptions, csv_path: Path) -> list[ScanScores]:
    """Score the findings of a file; log which series are scored and which rows are outside them.

    Raises: InputError if a file cannot be used, or no finding is in these series.
    """
    if options.annotations is not None:
        nodules = group_by_series(sort_candidates(read_annotations(options.annotations)))
    else:
        nodules = group_by_series(list_nodules(options.data_dir, scans=None))
    listed = [] if options.series is None else sorted(read_series_file(options.series, set(nodules)))
    findings = read_findings(csv_path, {*nodules, *listed})
    in_tables = {*nodules, *findings}
    series_list = choose_listed_series(options, listed, in_tables)
    check_findings(csv_path, findings, series_list)
    excluded_file = find_excluded_file(options.data_dir, options.excluded)
    excluded = read_excluded_by_series(excluded_file, in_tables.union(series_list))
    log.info(
        f"Annotations: {options.annotations or options.data_dir}. Excluded findings: {excluded_file or 'none'}. "
        "Without scans there are no voxel scores and no figures."
    )
    report_outside("annotations", nodules, series_list)
    return [
        score_findings(
            series_uid, nodules.get(series_uid, ()), findings.get(series_uid, ()), excluded.get(series_uid, ())
        )
        for series_uid in series_list
    ]


def choose_listed_series(
    options: EvaluationOptions, listed: Sequence[str], in_tables: Collection[str]
) -> Sequence[str]:
    """Choose the series of `--series` or `--series-uid`; else those of the tables.

    Args: listed: those of `--series`.
    Raises: InputError for a series in none of the tables, and for a split, which needs scans.
    """
    for name in ("val_stride", "split", "splits"):
        if getattr(options, name) is not None:
            message = "chooses among scans on disk, and none are used; give a list by --series"
            raise InputError(message, option=as_flag(name))
    if options.series is not None:
        return listed
    if options.series_uid is not None:
        if options.series_uid not in in_tables:
            message = f"neither annotations nor findings have a series {options.series_uid}"
            raise InputError(message, option="--series-uid")
        return [options.series_uid]
    log.info(
        f"Scoring the {len(in_tables)} series of the annotations and findings. LUNA16 also counts its scans without "
        "either; give a list of all by --series."
    )
    return sorted(in_tables)


def check_findings(csv_path: Path, findings: Mapping[str, Sequence[Any]], series_list: Sequence[str]) -> None:
    """Warn of findings in series that are not scored. Raises: InputError if all are: it is the wrong file."""
    if findings and not set(findings).intersection(series_list):
        message = (
            f"none of its findings is in one of the {len(series_list)} scored series: {min(findings)} there, "
            f"{min(series_list)} scored; is it the right file?"
        )
        raise InputError(message, path=csv_path)
    report_outside("findings", findings, series_list)


def report_outside(what: str, by_series: Mapping[str, Sequence[Any]], series_list: Sequence[str]) -> None:
    """Warn of rows in other series. Args: what: the name of the rows; by_series: series UID -> its rows."""
    outside = set(by_series).difference(series_list)
    if outside:
        count, total = sum(len(by_series[uid]) for uid in outside), sum(map(len, by_series.values()))
        log.warning(f"{count} of {total} {what} are in {len(outside)} series that are not scored; ignoring them.")
