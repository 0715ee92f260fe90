"""Read CSV files whose rows are about series, such as LUNA16's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from p2ch13.labels.series_names import SeriesNames, bare_name, say_once
from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.errors import InputError
from p2ch13.util.tables import Column, Row, Table, open_table
from p2ch13.volumes.headers import ORIGIN_LIMIT_MM

POSITION_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ")
SERIES = Column("seriesuid", ("seriesinstanceuid", "series"))
POSITION = (SERIES, *(Column(name, (f"{name}mm",)) for name in POSITION_COLUMNS[1:]))

T = TypeVar("T")


def read_table(
    csv_path: Path,
    columns: Sequence[Column],
    parse: Callable[[Row], T],
    scans: Collection[str] | None = None,
    **others: bool,
) -> list[T]:
    """Parse the rows of a CSV file, see `open_table`; a row that is there twice counts once, and a line says so.

    Args:
        columns: `SERIES` and others.
        parse: makes a value of a row, whose `repr` shows all of it; raises ValueError if the row is invalid.
        scans: the series on disk, see `SeriesNames`; rows of others are skipped without parsing them, since most of
            LUNA16's candidates are in scans that are not on disk. None: all rows, by the names in the file.
        others: what happens to rows of other series, see `parse_rows`.
    Raises: InputError for a missing file or column or an invalid row; OtherSeriesError if all rows are of other series.
    """
    first_lines: dict[str, int] = {}
    rows: list[T] = []
    repeated: list[tuple[int, int]] = []  # line, and the first one like it
    for line, parsed in parse_rows(csv_path, columns, parse, scans, **others):
        key = repr(parsed)  # two values with NaN are not equal
        if first_lines.setdefault(key, line) != line:
            repeated.append((line, first_lines[key]))
        else:
            rows.append(parsed)
    if repeated:
        line, first = repeated[0]
        counts = f"{len(repeated)} of {len(rows) + len(repeated)} rows"
        say_once(f"{csv_path}: {counts} repeat another, such as line {line} line {first}; each counts once.")
    return rows


def parse_rows(
    csv_path: Path,
    columns: Sequence[Column],
    parse: Callable[[Row], T],
    scans: Collection[str] | None = None,
    keeps_others: bool = False,
    checks_others: bool = False,
) -> Iterator[tuple[int, T]]:
    """Yield the line and the parsed value of each row, of repeated ones as well.

    Args: keeps_others: keep the rows of series that are not on disk; checks_others: raise the errors of these rows;
        for others, see `read_table`.
    Raises: see `read_table`.
    """
    names = None if scans is None else SeriesNames(csv_path, scans, keeps_others)
    with open_table(csv_path, columns) as table:
        for line, fields in table:
            text = fields[table.places[SERIES.name]]
            series_uid = bare_name(text) if names is None else names.find(text, line)
            if series_uid is None and bare_name(text) and not checks_others:
                continue
            try:
                parsed = parse(read_row(table, fields, series_uid or bare_name(text)))
            except ValueError as error:
                raise InputError(f"{error}; correct or remove the row", path=csv_path, line=line) from None
            if series_uid is not None:
                yield line, parsed
    if names is not None:
        names.report()


def read_row(table: Table, fields: Sequence[str], series_uid: str) -> Row:
    """Read a row under the name that its series has on disk. Raises: ValueError without one."""
    if not series_uid:
        raise ValueError("no series UID")
    row = table.row(fields)
    row[SERIES.name] = series_uid
    return row


def parse_center(row: Row) -> XyzTuple:
    """Read a row's center. Raises: ValueError if it is in no scan."""
    center_xyz = XyzTuple(*map(row.number, POSITION_COLUMNS[1:]))
    if max(map(abs, center_xyz)) > ORIGIN_LIMIT_MM:
        raise ValueError(f"{tuple(center_xyz)} mm is outside of any scan")
    return center_xyz
