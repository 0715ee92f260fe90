"""Write phantoms as files in the LUNA16 layout, in several processes."""

from __future__ import annotations

import gzip
import struct
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from p2ch13.phantom.scan import Phantom, make_phantom
from p2ch13.phantom.uids import series_uid
from p2ch13.util.errors import InputError
from p2ch13.util.files import FileName, atomic_write, write_csv
from p2ch13.util.processes import map_in_processes

SCANS_PER_SUBSET = 10
MASK_FOLDER = "masks"
CSV_NAMES = ("annotations.csv", "annotations_with_malignancy.csv", "candidates.csv")
ANNOTATION_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
MALIGNANCY_COLUMNS = (
    *ANNOTATION_COLUMNS,
    *("mal_bool", "mal_details"),
    *("bboxLowX", "bboxLowY", "bboxLowZ", "bboxHighX", "bboxHighY", "bboxHighZ", "len_mal_details"),
)
CANDIDATE_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "class")
SUSPICIOUS = 4  # of 1..5; a nodule so rated by two readers is malignant, as in the book's file

Row = tuple[object, ...]


@dataclass(frozen=True)
class ScanRecord:
    """The CSV rows of one scan, and the size of its voxels and mask."""

    nodules: list[Row]  # in MALIGNANCY_COLUMNS
    candidates: list[Row]  # in CANDIDATE_COLUMNS
    byte_count: int


@dataclass(frozen=True)
class Summary:
    """The written files' counts."""

    scans: int
    nodules: int
    megabytes: float
    seconds: float


def write_phantoms(
    out_dir: FileName,
    scan_count: int,
    seed: int = 0,
    num_workers: int = 1,
    pixels: int | None = None,
    slice_count: int | None = None,
) -> Summary:
    """Write a data set of synthetic chest CT scans; a file depends neither on `num_workers` nor on later scans.

    Each scan `subset*/<series UID>.mhd` has a mask of its nodules, `masks/<series UID>.nii.gz`.

    Args:
        out_dir: created if missing; must not contain scans, masks or CSV files.
        scan_count: at least 1; ten scans to a subset.
        num_workers: processes, at least 1.
        pixels, slice_count: a fixed size for all scans; None draws sizes as in LUNA16.
    Raises: InputError if the folder is in use.
    """
    started, out_dir = time.monotonic(), Path(out_dir)
    check_unused(out_dir)
    work = partial(write_scan, out_dir, seed, pixels, slice_count)
    futures = map_in_processes(work, range(scan_count), min(num_workers, scan_count), "Writing phantoms", "scan")
    records = dict(future.result() for future in futures)
    in_order = [records[index] for index in range(scan_count)]
    nodules = [row for record in in_order for row in record.nodules]
    write_csv(out_dir / CSV_NAMES[0], ANNOTATION_COLUMNS, [row[: len(ANNOTATION_COLUMNS)] for row in nodules])
    write_csv(out_dir / CSV_NAMES[1], MALIGNANCY_COLUMNS, nodules)
    write_csv(out_dir / CSV_NAMES[2], CANDIDATE_COLUMNS, [row for record in in_order for row in record.candidates])
    megabytes = sum(record.byte_count for record in in_order) / 1e6
    return Summary(scan_count, len(nodules), megabytes, time.monotonic() - started)


def check_unused(out_dir: Path) -> None:
    """Raises: InputError if the folder contains scans, masks or CSV files, which must not be mixed with new ones."""
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError("not a folder; choose another", path=out_dir)
    for pattern in ("*.csv", "*.mhd", "subset*/*.mhd", "subset*/*.raw", MASK_FOLDER):
        found = next(out_dir.glob(pattern), None)
        if found is not None:
            raise InputError(f"already contains {found.name}; choose another folder, or delete this one", path=out_dir)


def write_scan(
    out_dir: Path, seed: int, pixels: int | None, slice_count: int | None, index: int
) -> tuple[int, ScanRecord]:
    """Make and write one scan, its header last, so that no header exists without its voxels and mask."""
    uid = series_uid(seed, index)
    phantom = make_phantom(seed, index, pixels, slice_count)
    folder = out_dir / f"subset{index // SCANS_PER_SUBSET}"
    with atomic_write(folder / f"{uid}.raw") as file:
        for image in phantom.hu:
            file.write(image.astype("<i2").tobytes())
    mask_bytes = gzip.compress(nifti_header(phantom) + phantom.mask.astype(np.uint8).tobytes(), mtime=0)
    with atomic_write(out_dir / MASK_FOLDER / f"{uid}.nii.gz") as file:
        file.write(mask_bytes)
    with atomic_write(folder / f"{uid}.mhd") as file:
        file.write(header_text(phantom, f"{uid}.raw").encode())
    byte_count = phantom.hu.nbytes + len(mask_bytes)
    return index, ScanRecord(nodule_rows(uid, phantom), candidate_rows(uid, phantom), byte_count)


def header_text(phantom: Phantom, data_name: str) -> str:
    """Format a MetaImage header as in LUNA16."""
    turn = phantom.direction_xy
    slices, rows, cols = phantom.hu.shape
    fields = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": False,
        "TransformMatrix": f"{turn} 0 0 0 {turn} 0 0 0 1",
        "Offset": " ".join(f"{value:.9g}" for value in phantom.origin_xyz),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI" if turn == 1 else "LPI",
        "ElementSpacing": " ".join(f"{value:.9g}" for value in phantom.spacing_xyz),
        "DimSize": f"{cols} {rows} {slices}",
        "ElementType": "MET_SHORT",
        "ElementDataFile": data_name,
    }
    return "".join(f"{name} = {value}\n" for name, value in fields.items())


def nifti_header(phantom: Phantom) -> bytes:
    """Format the NIfTI-1 header of a mask, uint8 0 and 1, in the scan's order and geometry.

    SimpleITK would write the file as well, but leaves an incomplete one without an error if the disk is full.
    Source: nifti1.h, whose x and y run to the right and to the front.
    """
    slices, rows, cols = phantom.mask.shape
    x_mm, y_mm, z_mm = phantom.spacing_xyz
    x, y, z = phantom.origin_xyz
    turn = phantom.direction_xy
    return struct.pack(
        "<i 36x 8h 14x 2h 2x 8f 3f 3x b 128x 2h 24x 12f 16x 4s 4x",
        348,  # bytes of the header itself
        *(3, cols, rows, slices, 1, 1, 1, 1),  # dim
        *(2, 8),  # datatype, uint8, and its bits
        *(1, x_mm, y_mm, z_mm, 1, 1, 1, 1),  # pixdim
        *(352, 1, 0),  # first byte of the voxels, slope and intercept of their values
        2,  # mm
        *(0, 1),  # no quaternion, but the rows of a matrix, in the scanner's coordinates
        *(-turn * x_mm, 0, 0, -x, 0, -turn * y_mm, 0, -y, 0, 0, z_mm, z),
        b"n+1\0",
    )


def nodule_rows(uid: str, phantom: Phantom) -> list[Row]:
    """Make a scan's rows of annotations_with_malignancy.csv; the first columns are those of annotations.csv."""
    rows: list[Row] = []
    for nodule, center in zip(phantom.nodules, phantom.nodule_xyz, strict=True):
        half = nodule.diameter_mm / 2
        malignant = sum(score >= SUSPICIOUS for score in nodule.malignancy) >= 2
        box = (*np.round(center - half, 4).tolist(), *np.round(center + half, 4).tolist())
        place = np.round(center, 4).tolist()
        scores = list(nodule.malignancy)
        rows.append((uid, *place, round(nodule.diameter_mm, 4), malignant, scores, *box, len(scores)))
    return rows


def candidate_rows(uid: str, phantom: Phantom) -> list[Row]:
    """Make a scan's rows of candidates.csv."""
    spots = [(xyz, 1) for xyz in phantom.positive_xyz] + [(xyz, 0) for xyz in phantom.negative_xyz]
    return [(uid, *np.round(xyz, 3).tolist(), is_nodule) for xyz, is_nodule in spots]
