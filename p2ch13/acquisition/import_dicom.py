"""Convert the CT series in a folder of DICOM files, such as LIDC-IDRI's, to scans in LUNA16's layout."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from p2ch13.commands import spell
from p2ch13.config import ImportOptions
from p2ch13.labels.candidates import ANNOTATIONS_FILE, MALIGNANCY_FILE
from p2ch13.labels.patients import PATIENT_COLUMNS, PATIENTS_FILE, number_patients, read_patients
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.files import atomic_write, check_free_disk, make_writable_folder, write_csv
from p2ch13.util.outcome import Outcome
from p2ch13.util.process_rank import ProcessRank
from p2ch13.util.processes import map_in_processes
from p2ch13.volumes.dicom.search import find_series, holds_series
from p2ch13.volumes.dicom.series import Series
from p2ch13.volumes.dicom.volume import read_series
from p2ch13.volumes.files import file_signature, list_scan_files, read_header, read_hu, scan_name
from p2ch13.volumes.headers import ScanHeader

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeriesImport:
    """A CT series, and the header file to convert it to."""

    series: Series
    target: Path

    @property
    def comment(self) -> str:
        """The target header's comment, which identifies the DICOM files to detect a change."""
        files = sorted(self.series.files)
        signature = json.dumps([file_signature(file) for file in files])
        return f"{len(files)} DICOM files, {hashlib.sha256(signature.encode()).hexdigest()}"


@dataclass(frozen=True)
class Conversion:
    """What a worker process needs to convert a series: its slices in order, checked."""

    header: ScanHeader
    target: Path
    comment: str


def import_folder(options: ImportOptions, process: ProcessRank | None = None) -> Outcome:
    """Import the DICOM series of a folder or zip archive; name and skip one that cannot be read.

    Args: process: of those that torchrun started; each imports its share, and reports on its own.
    Returns: what was imported, and exit status 1 if a series was skipped.
    Raises: InputError if there is no CT series, or not one can be imported; for `--merge`, if some are not.
    """
    process = process or ProcessRank()
    folder, data_dir = options.folder, options.data_dir
    if not holds_series(folder):
        raise InputError("no folder of DICOM files; is it spelled right?", path=folder)
    make_writable_folder(data_dir, "--data-dir")
    target_folder = data_dir / options.subset_folder
    search = find_series(folder)
    search.choose()  # refuses where there is no series
    search.report_left_out()
    found = [SeriesImport(each, target_folder / f"{each.name}.mhd") for each in search.originals()]
    own = process.share(options.share(found))
    total = len(own)
    scans = {scan_name(path): path for path in list_scan_files(data_dir)}
    to_do = [each for each in own if not is_imported(each, scans)]
    if options.merge:
        check_all_imported(to_do, target_folder)
    prefix = "" if process.is_alone else f"Process {process.rank + 1} of {process.world_size}: "
    prefix = prefix or (f"Part {options.shard}: " if options.shard else "")
    log.info(f"{prefix}{folder}: {total} CT series, {total - len(to_do)} of them in {data_dir} already.")
    room = sum(one.pixels.frame_bytes for each in to_do for one in each.series.slices)
    check_free_disk(data_dir, room, "importing this", "--data-dir")
    try:
        errors = import_all(to_do, max(1, options.num_workers // process.local_world_size))
    finally:
        path, present = target_folder / PATIENTS_FILE, [each for each in found if each.target.exists()]
        is_alone = process.is_alone and not options.shard
        # Others that share the series write it too, each what all have imported until then.
        with nullcontext() if is_alone else FileLock(path.with_name(f".{path.name}.lock")):
            write_patients(path, present)
    for error in errors:
        log.warning(f"Skipped: {one_line(error)}")
    if errors and len(errors) == len(found):
        raise errors[0] if total == 1 else InputError(f"none of {total} series could be imported, see above")
    imported = [each.target for each in to_do if each.target.exists()]
    values = {
        "folder": target_folder,
        "series": total,
        "imported": imported,
        "skipped": [one_line(error) for error in errors],
    }
    lines = [f"{prefix}Imported {len(imported)} scans, skipped {len(errors)}: {target_folder}"]
    if process.is_first and not options.shard:
        lines += describe_lack(data_dir)
    # torchrun takes any other status for a failure and ends all processes, even those at work.
    return Outcome(lines, values, EXIT_SKIPPED if errors and process.is_alone else EXIT_DONE)


def check_all_imported(missing: Sequence[SeriesImport], target_folder: Path) -> None:
    """Raises: InputError if series are missing, for `--merge`."""
    if missing:
        counts = f"{len(missing)} series are not imported yet, such as {missing[0].series.name}"
        message = f"{counts}; run their jobs with --shard to the end"
        raise InputError(message, path=target_folder, option="--shard")


def write_patients(path: Path, imported: Sequence[SeriesImport]) -> None:
    """Add the series to `patients.csv`, so that a split keeps the scans of a patient together.

    It has neither the patients' IDs nor a hash of them, from which one who guesses an ID could confirm it. A patient's
    number stays in later imports of a folder that has one of the patient's earlier series too.
    Raises: InputError if an earlier file cannot be read.
    """
    if not imported:
        return
    earlier = read_patients(path) if path.exists() else {}
    numbers = number_patients({each.series.name: each.series.patient_id for each in imported}, earlier)
    if numbers != earlier:
        write_csv(path, PATIENT_COLUMNS, numbers.items())


def describe_lack(data_dir: Path) -> list[str]:
    """Say what training and evaluation need, if the folder lacks it."""
    if any((data_dir / name).exists() for name in (ANNOTATIONS_FILE, MALIGNANCY_FILE)):
        return []
    return [
        f"{data_dir} has no {ANNOTATIONS_FILE}: training and evaluation need it "
        f"(`{spell('download', '--subset')}` downloads LUNA16's), or masks in masks/ and --labels mask."
    ]


def is_imported(one: SeriesImport, elsewhere: dict[str, Path]) -> bool:
    """Return whether the scan exists: converted from these files, or from another source such as LUNA16."""
    path = elsewhere.get(one.series.name)
    if path != one.target:
        return path is not None
    try:
        read_header(path)
        return one.comment.encode() in path.read_bytes()
    except InputError:
        return False


def import_all(to_do: Sequence[SeriesImport], worker_count: int) -> list[InputError]:
    """Import series in worker processes. Returns: the errors of those that cannot be read, sorted by file."""
    errors: list[InputError] = []
    conversions = []
    for one in to_do:
        try:
            conversions.append(prepare(one))
        except InputError as error:
            errors.append(error)
    if not conversions:
        return sorted(errors, key=str)
    try:
        workers = min(worker_count, len(conversions))
        for future in map_in_processes(import_series, conversions, workers, "Importing", "scan"):
            try:
                future.result()
            except InputError as error:
                errors.append(error)
    except KeyboardInterrupt:
        log.info("Imported scans are kept; start again to continue.")
        raise
    return sorted(errors, key=str)


def prepare(one: SeriesImport) -> Conversion:
    """Check a series. Raises: InputError if its slices do not make up a scan, or it would replace another one.

    A scan that is named after its folder, for lack of a UID, may meet another of that name.
    """
    if not one.series.has_uid and one.target.exists() and one.comment.encode() not in one.target.read_bytes():
        message = f"another scan than this, which has no SeriesInstanceUID, or an earlier state of it, is {one.target}"
        raise InputError(f"{message}; remove that or give this one a UID, with dcmodify", path=one.series.folder)
    return Conversion(read_series(one.series), one.target, one.comment)


def import_series(conversion: Conversion) -> None:
    """Write a series as .mhd and .raw. Raises: InputError if its pixels cannot be read, or are no HU of a chest."""
    header, target = conversion.header, conversion.target
    voxels = read_hu(header)
    target.unlink(missing_ok=True)  # no old header may exist beside new voxels
    data_file = target.with_name(f"{header.series_uid}.raw")
    with atomic_write(data_file) as file:
        file.write(np.ascontiguousarray(voxels, dtype="<i2").data)
    with atomic_write(target) as file:
        file.write(metaimage_header(header, data_file.name, conversion.comment).encode())


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
