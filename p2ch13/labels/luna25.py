"""Read the public annotations of LUNA25: centers and malignancy of nodules in scans of NLST, without diameters."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.tables import POSITION, SERIES, parse_center, parse_rows, read_table
from p2ch13.util.errors import InputError
from p2ch13.util.tables import Column, Row

LUNA25_FILE = "LUNA25_Public_Training_Development_Data.csv"
LUNA25_DIAMETER_MM = 10.0  # of every nodule, since none was published: a finding within 5 mm of its center is a hit
PATIENT, LABEL = Column("PatientID"), Column("label")  # 1 if malignant


def read_luna25(csv_path: Path, present_on_disk: Collection[str] | None = None) -> list[CandidateInfoTuple]:
    """Read the nodules; an empty label is an unknown one.

    Coordinates are mm, patient coordinates (LPS), as LUNA16's.

    Args: present_on_disk: skip other series; None reads all.
    Raises: InputError for a missing file or column or an invalid row.
    """

    def parse(row: Row) -> CandidateInfoTuple:
        is_mal, series_uid = row.flag(LABEL.name), row[SERIES.name]
        return CandidateInfoTuple(True, True, is_mal, LUNA25_DIAMETER_MM, series_uid, parse_center(row))

    return read_table(csv_path, (*POSITION, LABEL), parse, present_on_disk)


def read_luna25_patients(csv_path: Path, scans: Collection[str] | None = None) -> dict[str, str]:
    """Read the patient of each series, for a split by patient: a patient has up to three scans, a year apart.

    Raises: InputError as for `read_luna25`, and for a series of two patients.
    """
    patients: dict[str, str] = {}

    def parse(row: Row) -> None:
        series_uid, patient = row[SERIES.name], row[PATIENT.name]
        if patients.setdefault(series_uid, patient) != patient:
            raise ValueError(f"series {series_uid} is of patient {patients[series_uid]} in another row")

    for _ in parse_rows(csv_path, (SERIES, PATIENT), parse, scans):
        pass  # a patient's rows are one for each nodule
    return patients


def no_diameters(csv_path: Path) -> InputError:
    message = "it has no diameters, which --labels refined needs; use --labels box, or mask with masks"
    return InputError(message, path=csv_path, option="--labels")
