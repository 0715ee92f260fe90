"""A scan's own folder, where its files go without --output."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

from p2ch13.config import IMAGE_FORMATS
from p2ch13.detection.dicom.writer import ENDINGS as DICOM_ENDINGS
from p2ch13.detection.outputs import NODULES_FILE
from p2ch13.labels.mask import check_geometry
from p2ch13.util.errors import InputError
from p2ch13.util.files import make_writable_folder
from p2ch13.volumes.volume import Volume

FOLDER_ENDING = "_nodules"
REPORT_ENDING, REPORT_JSON_ENDING, VIEWER_ENDING = "_report.html", "_report.json", "_viewer.html"
SCAN_ENDING = "_scan.txt"  # the scan's path
IMAGE_ENDINGS = tuple(f"_{kind}.{suffix}" for kind, suffix in product(("mask", "probability"), IMAGE_FORMATS))
OTHER_ENDINGS = (VIEWER_ENDING, SCAN_ENDING, REPORT_JSON_ENDING, "_findings.mrk.json", "_overlay.png")
ENDINGS = (*IMAGE_ENDINGS, *DICOM_ENDINGS.values(), REPORT_ENDING, *OTHER_ENDINGS)


def name_folder(name: str) -> Path:
    return Path(f"{name}{FOLDER_ENDING}")


def choose_folder(name: str, scan: Volume) -> Path:
    """Name a scan's own folder, below the current one: a new one, or that of an earlier search of this scan.

    Args: name: of the scan's files, see `ScanInput`.
    Raises: InputError if the folder holds other files, or the mask of another scan of this name.
    """
    folder = name_folder(name)
    if folder.name != str(folder):  # a DICOM file's series UID is any text
        raise InputError(f"{name!r} is no folder's name; name one with --output", path=scan.header.path)
    if folder.is_dir():
        check_own(folder, name, scan)
        make_writable_folder(folder, "--output")
    elif folder.exists():
        raise InputError("no folder; choose one with --output", path=folder, option="--output")
    return folder


def check_own(folder: Path, name: str, scan: Volume) -> None:
    """Raises: InputError unless a folder is empty, or holds a scan's mask and nothing but the scan's files.

    A mask with another geometry is that of another scan of this name. Hidden files belong to the system.
    """
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    own_names = {NODULES_FILE, *(f"{name}{ending}" for ending in ENDINGS)}
    foreign = [path.name for path in files if path.name not in own_names or not path.is_file()]
    masks = [path for path in files if path.name.startswith(f"{name}_mask.") and path.name in own_names]
    if foreign or (files and not masks):
        message = f"holds {(foreign or [files[0].name])[0]}, so is no earlier result; choose another with --output"
        raise InputError(message, path=folder, option="--output")
    for path in masks:
        try:
            check_geometry(Volume(path), scan)
        except InputError:
            message = f"{path.name} in it is not of {scan.header.path}; choose another folder with --output"
            raise InputError(message, path=folder, option="--output") from None


def is_own_folder(folder: Path) -> bool:
    """Tell whether a folder is a scan's own and holds DICOM objects of its findings, which are no scan."""
    name = folder.name.removesuffix(FOLDER_ENDING)
    return name != folder.name and any((folder / f"{name}{ending}").is_file() for ending in DICOM_ENDINGS.values())


def write_scan_path(path: Path, scan: Path, folder: Path) -> None:
    """Write where a scan was read, for the viewer: relative to the folder that the file will be in, if it can be.

    It is the only file of a result that has a path, which may name the patient: it is left out of what is passed on.
    """
    try:
        relative = os.path.relpath(scan.resolve(), folder.resolve())
    except ValueError:  # another drive of Windows
        relative = str(scan.resolve())
    path.write_bytes(os.fsencode(relative) + b"\n")


def read_scan_path(path: Path) -> Path:
    """Read a path that `write_scan_path` wrote. Raises: InputError if the file or the scan is not there."""
    try:
        scan = path.parent / os.fsdecode(path.read_bytes().rstrip(b"\r\n"))
    except OSError:
        raise InputError("no such file, so where is the scan? Name it with --scan", path=path) from None
    if not scan.exists():
        raise InputError(f"the scan is no longer at {scan}; name it with --scan", path=path)
    return scan
