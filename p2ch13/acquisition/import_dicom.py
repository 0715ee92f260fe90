"""Convert the CT series in a folder of DICOM files, such as LIDC-IDRI's, to scans in LUNA16's layout."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2ch13.config import ImportOptions
from p2ch13.labels.candidates import ANNOTATIONS_FILE, MALIGNANCY_FILE
from p2ch13.labels.patients import PATIENT_COLUMNS, PATIENTS_FILE, number_patients, read_patients
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.files import atomic_write, check_free_disk, make_writable_folder, write_csv
from p2ch13.util.processes import map_in_processes
from p2ch13.util.progress import progress_bar
from p2ch13.volumes.dicom import check_no_damage, has_dicom_magic, list_series, read_series
from p2ch13.volumes.files import file_signature, list_scan_files, read_header, read_hu, scan_name
from p2ch13.volumes.headers import ScanHeader

log = logging.getLogger(__name__)

UID = re.compile(r"[0-9]+(\.[0-9]+)*")
UID_LENGTH = 64


@dataclass(frozen=True)
class SeriesImport:
    """A CT series, and the header file to convert it to."""

    folder: Path
    series_uid: str
    files: tuple[Path, ...]
    target: Path
    patient_id: str  # never written: `patients.csv` has running numbers

    @property
    def comment(self) -> str:
        """The target header's comment, which identifies the DICOM files to detect a change."""
        signature = json.dumps([file_signature(file) for file in sorted(self.files)])
        return f"{len(self.files)} DICOM files, {hashlib.sha256(signature.encode()).hexdigest()}"


@dataclass
class Search:
    """Series and errors found in folders."""

    series: dict[str, SeriesImport] = field(default_factory=dict)  # by UID
    errors: list[InputError] = field(default_factory=list)
    other_count: int = 0  # series of other modalities


def import_folder(options: ImportOptions) -> int:
    """Import the DICOM series of a folder; name and skip one that cannot be read.

    Returns: the exit status, 1 if a series was skipped.
    Raises: InputError if there is no CT series, or not one can be imported.
    """
    folder, data_dir = options.folder, options.data_dir
    if find_spec("pydicom") is None:  # an optional dependency
        raise InputError("importing DICOM needs pydicom; pip install pydicom")
    if not folder.is_dir():
        raise InputError("no such folder; is it spelled right?", path=folder)
    make_writable_folder(data_dir, "--data-dir")
    target_folder = data_dir / options.subset_folder
    search = search_folders(folder, target_folder)
    total = len(search.series) + len(search.errors)
    if total == 0:
        raise InputError("no CT series in this folder; give one that holds it", path=folder)
    scans = {scan_name(path): path for path in list_scan_files(data_dir)}
    to_do = [series for series in search.series.values() if not is_imported(series, scans)]
    there_count = len(search.series) - len(to_do)
    log.info(
        f"{folder}: {total} CT series, {there_count} of them in {data_dir} already; "
        f"{search.other_count} series of other kinds are ignored."
    )
    room = sum(file.stat().st_size for series in to_do for file in series.files)
    check_free_disk(data_dir, room, "importing this", "--data-dir")
    try:
        errors = [*search.errors, *import_all(to_do, options.num_workers)]
    finally:
        write_patients(target_folder / PATIENTS_FILE, [each for each in search.series.values() if each.target.exists()])
    for error in errors:
        log.warning(f"Skipped: {one_line(error)}")
    if len(errors) == total:
        raise errors[0] if total == 1 else InputError(f"none of {total} series could be imported, see above")
    log.info(f"Imported {total - there_count - len(errors)} scans, skipped {len(errors)}: {target_folder}")
    report_annotations(data_dir)
    return EXIT_SKIPPED if errors else EXIT_DONE


def write_patients(path: Path, imported: Sequence[SeriesImport]) -> None:
    """Add the series to `patients.csv`, so that a split keeps the scans of a patient together.

    It has neither the patients' IDs nor a hash of them, from which one who guesses an ID could confirm it. A patient's
    number stays in later imports of a folder that has one of the patient's earlier series too.
    Raises: InputError if an earlier file cannot be read.
    """
    if not imported:
        return
    earlier = read_patients(path) if path.exists() else {}
    numbers = number_patients({each.series_uid: each.patient_id for each in imported}, earlier)
    if numbers != earlier:
        write_csv(path, PATIENT_COLUMNS, numbers.items())


def report_annotations(data_dir: Path) -> None:
    if not any((data_dir / name).exists() for name in (ANNOTATIONS_FILE, MALIGNANCY_FILE)):
        log.info(
            f"{data_dir} has no {ANNOTATIONS_FILE}: training and evaluation need it (`python -m p2ch13.download "
            "--subset` downloads LUNA16's), or masks in masks/ and --labels mask."
        )


def search_folders(folder: Path, target_folder: Path) -> Search:
    """Find CT series at any depth of a folder."""
    folders = [folder, *sorted(path for path in folder.rglob("*/") if path.is_dir())]
    search = Search()
    with progress_bar(len(folders), "Searching", "folder") as bar:
        for one in folders:
            search_folder(search, one, target_folder)
            bar.update()
    return search


def search_folder(search: Search, folder: Path, target_folder: Path) -> None:
    listed = list_series(folder)
    others = find_others(folder, listed)
    kinds = {uid: read_kind(files[0]) for uid, files in listed.items()}
    ct_series = {uid: files for uid, files in listed.items() if kinds[uid].modality == "CT"}
    search.other_count += len(set(others.values())) + len(listed) - len(ct_series)
    try:
        check_no_damage(folder, {**listed, "": list(others)})
    except InputError as error:
        search.errors.append(error)
        return
    for uid, files in ct_series.items():
        if UID.fullmatch(uid) is None or len(uid) > UID_LENGTH:
            search.errors.append(InputError(f"{uid!r} is no series UID; correct it and try again", path=files[0]))
        elif uid in search.series:
            other = search.series[uid].folder
            search.errors.append(InputError(f"same series as in {other}; remove one of the two", path=folder))
        else:
            target = target_folder / f"{uid}.mhd"
            search.series[uid] = SeriesImport(folder, uid, tuple(files), target, kinds[uid].patient_id)


def find_others(folder: Path, listed: dict[str, list[Path]]) -> dict[Path, str]:
    """Find DICOM files without pixels, such as reports, and their series UIDs; `list_series` skips them."""
    known = {file for files in listed.values() for file in files}
    unlisted = [file for file in sorted(folder.iterdir()) if file.is_file() and file not in known]
    kinds = {file: read_kind(file) for file in unlisted if has_dicom_magic(file)}
    return {file: kind.series_uid for file, kind in kinds.items() if kind.modality != "CT"}


class Kind(NamedTuple):
    """What a DICOM file is of."""

    modality: str = "CT"
    series_uid: str = ""
    patient_id: str = ""


def read_kind(file: Path) -> Kind:
    """Read the kind of a DICOM file; an unreadable one counts as CT, to be reported as damaged."""
    from pydicom import dcmread
    from pydicom.config import disable_value_validation

    try:
        with disable_value_validation():  # it would print warnings of several lines
            data = dcmread(file, stop_before_pixels=True, specific_tags=["Modality", "SeriesInstanceUID", "PatientID"])
            values = (data.get("Modality", "CT"), data.get("SeriesInstanceUID", ""), data.get("PatientID", ""))
            return Kind(*(str(value).strip() for value in values))
    except Exception:  # pydicom raises nearly anything for a damaged file
        return Kind()


def is_imported(series: SeriesImport, elsewhere: dict[str, Path]) -> bool:
    """Return whether the scan exists: converted from these files, or from another source such as LUNA16."""
    path = elsewhere.get(series.series_uid)
    if path != series.target:
        return path is not None
    try:
        read_header(path)
        return series.comment.encode() in path.read_bytes()
    except InputError:
        return False


def import_all(to_do: Sequence[SeriesImport], worker_count: int) -> list[InputError]:
    """Import series in worker processes. Returns: the errors of those that cannot be read, sorted by file."""
    errors: list[InputError] = []
    if not to_do:
        return errors
    try:
        for future in map_in_processes(import_series, to_do, min(worker_count, len(to_do)), "Importing", "scan"):
            try:
                future.result()
            except InputError as error:
                errors.append(error)
    except KeyboardInterrupt:
        log.info("Imported scans are kept; start again to continue.")
        raise
    return sorted(errors, key=str)


def import_series(series: SeriesImport) -> None:
    """Write a series as .mhd and .raw. Raises: InputError if its slices do not make up a scan."""
    header = read_series(series.folder, series.series_uid, series.files)
    voxels = read_hu(header)
    series.target.unlink(missing_ok=True)  # no old header may exist beside new voxels
    data_file = series.target.with_name(f"{series.series_uid}.raw")
    with atomic_write(data_file) as file:
        file.write(np.ascontiguousarray(voxels, dtype="<i2").data)
    with atomic_write(series.target) as file:
        file.write(metaimage_header(header, data_file.name, series.comment).encode("ascii"))


def metaimage_header(header: ScanHeader, data_file: str, comment: str) -> str:
    """Format an .mhd; its matrix has an axis in each row. Source: https://itk.org/Wiki/ITK/MetaIO/Documentation"""
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "Comment": comment,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": join(header.direction.T),
        "Offset": join(header.origin_xyz),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": join(header.vx_size_xyz),
        "DimSize": " ".join(str(size) for size in reversed(header.shape_irc)),
        "ElementType": "MET_SHORT",
        "ElementDataFile": data_file,
    }
    return "".join(f"{key} = {value}\n" for key, value in fields.items())


def join(numbers: NDArray[np.float64]) -> str:
    """Format numbers with all their digits."""
    return " ".join(repr(float(number)) for number in numbers.flat)
