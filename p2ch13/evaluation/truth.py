"""What findings are scored against: the nodules, the excluded findings, and the list of scans."""

from __future__ import annotations

from pathlib import Path

from p2ch13.labels.candidates import POSITION_COLUMNS, CandidateInfoTuple, group_by_series, open_text, read_excluded
from p2ch13.util.errors import InputError

SERIES_COLUMN = POSITION_COLUMNS[0]


def read_excluded_by_series(csv_path: Path | None) -> dict[str, list[CandidateInfoTuple]]:
    """Series UID -> its annotations that count neither as nodule nor as none."""
    return group_by_series(read_excluded(csv_path)) if csv_path else {}


def read_series_file(path: Path) -> list[str]:
    """The series UIDs of a list such as LUNA16's seriesuids.csv: one a line; a header `seriesuid` may stand above them.

    A UID is a text, whatever it looks like; blanks around it are no part of it.
    Raises: InputError, naming file and line, for a UID that stands there twice and for a line of several fields; and
        for a file without any UID.
    """
    lines: dict[str, int] = {}
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            series_uid = line.strip()
            if not series_uid or (not lines and series_uid == SERIES_COLUMN):
                continue
            if "," in series_uid or len(series_uid.split()) > 1:
                raise InputError(f"{path}, line {number}: {series_uid!r} is not one series UID; give one a line")
            if series_uid in lines:
                raise InputError(
                    f"{path}, line {number}: {series_uid} stands in line {lines[series_uid]}, too; once is enough"
                )
            lines[series_uid] = number
    if not lines:
        raise InputError(f"{path}: no series UID in it; give one a line")
    return list(lines)
