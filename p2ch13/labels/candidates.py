"""LUNA16's CSV files of annotations and of candidates -> a sorted list of candidates."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.errors import InputError, one_line
from p2ch13.volumes.files import ORIGIN_LIMIT_MM, find_scans

ANNOTATIONS_FILE = "annotations.csv"  # LUNA16's: what it lists is nodule
MALIGNANCY_FILE = "annotations_with_malignancy.csv"  # the book's: the same without four rows, with malignancy
SAME_PLACE_MM = 0.1  # between a row of one and its row in the other; LUNA16's nodules are 5.9 mm apart or more
CANDIDATES_FILES = ("candidates_V2.csv", "candidates.csv")  # the first that exists; LUNA16 advises against the second
EXCLUDED_FILE = "annotations_excluded.csv"
EXCLUDED_DIAMETER_MM = 10.0  # where none was measured; LUNA16's evaluation script takes a radius of 5 mm
DIAMETER_LIMIT_MM = 1000.0  # no nodule is larger than a patient
POSITION_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ")

T = TypeVar("T")


class CandidateInfoTuple(NamedTuple):
    """A place in a scan where somebody, or a program, saw something."""

    is_nodule: bool
    has_annotation: bool  # outlined and measured by radiologists
    is_mal: bool | None  # None: not known
    diameter_mm: float  # 0 where there is no annotation
    series_uid: str
    center_xyz: XyzTuple  # mm, patient coordinates


def get_candidate_info_list(data_dir: Path, require_on_disk: bool = True) -> list[CandidateInfoTuple]:
    """All nodules and non-nodules, nodules first, largest first.

    Args:
        data_dir: the folder of the CSV files and the scans.
        require_on_disk: leave out what is in scans that are not there.
    Raises: InputError, naming file and line, for a missing file or column and for a row that makes no sense; and if
        scans are required and there are none.
    """
    present_on_disk = find_scans(data_dir) if require_on_disk else None
    return sort_candidates([*read_nodules(data_dir, present_on_disk), *read_non_nodules(data_dir, present_on_disk)])


def get_nodule_info_list(
    data_dir: Path, require_on_disk: bool = True, scans: Collection[str] | None = None
) -> list[CandidateInfoTuple]:
    """The nodules at the head of `get_candidate_info_list`, without reading half a million non-nodules.

    Args: scans: the series that are on disk, where they are known already.
    """
    if require_on_disk and scans is None:
        scans = find_scans(data_dir)
    return sort_candidates(read_nodules(data_dir, scans if require_on_disk else None))


def sort_candidates(candidates: Sequence[CandidateInfoTuple]) -> list[CandidateInfoTuple]:
    """Nodules first, largest first; series and centre decide between equals, so that the order is always the same."""
    return sorted(candidates, key=lambda c: (c.is_nodule, c.diameter_mm, c.series_uid, c.center_xyz), reverse=True)


def read_nodules(data_dir: Path, present_on_disk: Collection[str] | None) -> list[CandidateInfoTuple]:
    """Read the rows of annotations.csv and join what annotations_with_malignancy.csv says of them.

    The second file neither adds nor removes a nodule. It stands in for the first where only the second exists.
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

    def parse(fields: Sequence[str]) -> CandidateInfoTuple:
        diameter_mm = parse_number(fields[4])
        if not 0 < diameter_mm <= DIAMETER_LIMIT_MM:
            raise ValueError(f"a diameter of {diameter_mm} mm")
        is_mal = parse_malignancy(fields[5]) if with_malignancy else None
        return CandidateInfoTuple(True, True, is_mal, diameter_mm, fields[0], parse_center(fields))

    return [parse_row(csv_path, line, fields, parse) for line, fields in read_rows(csv_path, columns)]


def join_malignancy(
    nodules: Sequence[CandidateInfoTuple], rated: Sequence[CandidateInfoTuple]
) -> list[CandidateInfoTuple]:
    """Give each nodule the malignancy of the nearest rated one, if that is at the same place of the same series.

    The files print coordinates with different precision, so that places are compared with a tolerance.
    """
    rated_by_series = group_by_series(rated)

    def find_malignancy(nodule: CandidateInfoTuple) -> bool | None:
        def distance_mm(other: CandidateInfoTuple) -> float:
            return math.dist(nodule.center_xyz, other.center_xyz)

        nearest = min(rated_by_series[nodule.series_uid], key=distance_mm, default=None)
        return nearest.is_mal if nearest is not None and distance_mm(nearest) <= SAME_PLACE_MM else None

    return [nodule._replace(is_mal=find_malignancy(nodule)) for nodule in nodules]


def group_by_series(candidates: Iterable[CandidateInfoTuple]) -> defaultdict[str, list[CandidateInfoTuple]]:
    """Series UID -> its candidates, in their order."""
    by_series: defaultdict[str, list[CandidateInfoTuple]] = defaultdict(list)
    for candidate in candidates:
        by_series[candidate.series_uid].append(candidate)
    return by_series


def read_non_nodules(data_dir: Path, present_on_disk: Collection[str] | None) -> list[CandidateInfoTuple]:
    """The rows of class 0. Those of class 1 are the annotated nodules over again, some several times (book, 13.5.3)."""
    csv_path = next(
        (data_dir / name for name in CANDIDATES_FILES if (data_dir / name).is_file()), data_dir / CANDIDATES_FILES[-1]
    )

    def parse(fields: Sequence[str]) -> CandidateInfoTuple | None:
        if fields[4] not in ("0", "1"):
            raise ValueError(f"class {fields[4]!r}; it can be 0 or 1")
        if fields[4] == "1":
            return None
        return CandidateInfoTuple(False, False, False, 0.0, fields[0], parse_center(fields))

    parsed = [
        parse_row(csv_path, line, fields, parse)
        for line, fields in read_rows(csv_path, (*POSITION_COLUMNS, "class"))
        # Looked up before the numbers are read: of LUNA16's 551,065 rows most name scans that are not on disk.
        if present_on_disk is None or fields[0] in present_on_disk
    ]
    return [candidate for candidate in parsed if candidate is not None]


def find_excluded_file(data_dir: Path, named: Path | None = None) -> Path | None:
    """The file that is named; else the data folder's, None if it has none."""
    in_data_dir = data_dir / EXCLUDED_FILE
    return named or (in_data_dir if in_data_dir.is_file() else None)


def read_excluded(csv_path: Path, present_on_disk: Collection[str] | None = None) -> list[CandidateInfoTuple]:
    """Read the findings that count neither as nodule nor as none: what single readers marked.

    A diameter that is missing, or not positive, becomes 10 mm.

    Args: present_on_disk: read the rows of these series only; None reads all.
    """

    def parse(fields: Sequence[str]) -> CandidateInfoTuple:
        diameter_mm = parse_number(fields[4]) if fields[4].strip() else 0.0
        if diameter_mm > DIAMETER_LIMIT_MM:
            raise ValueError(f"a diameter of {diameter_mm} mm")
        if diameter_mm <= 0:
            diameter_mm = EXCLUDED_DIAMETER_MM
        return CandidateInfoTuple(False, True, None, diameter_mm, fields[0], parse_center(fields))

    return [
        parse_row(csv_path, line, fields, parse)
        for line, fields in read_rows(csv_path, POSITION_COLUMNS, optional_columns=("diameter_mm",))
        if present_on_disk is None or fields[0] in present_on_disk
    ]


def read_rows(
    csv_path: Path, columns: Sequence[str], optional_columns: Sequence[str] = ()
) -> Iterator[tuple[int, list[str]]]:
    """Line number and the fields of `columns`, in their order, for every row; then those of the optional ones, if any.

    Blanks around a field are no part of it. A column that is optional and missing gives empty texts. A file whose name
    ends in .gz is unpacked while it is read.
    Raises: InputError if the file or a column is missing, or a row has more or fewer fields than the header.
    """
    with open_text(csv_path) as file:
        reader = csv.reader(file)
        header = read_header_line(reader)
        missing = [column for column in columns if column not in header]
        if missing:
            raise InputError(f"{csv_path}: no column {', '.join(missing)}; its first line must name the columns")
        wanted = [*columns, *optional_columns]
        positions = [header.index(column) if column in header else None for column in wanted]
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{csv_path}, line {reader.line_num}: {len(row)} fields, the header has {len(header)}; "
                    "correct or remove the row"
                )
            yield reader.line_num, ["" if position is None else row[position].strip() for position in positions]


def read_columns(csv_path: Path) -> list[str]:
    """The names of a file's columns. Raises: InputError if it cannot be read."""
    with open_text(csv_path) as file:
        return read_header_line(csv.reader(file))


def read_header_line(rows: Iterator[list[str]]) -> list[str]:
    return [name.strip() for name in next(rows, [])]


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file of the data set; unpack it if its name ends in .gz.

    Raises: InputError, naming the file, if it is missing or cannot be read; while it is read, too.
    """
    try:
        open_file = gzip.open if path.suffix == ".gz" else open
        with open_file(path, "rt", newline="", encoding="utf-8-sig") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; LUNA16's {path.name} belongs there") from None
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path}: not a CSV file ({one_line(error)}); download it again") from None


def parse_row(csv_path: Path, line: int, fields: Sequence[str], parse: Callable[[Sequence[str]], T]) -> T:
    try:
        return parse(fields)
    except ValueError as error:
        raise InputError(f"{csv_path}, line {line}: {error}; correct or remove the row") from None


def parse_center(fields: Sequence[str]) -> XyzTuple:
    center_xyz = XyzTuple(*(parse_number(text) for text in fields[1:4]))
    if max(map(abs, center_xyz)) > ORIGIN_LIMIT_MM:
        raise ValueError(f"({', '.join(fields[1:4])}) mm is no place in a scan")
    return center_xyz


def parse_number(text: str) -> float:
    try:
        value = float(text.replace("_", " _"))  # Python alone takes 1_0 for 10
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value


def parse_malignancy(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError(f"mal_bool is {text!r}; it can be True or False")
    return text == "True"
