"""LUNA16's files: addresses, sizes, numbers of scans and rows.

Source: https://zenodo.org/records/3723295 (subsets 0 to 6, CSV files) and https://zenodo.org/records/4121926 (subsets
7 to 9); https://luna16.grand-challenge.org/Data.
"""

from __future__ import annotations

from dataclasses import dataclass

PART_1, PART_2 = "3723295", "4121926"


@dataclass(frozen=True)
class CsvFacts:
    """A CSV file's name, columns, and numbers of rows and, if known, of series."""

    name: str
    columns: tuple[str, ...]
    row_count: int
    series_count: int | None = None


POSITION = ("seriesuid", "coordX", "coordY", "coordZ")
ANNOTATIONS = CsvFacts("annotations.csv", (*POSITION, "diameter_mm"), 1186, 601)
CANDIDATES = CsvFacts("candidates.csv", (*POSITION, "class"), 551_065)
CANDIDATES_V2 = CsvFacts("candidates_V2.csv", (*POSITION, "class"), 754_975)
# The book's, made from LUNA16 and LIDC-IDRI; not part of LUNA16.
MALIGNANCY = CsvFacts(
    "annotations_with_malignancy.csv", (*POSITION, "diameter_mm", "mal_bool", "mal_details"), 1182, 600
)


@dataclass(frozen=True)
class RemoteFile:
    """A file to download; size and MD5 are None if unknown."""

    name: str  # on the server
    record: str  # on Zenodo
    size: int | None = None  # bytes
    md5: str | None = None
    subset: int | None = None  # number of the subset in the archive
    scan_count: int = 0  # of the subset
    csv: CsvFacts | None = None  # the CSV file that it is or contains

    @property
    def is_archive(self) -> bool:
        return self.name.endswith(".zip")

    def url(self, mirror: str | None = None) -> str:
        """Return its address; a mirror has all files in one folder."""
        if mirror is not None:
            return f"{mirror.rstrip('/')}/{self.name}"
        return f"https://zenodo.org/api/records/{self.record}/files/{self.name}/content"


FILES = (
    RemoteFile("annotations.csv", PART_1, 136_986, "f4404df491aee6445a4485061bfdffdd", csv=ANNOTATIONS),
    # LUNA16's organizers advise against the first list, candidates.csv.
    RemoteFile("candidates_V2.zip", PART_1, csv=CANDIDATES_V2),
    RemoteFile("subset0.zip", PART_1, 6_811_924_508, "1065b0f42b8c25cf29260fd924a3c3a2", 0, 89),
    RemoteFile("subset1.zip", PART_1, 6_334_778_552, "2eda28bb123543074f5cd849499b87ff", 1, 89),
    RemoteFile("subset2.zip", PART_1, 7_257_937_108, "685b484b085bcdb81c525f3b1bf97c51", 2, 89),
    RemoteFile("subset3.zip", PART_1, 6_896_620_114, "54707e9e8954af29326eed60f38ea321", 3, 89),
    RemoteFile("subset4.zip", PART_1, 6_856_144_330, "98225ccb1a41fc434631f63f4284796a", 4, 89),
    RemoteFile("subset5.zip", PART_1, 6_610_460_097, "395ec714c4123cf213fb7b08f05ee9cc", 5, 89),
    RemoteFile("subset6.zip", PART_1, 6_531_050_274, "d162df1444a6f2674ab8273c7f9e1520", 6, 89),
    RemoteFile("subset7.zip", PART_2, 6_313_598_213, "e99b8921990d1414bb5e92130371e8a3", 7, 89),
    RemoteFile("subset8.zip", PART_2, 6_025_767_505, "38260ca9a8741888997bcebedfabc3f1", 8, 88),
    RemoteFile("subset9.zip", PART_2, 6_699_650_017, "e55c473bbeebd712eb2224a58998be8e", 9, 88),
)
