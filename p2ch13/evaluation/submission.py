"""Findings of any program against a table of annotations, as in the LUNA16 challenge; no scan is opened."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from p2ch13.config import EvaluationOptions
from p2ch13.evaluation.external import read_findings
from p2ch13.evaluation.scoring import ScanScores, score_findings
from p2ch13.evaluation.truth import read_excluded_by_series, read_series_file
from p2ch13.labels.candidates import (
    find_excluded_file,
    get_nodule_info_list,
    group_by_series,
    read_annotations,
    sort_candidates,
)
from p2ch13.util.errors import InputError
from p2ch13.volumes.files import find_scans

log = logging.getLogger(__name__)


def is_submission(options: EvaluationOptions) -> bool:
    """Whether findings are scored by tables alone: where these are named, or the data folder holds no scans."""
    if not options.marks_nothing:
        return False
    return options.annotations is not None or options.series is not None or not has_scans(options.data_dir)


def has_scans(data_dir: Path) -> bool:
    try:
        return bool(find_scans(data_dir))
    except InputError:
        return False


def score_submission(options: EvaluationOptions, csv_path: Path) -> list[ScanScores]:
    """Score the findings of a file in all series that are to be scored.

    Says which these are, and what of the tables lies outside them.
    Raises: InputError if a file cannot be used, or no finding is in these series.
    """
    findings = read_findings(csv_path)
    if options.annotations is not None:
        nodules = group_by_series(sort_candidates(read_annotations(options.annotations)))
    else:
        nodules = group_by_series(get_nodule_info_list(options.data_dir, require_on_disk=False))
    series_list = choose_listed_series(options, {*nodules, *findings})
    check_findings(csv_path, findings, series_list)
    excluded_file = find_excluded_file(options.data_dir, options.excluded)
    excluded = read_excluded_by_series(excluded_file)
    log.info(
        f"Annotations: {options.annotations or options.data_dir}. Excluded findings: {excluded_file or 'none'}. "
        "No scan is opened: no voxel scores and no pictures."
    )
    report_outside("annotations", nodules, series_list)
    return [
        score_findings(
            series_uid, nodules.get(series_uid, ()), findings.get(series_uid, ()), excluded.get(series_uid, ())
        )
        for series_uid in series_list
    ]


def choose_listed_series(options: EvaluationOptions, in_tables: Collection[str]) -> list[str]:
    """The series of `--series`, or that of `--series-uid`; else those of the tables, which is said.

    Raises: InputError for a series that is named and in none of the tables, and for a split, which is one of scans.
    """
    if options.val_stride is not None:
        raise InputError(
            "--val-stride: splits the scans on disk, and these are not asked for; name a list with --series"
        )
    if options.series is not None:
        return sorted(read_series_file(options.series))
    if options.series_uid is not None:
        if options.series_uid not in in_tables:
            raise InputError(f"{options.series_uid}: neither the annotations nor the findings name this series")
        return [options.series_uid]
    log.info(
        f"Scored are the {len(in_tables)} series that the annotations or the findings name. LUNA16 counts all of its "
        "scans, those without either, too; --series names a list of them."
    )
    return sorted(in_tables)


def check_findings(csv_path: Path, findings: Mapping[str, Sequence[Any]], series_list: Sequence[str]) -> None:
    """Say how many findings are of series that are not scored. Raises: InputError if all are; it is the wrong file."""
    if findings and not set(findings).intersection(series_list):
        raise InputError(f"{csv_path}: none of its findings is in a series that is scored; is it the right one?")
    report_outside("findings", findings, series_list)


def report_outside(what: str, by_series: Mapping[str, Sequence[Any]], series_list: Sequence[str]) -> None:
    """Args: what: the name of the rows; by_series: series UID -> its rows."""
    outside = set(by_series).difference(series_list)
    if outside:
        count, total = sum(len(by_series[uid]) for uid in outside), sum(map(len, by_series.values()))
        log.warning(
            f"{count} of {total} {what} are in {len(outside)} series that are not scored; they count for nothing."
        )
