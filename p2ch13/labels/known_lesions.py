"""known_lesions.csv: what is known of lungs without annotations."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from p2ch13.labels.candidates import (
    DIAMETER_LIMIT_MM,
    POSITION_COLUMNS,
    CandidateInfoTuple,
    open_text,
    parse_center,
    parse_number,
    read_table,
)

LESIONS_FILE = "known_lesions.csv"


def read_known_lesions(csv_path: Path) -> list[CandidateInfoTuple]:
    """Read what is known of lungs without annotations: lesions of any kind, with columns as in annotations.csv.

    The first column is `series` or `seriesuid`: the scan's name.
    """

    def parse(row: Mapping[str, str]) -> CandidateInfoTuple:
        diameter_mm = parse_number(row["diameter_mm"])
        if not 0 < diameter_mm <= DIAMETER_LIMIT_MM:
            raise ValueError(f"a diameter of {diameter_mm} mm")
        return CandidateInfoTuple(False, True, None, diameter_mm, row[names[0]], parse_center(row))

    names = ("series" if has_column(csv_path, "series") else "seriesuid", *POSITION_COLUMNS[1:], "diameter_mm")
    return read_table(csv_path, names, parse)


def has_column(csv_path: Path, name: str) -> bool:
    """Raises: InputError if the file cannot be read."""
    with open_text(csv_path) as file:
        return name in [column.strip() for column in next(csv.reader(file), [])]
