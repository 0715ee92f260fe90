"""Which scans are of one patient."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import count
from pathlib import Path

from p2ch13.labels.luna25 import LUNA25_FILE, read_luna25_patients
from p2ch13.labels.tables import SERIES, read_table
from p2ch13.util.errors import InputError
from p2ch13.util.tables import Column, Row

PATIENTS_FILE = "patients.csv"
PATIENT = Column("patient", ("patientid",))
PATIENT_COLUMNS = (SERIES.name, PATIENT.name)
# The only two of LUNA16's 888 series that are of one patient: LIDC-IDRI-0332, by LIDC-IDRI's list of scans.
LUNA16_PATIENT = dict.fromkeys(
    (
        "1.3.6.1.4.1.14519.5.2.1.6279.6001.159996104466052855396410079250",
        "1.3.6.1.4.1.14519.5.2.1.6279.6001.316900421002460665752357657094",
    ),
    "LIDC-IDRI-0332",
)


def find_patients(data_dir: Path, series_list: Collection[str]) -> dict[str, str]:
    """Find the patient of each series: by `patients.csv` in the data folder and its subset*/ or LUNA25's CSV file.

    A series that none of them names is of a patient of its own. Each file counts its own patients: one number in two
    files is two of them.
    Raises: InputError if a file cannot be read, or two of them name one series.
    """
    scans, luna25_file = set(series_list), data_dir / LUNA25_FILE
    known = LUNA16_PATIENT | (read_luna25_patients(luna25_file, scans) if luna25_file.is_file() else {})
    listed = dict(known)
    for path in sorted([*data_dir.glob(PATIENTS_FILE), *data_dir.glob(f"subset*/{PATIENTS_FILE}")]):
        for series_uid, number in read_patients(path, scans).items():
            if series_uid in listed and series_uid not in known:
                raise InputError(f"series {series_uid} is in another {PATIENTS_FILE} too; remove one row", path=path)
            listed[series_uid] = f"{path.relative_to(data_dir)}: {number}"
    return {series_uid: listed.get(series_uid, series_uid) for series_uid in series_list}


def number_patients(patient_ids: Mapping[str, str], earlier: Mapping[str, str]) -> dict[str, str]:
    """Give each patient a running number, which tells nothing of the patient.

    Args:
        patient_ids: series UID -> what names the patient; series without are of a patient of their own.
        earlier: series UID -> number, of an earlier call; these stay.
    Returns: series UID -> number, those of `earlier` first.
    """
    numbers = dict(earlier)
    of_patient = {patient_ids[uid]: number for uid, number in earlier.items() if patient_ids.get(uid)}
    free = count(1 + max((int(number) for number in earlier.values() if number.isdecimal()), default=0))
    for series_uid, patient_id in patient_ids.items():
        if series_uid not in numbers:
            numbers[series_uid] = of_patient.get(patient_id) or str(next(free))
            if patient_id:
                of_patient[patient_id] = numbers[series_uid]
    return numbers


def read_patients(path: Path, scans: Collection[str] | None = None) -> dict[str, str]:
    """Read series UID -> patient of a `patients.csv`, with the columns `seriesuid` and `patient`.

    Args: scans: the series on disk, None reads all.
    Raises: InputError, naming file and line, for an empty field or a series of two patients.
    """
    patients: dict[str, str] = {}

    def parse(row: Row) -> tuple[str, str]:
        series_uid, patient = row[SERIES.name], row[PATIENT.name]
        if not patient or patients.setdefault(series_uid, patient) != patient:
            raise ValueError(f"series {series_uid} of patient {patient!r} is empty or another patient's before")
        return series_uid, patient

    return dict(read_table(path, (SERIES, PATIENT), parse, scans))
