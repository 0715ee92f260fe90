"""Read annotations and candidates from LUNA16's CSV files."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.errors import InputError, one_line
from p2ch13.volumes.files import find_scans
from p2ch13.volumes.headers import ORIGIN_LIMIT_MM

ANNOTATIONS_FILE = "annotations.csv"  # LUNA16's nodules
MALIGNANCY_FILE = "annotations_with_malignancy.csv"  # the book's: malignancy, four rows fewer
SAME_PLACE_MM = 0.1  # between two files' rows of one nodule; LUNA16's nodules are at least 5.9 mm apart
CANDIDATES_FILES = ("candidates_V2.csv", "candidates.csv")  # the first that exists; LUNA16 advises against the second
EXCLUDED_FILE = "annotations_excluded.csv"
EXCLUDED_DIAMETER_MM = 10.0  # where none was measured, as in LUNA16's evaluation script
DIAMETER_LIMIT_MM = 1000.0  # no nodule is larger than a patient
POSITION_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ")

T = TypeVar("T")


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
    has_malignancy = malignancy_path.is_file()
    rated = read_annotations(malignancy_path, with_malignancy=True) if has_malignancy else []
    if has_malignancy and not annotations_path.is_file():
        nodules = rated
    else:
        nodules = join_malignancy(read_annotations(annotations_path), rated)
    return [nodule for nodule in nodules if present_on_disk is None or nodule.series_uid in present_on_disk]


def read_annotations(csv_path: Path, with_malignancy: bool = False) -> list[CandidateInfoTuple]:
    columns = (*POSITION_COLUMNS, "diameter_mm", *(("mal_bool",) if with_malignancy else ()))

    def parse(row: Mapping[str, str]) -> CandidateInfoTuple:
        diameter_mm = parse_number(row["diameter_mm"])
        if not 0 < diameter_mm <= DIAMETER_LIMIT_MM:
            raise ValueError(f"a diameter of {diameter_mm} mm")
        is_mal = parse_malignancy(row["mal_bool"]) if with_malignancy else None
        return CandidateInfoTuple(True, True, is_mal, diameter_mm, row["seriesuid"], parse_center(row))

    return read_table(csv_path, columns, parse)


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

    def parse(row: Mapping[str, str]) -> CandidateInfoTuple | None:
        if row["class"] not in ("0", "1"):
            raise ValueError(f"class {row['class']!r} instead of 0 or 1")
        if row["class"] == "1":
            return None
        return CandidateInfoTuple(False, False, False, 0.0, row["seriesuid"], parse_center(row))

    parsed = read_table(csv_path, (*POSITION_COLUMNS, "class"), parse, present_on_disk)
    return [candidate for candidate in parsed if candidate is not None]


def find_excluded_file(data_dir: Path, named: Path | None = None) -> Path | None:
    """Return the named file, else the data folder's, or None if it has none."""
    in_data_dir = data_dir / EXCLUDED_FILE
    return named or (in_data_dir if in_data_dir.is_file() else None)


def read_excluded(csv_path: Path, present_on_disk: Collection[str] | None = None) -> list[CandidateInfoTuple]:
    """Read the excluded findings, which single readers marked and which count neither as nodules nor as non-nodules.

    A missing or non-positive diameter becomes 10 mm.

    Args: present_on_disk: skip other series; None reads all.
    """

    def parse(row: Mapping[str, str]) -> CandidateInfoTuple:
        diameter_mm = parse_number(row["diameter_mm"]) if row.get("diameter_mm") else 0.0
        if diameter_mm > DIAMETER_LIMIT_MM:
            raise ValueError(f"a diameter of {diameter_mm} mm")
        if diameter_mm <= 0:
            diameter_mm = EXCLUDED_DIAMETER_MM
        return CandidateInfoTuple(False, True, None, diameter_mm, row["seriesuid"], parse_center(row))

    return read_table(csv_path, POSITION_COLUMNS, parse, present_on_disk)


def read_table(
    csv_path: Path,
    columns: Sequence[str],
    parse: Callable[[Mapping[str, str]], T],
    series: Collection[str] | None = None,
) -> list[T]:
    """Parse the rows of a CSV file, which may be compressed as `.gz`; blanks around fields are ignored.

    Args:
        columns: required ones, the first of which names the series.
        parse: takes a row, all of its columns by name; raises ValueError if it is invalid.
        series: skip the rows of other series without parsing them: most of LUNA16's candidates are in scans that are
            not on disk.
    Raises: InputError for a missing file or column or an invalid row.
    """
    rows = []
    with open_text(csv_path) as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        missing = [column for column in columns if column not in header]
        if missing:
            raise InputError(f"no column {', '.join(missing)}; its first line must name the columns", path=csv_path)
        series_ndx = header.index(columns[0])
        for fields in filter(None, reader):  # `DictReader` takes 1.4 times as long where most rows are skipped
            try:
                if len(fields) != len(header):
                    raise ValueError(f"{len(fields)} fields, the header has {len(header)}")
                if series is None or fields[series_ndx].strip() in series:
                    rows.append(parse(dict(zip(header, map(str.strip, fields), strict=True))))
            except ValueError as error:
                raise InputError(f"{error}; correct or remove the row", path=csv_path, line=reader.line_num) from None
    return rows


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file of the data set, which may be compressed as `.gz`.

    Raises: InputError if it is missing or cannot be read, also while it is read.
    """
    try:
        open_file = gzip.open if path.suffix == ".gz" else open
        with open_file(path, "rt", newline="", encoding="utf-8-sig") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"no such file; LUNA16's {path.name} belongs there", path=path) from None
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error, OSError) as error:
        raise InputError(f"not a CSV file ({one_line(error)}); download it again", path=path) from None


def parse_center(row: Mapping[str, str], columns: Sequence[str] = POSITION_COLUMNS[1:]) -> XyzTuple:
    center_xyz = XyzTuple(*(parse_number(row[column]) for column in columns))
    if max(map(abs, center_xyz)) > ORIGIN_LIMIT_MM:
        raise ValueError(f"{tuple(center_xyz)} mm is outside of any scan")
    return center_xyz


def parse_number(text: str) -> float:
    try:
        value = float(text.replace("_", " _"))  # only Python reads 1_0 as 10
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value


def parse_malignancy(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError(f"mal_bool is {text!r} instead of True or False")
    return text == "True"
