"""Read annotations and candidates from LUNA16's CSV files."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from p2ch13.labels.series_names import say_once
from p2ch13.labels.tables import POSITION, SERIES, parse_center, parse_rows, read_table
from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.tables import Column, Row
from p2ch13.volumes.files import find_scans

ANNOTATIONS_FILE = "annotations.csv"  # LUNA16's nodules
MALIGNANCY_FILE = "annotations_with_malignancy.csv"  # the book's: malignancy, four rows fewer
SAME_PLACE_MM = 0.1  # between two files' rows of one nodule; LUNA16's nodules are at least 5.9 mm apart
CANDIDATES_FILES = ("candidates_V2.csv", "candidates.csv")  # the first that exists; LUNA16 advises against the second
EXCLUDED_FILE = "annotations_excluded.csv"
EXCLUDED_DIAMETER_MM = 10.0  # where none was measured, as in LUNA16's evaluation script
DIAMETER_LIMIT_MM = 1000.0  # no nodule is larger than a patient
SIZE, MALIGNANCY, CLASS = Column("diameter_mm"), Column("mal_bool"), Column("class")
SIZED = (*POSITION, SIZE)


class CandidateInfoTuple(NamedTuple):
    """An annotated nodule, an excluded finding or a candidate."""

    is_nodule: bool
    has_annotation: bool  # radiologists measured it
    is_mal: bool | None  # None: unknown
    diameter_mm: float  # 0 without annotation
    series_uid: str
    center_xyz: XyzTuple  # mm, patient coordinates


def get_candidate_info_list(data_dir: Path, require_on_disk: bool = True) -> list[CandidateInfoTuple]:
    """List nodules and non-nodules, nodules first, largest first.

    Args:
        data_dir: the folder of the CSV files and the scans.
        require_on_disk: skip candidates in scans that are not on disk.
    Raises: InputError for a missing file or column or an invalid row, and if scans are required and there are none.
    """
    present_on_disk = find_scans(data_dir) if require_on_disk else None
    return sort_candidates([*read_nodules(data_dir, present_on_disk), *read_non_nodules(data_dir, present_on_disk)])


def get_nodule_info_list(
    data_dir: Path, require_on_disk: bool = True, scans: Collection[str] | None = None
) -> list[CandidateInfoTuple]:
    """List the nodules of `get_candidate_info_list`, without reading half a million non-nodules.

    Args: scans: the series on disk, if already known.
    """
    if require_on_disk and scans is None:
        scans = find_scans(data_dir)
    return sort_candidates(read_nodules(data_dir, scans if require_on_disk else None))


def sort_candidates(candidates: Sequence[CandidateInfoTuple]) -> list[CandidateInfoTuple]:
    """Sort nodules first, then largest first, then by series and center, so that the order is unique."""
    return sorted(candidates, key=lambda c: (c.is_nodule, c.diameter_mm, c.series_uid, c.center_xyz), reverse=True)


def read_nodules(data_dir: Path, present_on_disk: Collection[str] | None) -> list[CandidateInfoTuple]:
    """Read annotations.csv and add the malignancy from annotations_with_malignancy.csv.

    The second file neither adds nor removes nodules, unless it is the only one.
    """
    annotations_path, malignancy_path = data_dir / ANNOTATIONS_FILE, data_dir / MALIGNANCY_FILE
    rated = read_rated(malignancy_path, present_on_disk) if malignancy_path.is_file() else []
    if malignancy_path.is_file() and not annotations_path.is_file():
        return rated
    return join_malignancy(read_annotations(annotations_path, present_on_disk), rated)


def read_annotations(csv_path: Path, scans: Collection[str] | None = None) -> list[CandidateInfoTuple]:
    """Read nodules of unknown malignancy. Args: scans: the series on disk, None reads all.

    Raises: InputError, see `read_table`; also for an invalid row of a series that is not on disk.
    """
    nodules = read_table(csv_path, SIZED, parse_nodule, scans, checks_others=True)
    if scans is not None:
        warn_of_one_place(csv_path, nodules)
    return nodules


def read_rated(csv_path: Path, scans: Collection[str] | None = None) -> list[CandidateInfoTuple]:
    """Read nodules and their malignancy. Args, Raises: see `read_annotations`."""

    def parse(row: Row) -> CandidateInfoTuple:
        return parse_nodule(row)._replace(is_mal=row.flag(MALIGNANCY.name))

    return read_table(csv_path, (*SIZED, MALIGNANCY), parse, scans, checks_others=True)


def parse_nodule(row: Row) -> CandidateInfoTuple:
    return CandidateInfoTuple(True, True, None, parse_diameter(row), row[SERIES.name], parse_center(row))


def parse_diameter(row: Row) -> float:
    """Raises: ValueError if it is no nodule's."""
    diameter_mm = row.number(SIZE.name)
    if not 0 < diameter_mm <= DIAMETER_LIMIT_MM:
        raise ValueError(f"a diameter of {diameter_mm} mm")
    return diameter_mm


def warn_of_one_place(csv_path: Path, nodules: Iterable[CandidateInfoTuple]) -> None:
    """Warn of nodules within `SAME_PLACE_MM` of another one, which may be rows of one nodule in other digits."""
    for in_series in group_by_series(nodules).values():
        for ndx, nodule in enumerate(in_series):
            for other in in_series[:ndx]:
                if math.dist(nodule.center_xyz, other.center_xyz) <= SAME_PLACE_MM:
                    at = ", ".join(f"{value:g}" for value in nodule.center_xyz)
                    sizes = f"{other.diameter_mm:g} and {nodule.diameter_mm:g} mm"
                    say_once(
                        f"{csv_path}: two nodules at ({at}) mm in {nodule.series_uid}, of {sizes}, and both count; "
                        "remove a row if they are one."
                    )


def join_malignancy(
    nodules: Sequence[CandidateInfoTuple], rated: Sequence[CandidateInfoTuple]
) -> list[CandidateInfoTuple]:
    """Give each nodule the malignancy of the nearest rated one in its series within `SAME_PLACE_MM`.

    The two files print coordinates with different precision.
    """
    rated_by_series = group_by_series(rated)

    def find_malignancy(nodule: CandidateInfoTuple) -> bool | None:
        def distance_mm(other: CandidateInfoTuple) -> float:
            return math.dist(nodule.center_xyz, other.center_xyz)

        nearest = min(rated_by_series[nodule.series_uid], key=distance_mm, default=None)
        return nearest.is_mal if nearest is not None and distance_mm(nearest) <= SAME_PLACE_MM else None

    return [nodule._replace(is_mal=find_malignancy(nodule)) for nodule in nodules]


def group_by_series(candidates: Iterable[CandidateInfoTuple]) -> defaultdict[str, list[CandidateInfoTuple]]:
    """Group candidates by series UID, in their order."""
    by_series: defaultdict[str, list[CandidateInfoTuple]] = defaultdict(list)
    for candidate in candidates:
        by_series[candidate.series_uid].append(candidate)
    return by_series


def read_non_nodules(data_dir: Path, present_on_disk: Collection[str] | None) -> list[CandidateInfoTuple]:
    """Read the candidates of class 0. Those of class 1 repeat the annotated nodules (book, 13.5.3)."""
    csv_path = next(
        (data_dir / name for name in CANDIDATES_FILES if (data_dir / name).is_file()), data_dir / CANDIDATES_FILES[-1]
    )

    def parse(row: Row) -> CandidateInfoTuple:
        is_nodule = row.flag(CLASS.name)
        if is_nodule is None:
            raise ValueError(f"class {row[CLASS.name]!r} instead of 0 or 1")
        return CandidateInfoTuple(is_nodule, False, False, 0.0, row[SERIES.name], parse_center(row))

    candidates = read_table(csv_path, (*POSITION, CLASS), parse, present_on_disk)
    return [candidate for candidate in candidates if not candidate.is_nodule]


def find_excluded_file(data_dir: Path, named: Path | None = None) -> Path | None:
    """Return the named file, else the data folder's, or None if it has none."""
    in_data_dir = data_dir / EXCLUDED_FILE
    return named or (in_data_dir if in_data_dir.is_file() else None)


def read_excluded(csv_path: Path, present_on_disk: Collection[str] | None = None) -> list[CandidateInfoTuple]:
    """Read the excluded findings, which single readers marked and which count neither as nodules nor as non-nodules.

    A missing or non-positive diameter becomes 10 mm. Repeated rows stay: LUNA16's file has 11,105 of them, which change
    no score.

    Args: present_on_disk: skip other series; None reads all.
    """

    def parse(row: Row) -> CandidateInfoTuple:
        diameter_mm = row.number(SIZE.name) if row.get(SIZE.name) else 0.0
        if diameter_mm > DIAMETER_LIMIT_MM:
            raise ValueError(f"a diameter of {diameter_mm} mm")
        if diameter_mm <= 0:
            diameter_mm = EXCLUDED_DIAMETER_MM
        return CandidateInfoTuple(False, True, None, diameter_mm, row[SERIES.name], parse_center(row))

    rows = parse_rows(csv_path, (*POSITION, SIZE._replace(is_optional=True)), parse, present_on_disk)
    return [finding for _, finding in rows]
