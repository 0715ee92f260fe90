"""Read the public annotations of LUNA25: centers and malignancy of nodules in scans of NLST, without diameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from p2ch13.labels.candidates import CandidateInfoTuple, parse_center, read_table
from p2ch13.util.errors import InputError

LUNA25_FILE = "LUNA25_Public_Training_Development_Data.csv"
LUNA25_DIAMETER_MM = 10.0  # of every nodule, since none was published: a finding within 5 mm of its center is a hit
COLUMNS = ("SeriesInstanceUID", "CoordX", "CoordY", "CoordZ")
PATIENT_COLUMN = "PatientID"
MALIGNANCY = {"0": False, "1": True}


def read_luna25(csv_path: Path, present_on_disk: Collection[str] | None = None) -> list[CandidateInfoTuple]:
    """Read the nodules; a row that repeats another one's series, center and label is one nodule.

    Coordinates are mm, patient coordinates (LPS), as LUNA16's.

    Args: present_on_disk: skip other series; None reads all.
    Raises: InputError for a missing file or column or an invalid row.
    """

    def parse(row: Mapping[str, str]) -> CandidateInfoTuple:
        if row["label"] not in MALIGNANCY:
            raise ValueError(f"label {row['label']!r} instead of 0 or 1")
        center_xyz = parse_center(row, COLUMNS[1:])
        return CandidateInfoTuple(True, True, MALIGNANCY[row["label"]], LUNA25_DIAMETER_MM, row[COLUMNS[0]], center_xyz)

    return list(dict.fromkeys(read_table(csv_path, (*COLUMNS, "label"), parse, present_on_disk)))


def read_luna25_patients(csv_path: Path) -> dict[str, str]:
    """Read the patient of each series, for a split by patient: a patient has up to three scans, a year apart.

    Raises: InputError as for `read_luna25`, and for a series of two patients.
    """
    patients: dict[str, str] = {}

    def parse(row: Mapping[str, str]) -> None:
        series_uid, patient = row[COLUMNS[0]], row[PATIENT_COLUMN]
        if patients.setdefault(series_uid, patient) != patient:
            raise ValueError(f"series {series_uid} is of patient {patients[series_uid]} in another row")

    read_table(csv_path, (COLUMNS[0], PATIENT_COLUMN), parse)
    return patients


def no_diameters(csv_path: Path) -> InputError:
    message = "it has no diameters, which --labels refined needs; use --labels box, or mask with masks"
    return InputError(message, path=csv_path, option="--labels")
