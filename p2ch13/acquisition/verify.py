"""Verify LUNA16 on disk: headers, lengths of `.raw` files, rows of the CSV files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2ch13.acquisition.luna16 import CANDIDATES, MALIGNANCY, CsvFacts, RemoteFile
from p2ch13.labels.candidates import get_nodule_info_list
from p2ch13.labels.tables import SERIES, parse_rows
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.outcome import Outcome
from p2ch13.util.progress import progress_bar
from p2ch13.util.tables import Column
from p2ch13.volumes.files import list_scan_files, read_header, scan_name

log = logging.getLogger(__name__)

VOXEL_SUFFIXES = (".raw", ".zraw")


@dataclass(frozen=True)
class SubsetReport:
    """The readable scans of a subset, and its problems in one line each."""

    scans: dict[str, Path]  # series UID -> header file
    problems: list[str]


def verify(data_dir: Path, files: Sequence[RemoteFile], subsets: Collection[int] | None = None) -> Outcome:
    """Log a line for each subset of a data folder and for each problem.

    Args:
        files: the expected files.
        subsets: the expected subsets; None expects those that exist.
    Returns: the counts, and exit status 1 if there is a problem.
    Raises: InputError if the folder is missing, or has no subset and none is expected.
    """
    all_subsets = [file for file in files if file.subset is not None]
    chosen = choose_subsets(data_dir, all_subsets, subsets)
    problems = check_csv_files(data_dir, files)
    nodule_counts = count_nodules(data_dir)
    scans: dict[str, Path] = {}
    with progress_bar(len(chosen), "Verifying", "subset") as bar:
        for file in chosen:
            report = check_subset(data_dir, file)
            problems += report.problems
            for series_uid, path in report.scans.items():
                if scans.setdefault(series_uid, path) != path:
                    problems.append(f"{path}: same series as {scans[series_uid]}; remove one of the two")
            nodule_count = sum(nodule_counts[series_uid] for series_uid in report.scans)
            log.info(
                f"{subset_folder(data_dir, file)}: {len(report.scans)} of {file.scan_count} scans, "
                f"{nodule_count} nodules."
            )
            bar.update()
    if len(chosen) == len(all_subsets):
        problems += [
            f"{data_dir}: {count} nodules are annotated in series {series_uid}, which has no scan"
            for series_uid, count in sorted(nodule_counts.items())
            if series_uid not in scans
        ]
    for problem in problems:
        log.warning(problem)
    absent = [f"subset{file.subset}" for file in all_subsets if file not in chosen]
    nodule_count = sum(nodule_counts[series_uid] for series_uid in scans)
    line = (
        f"{len(scans)} readable scans with {nodule_count} of {nodule_counts.total()} annotated nodules; "
        f"{len(problems)} problems."
    )
    if absent:
        line += f" Not verified: {', '.join(absent)}."
    values = {"folder": data_dir, "scans": len(scans), "nodules": nodule_count, "problems": problems}
    return Outcome([line], values, EXIT_SKIPPED if problems else EXIT_DONE)


def choose_subsets(data_dir: Path, subsets: Sequence[RemoteFile], numbers: Collection[int] | None) -> list[RemoteFile]:
    if not data_dir.is_dir():
        raise InputError(
            "no such folder; download LUNA16, or name its folder with --data-dir", path=data_dir, option="--data-dir"
        )
    if numbers is not None:
        return [file for file in subsets if file.subset in numbers]
    chosen = [file for file in subsets if subset_folder(data_dir, file).is_dir()]
    if not chosen:
        raise InputError("no subset0 to subset9; name their folder with --data-dir", path=data_dir, option="--data-dir")
    return chosen


def subset_folder(data_dir: Path, file: RemoteFile) -> Path:
    return data_dir / f"subset{file.subset}"


def check_subset(data_dir: Path, file: RemoteFile) -> SubsetReport:
    """Read the headers of a subset's scans, and compare the lengths of their `.raw` files."""
    folder = subset_folder(data_dir, file)
    scans: dict[str, Path] = {}
    problems: list[str] = []
    paths = list_scan_files(folder)
    for path in paths:
        try:
            read_header(path)
            scans[scan_name(path)] = path
        except InputError as error:
            problems.append(one_line(error))
    names = {scan_name(path) for path in paths}
    problems += [
        f"{path}: its header {path.stem}.mhd is missing; download the subset again"
        for path in sorted(folder.glob("*"))
        if path.suffix in VOXEL_SUFFIXES and path.stem not in names and not path.name.startswith(".")
    ]
    missing = file.scan_count - len(paths)
    if missing > 0:
        problems.append(f"{folder}: {missing} of {file.scan_count} scans are missing; download the subset again")
    return SubsetReport(scans, problems)


def check_csv_files(data_dir: Path, files: Sequence[RemoteFile]) -> list[str]:
    """Check the expected CSV files, the book's if it exists, and one of the two lists of candidates."""
    wanted = [file.csv for file in files if file.csv is not None]
    present = [facts for facts in (CANDIDATES, MALIGNANCY) if (data_dir / facts.name).is_file()]
    if CANDIDATES in present:
        wanted = [facts for facts in wanted if facts.columns != CANDIDATES.columns or (data_dir / facts.name).is_file()]
    return [problem for facts in [*wanted, *present] for problem in check_csv(data_dir / facts.name, facts)]


def check_csv(path: Path, facts: CsvFacts) -> list[str]:
    """List a CSV file's problems: it is unreadable, or has an unexpected number of rows or series."""
    try:
        rows = parse_rows(path, [SERIES, *map(Column, facts.columns[1:])], lambda row: row[SERIES.name])
        series = [series_uid for _, series_uid in rows]
    except InputError as error:
        return [one_line(error)]
    series_count = len(set(series))
    if len(series) == facts.row_count and facts.series_count in (None, series_count):
        return []
    expected = f"{facts.row_count:,} rows" + (f" of {facts.series_count:,} series" if facts.series_count else "")
    return [f"{path}: {len(series):,} rows of {series_count:,} series instead of {expected}; download it again"]


def count_nodules(data_dir: Path) -> Counter[str]:
    """Count annotated nodules by series UID; none if the file is unreadable, which `check_csv` reports."""
    try:
        return Counter(nodule.series_uid for nodule in get_nodule_info_list(data_dir, require_on_disk=False))
    except InputError:
        return Counter()
