"""known_lesions.csv: what is known of lungs without annotations."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from p2ch13.labels.candidates import SIZED, CandidateInfoTuple, parse_nodule
from p2ch13.labels.tables import read_table
from p2ch13.util.tables import Row

LESIONS_FILE = "known_lesions.csv"


def read_known_lesions(csv_path: Path, scans: Collection[str] | None = None) -> list[CandidateInfoTuple]:
    """Read what is known of lungs without annotations: lesions of any kind, with columns as in annotations.csv.

    The first column is `series` or `seriesuid`: the scan's name.

    Args: scans: the series on disk, whose names differ from those of the file by what `SeriesNames` ignores; rows of
        others are kept.
    Raises: InputError, see `read_table`.
    """

    def parse(row: Row) -> CandidateInfoTuple:
        return parse_nodule(row)._replace(is_nodule=False)

    return read_table(csv_path, SIZED, parse, scans, keeps_others=True)
