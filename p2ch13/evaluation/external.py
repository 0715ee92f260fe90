"""Input files of an evaluation: other programs' masks and findings, excluded findings, series lists."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from p2ch13.detection.findings import Finding
from p2ch13.detection.folders import REPORT_ENDING
from p2ch13.labels.candidates import CandidateInfoTuple, group_by_series, read_excluded
from p2ch13.labels.mask import list_values
from p2ch13.labels.series_names import SeriesNames, bare_name
from p2ch13.labels.tables import POSITION, SERIES, parse_center, read_table
from p2ch13.util.errors import InputError
from p2ch13.util.tables import Column, Row, as_key, open_text
from p2ch13.volumes.files import SCAN_SUFFIXES, list_scan_files, scan_name

log = logging.getLogger(__name__)

PROBABILITY, LOGIT = Column("probability"), Column("logit", is_optional=True)
HEADERS = {as_key(name) for name in (SERIES.name, *SERIES.others)}


def find_mask(mask_dir: Path, series_uid: str) -> Path:
    """Find `<series_uid>.nii.gz` or `<series_uid>_mask.nii.gz`, or one in another format of scans.

    The name of an image in nnU-Net's layout, without its `_0000`, is that of nnU-Net's own mask.
    Raises: InputError if there is none.
    """
    paths = [mask_dir / f"{series_uid}{ending}{suffix}" for ending in ("", "_mask") for suffix in SCAN_SUFFIXES]
    found = next((path for path in paths if path.is_file()), None)
    if found is None and mask_dir.is_dir():  # a suffix in large letters
        named = {scan_name(path): path for path in list_scan_files(mask_dir)}
        found = named.get(series_uid, named.get(f"{series_uid}_mask"))
    if found is None:
        message = f"no such file, nor {series_uid}.nii.gz or another format's; --mask needs one for each scan"
        raise InputError(message, path=mask_dir / f"{series_uid}_mask.nii.gz")
    return found


def choose_values(mask_dir: Path, series_list: Sequence[str], values: tuple[int, ...]) -> tuple[int, ...]:
    """Choose the values of nodules in another program's masks; none: all above 0.

    These are those of the data folder's masks, unless no mask of these series has a voxel of them, or one of them is
    prediction's, whose values are numbers of findings. Masks are read up to the first that has one.
    """

    def has_values(series_uid: str) -> bool:
        try:
            return not set(values).isdisjoint(list_values(find_mask(mask_dir, series_uid)))
        except InputError:  # its scan will be skipped with this error
            return False

    if any(has_report(mask_dir, series_uid) for series_uid in series_list):
        return ()
    if not values or any(map(has_values, series_list)):
        return values
    listed = ", ".join(map(str, values))
    log.warning(f"{mask_dir}: no mask has a value of the data folder's nodules, {listed}; all above 0 are scored.")
    return ()


def has_report(mask_dir: Path, series_uid: str) -> bool:
    """Tell whether prediction's report of a scan is beside its mask."""
    return (mask_dir / f"{series_uid}{REPORT_ENDING}").is_file()


def read_findings(csv_path: Path, series: Collection[str] = ()) -> dict[str, list[Finding]]:
    """Read findings by series UID, from LUNA16's submission columns and an optional column `logit`.

    The logit ranks the findings, or else the probability, which may be any finite number. Other columns are ignored.

    Args: series: those of scans or annotations, see `SeriesNames`; findings in others are kept.
    Raises: InputError, naming file and line.
    """

    def parse(row: Row) -> Finding:
        return Finding(
            series_uid=row[SERIES.name],
            number=0,
            center_xyz=parse_center(row),
            logit=row.number(LOGIT.name) if LOGIT.name in row else math.nan,
            probability=row.number(PROBABILITY.name),
        )

    findings: dict[str, list[Finding]] = {}
    for finding in read_table(csv_path, (*POSITION, PROBABILITY, LOGIT), parse, series, keeps_others=True):
        findings.setdefault(finding.series_uid, []).append(finding)
    return findings


def read_excluded_by_series(csv_path: Path | None, series: Collection[str]) -> dict[str, list[CandidateInfoTuple]]:
    """Read the excluded findings of these series. Raises: InputError, see `read_excluded`."""
    return group_by_series(read_excluded(csv_path, series)) if csv_path else {}


def read_series_file(path: Path, series: Collection[str] = ()) -> list[str]:
    """Read a list of series UIDs such as LUNA16's seriesuids.csv: one a line, below an optional header `seriesuid`.

    Args: series: those of scans or tables, see `SeriesNames`; others are kept.
    Raises: InputError, naming file and line, for a repeated UID or a line of several fields; naming the file, if it has
        no UID.
    """
    lines: dict[str, int] = {}
    names = SeriesNames(path, series, keeps_others=True)
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            text = bare_name(line)
            if not text or (not lines and as_key(text) in HEADERS):
                continue
            if any(separator in text for separator in ",;") or len(text.split()) > 1:
                raise InputError(f"{text!r} is not one series UID; give one a line", path=path, line=number)
            series_uid = names.find(text, number) or text
            if series_uid in lines:
                raise InputError(f"{series_uid} repeats line {lines[series_uid]}; remove it", path=path, line=number)
            lines[series_uid] = number
    if not lines:
        raise InputError("no series UID; give one a line", path=path)
    names.report()
    return list(lines)
