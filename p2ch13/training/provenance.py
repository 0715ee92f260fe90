"""Where a run comes from: versions, commit, data."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from p2ch13.config import CENTRES_ALONE, CropChoice
from p2ch13.data.index import ScanIndex
from p2ch13.labels.rules import LidcRule
from p2ch13.util.errors import errors_naming
from p2ch13.volumes.files import scan_signature
from p2ch13.volumes.formats import find_voxel_file

log = logging.getLogger(__name__)

PACKAGES = ("torch", "numpy", "SimpleITK", "p2ch13")
FINGERPRINT_VERSION = "v2"
BLOCK_COUNT, BLOCK_BYTES = 4, 4096  # what is read of each file for the fingerprint


def get_versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: get_version(name) for name in PACKAGES}}


def get_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # but run from its own folder


def get_commit(folder: Path = Path(__file__).parents[1]) -> str | None:
    """The commit of the code, with `+changes` if files are not as they were committed; None if it is in no repository.

    Args: folder: of the code.
    """
    if not ask_git(folder, "ls-files", "."):  # in a repository it may be, but be no part of it
        return None
    commit = ask_git(folder, "rev-parse", "HEAD")
    return commit and commit + ("+changes" if ask_git(folder, "status", "--porcelain") else "")


def ask_git(folder: Path, *arguments: str) -> str | None:
    """What git says; None if it is not there or has no answer."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def fingerprint_data(index: ScanIndex, series_list: Sequence[str], choice: CropChoice = CENTRES_ALONE) -> str:
    """A SHA-256 that tells one data set from another, behind the version of the way it is made.

    It is made of the series UIDs, the names, lengths and parts of the scans' files, their nodules, the way they are
    marked and the choice of crops; and, for negatives, of candidates and excluded findings. It is not made of the
    files' times, which change when they are copied.

    Args: choice: which crops are trained on.
    Raises: InputError if a file cannot be read.
    """
    digest = hashlib.sha256(json.dumps(asdict(choice)).encode())
    for series_uid in sorted(series_list):
        description = [
            series_uid,
            describe_scan(index.scans[series_uid]),
            describe_nodules(index, series_uid),
            describe_rule(index, series_uid),
            describe_negatives(index, series_uid) if choice.negatives else [],
        ]
        digest.update(json.dumps(description).encode())
    return f"{FINGERPRINT_VERSION}:{digest.hexdigest()}"


def renew_fingerprint(saved: str, current: str, index: ScanIndex, series_list: Sequence[str]) -> str:
    """A saved state's fingerprint, to be compared with the current one.

    Those of the first version have no version in front, and say less. Where all that they say is true of the data, this
    is the current one, and a warning says what was not compared. Any other is returned as it is.
    """
    if ":" in saved or saved != fingerprint_first_version(index, series_list):
        return saved
    log.warning(
        "The state to go on from is of an earlier version, which did not note candidates and voxels: whether they are "
        "those that the run began with is not known."
    )
    return current


def fingerprint_first_version(index: ScanIndex, series_list: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for series_uid in sorted(series_list):
        files = [[name, length] for name, length, _ in scan_signature(index.scans[series_uid])]
        rule = index.labels.rule_of(series_uid).key(index.nodules[series_uid])
        digest.update(json.dumps([series_uid, files, describe_nodules(index, series_uid), rule]).encode())
    return digest.hexdigest()


def describe_nodules(index: ScanIndex, series_uid: str) -> list[list[float]]:
    return [[*nodule.center_xyz, nodule.diameter_mm] for nodule in index.nodules[series_uid]]


def describe_negatives(index: ScanIndex, series_uid: str) -> list[list[Any]]:
    """The candidates that negatives are taken from, and the excluded findings, near which none is."""
    return [
        [candidate.center_xyz for candidate in index.non_nodules[series_uid]],
        [[*finding.center_xyz, finding.diameter_mm] for finding in index.excluded[series_uid]],
    ]


def describe_rule(index: ScanIndex, series_uid: str) -> Any:
    """How a scan's nodules are marked; readers' contours by what is in their file, not by its time."""
    rule = index.labels.rule_of(series_uid)
    if isinstance(rule, LidcRule):
        with errors_naming(rule.xml_path):
            return ["lidc", zlib.crc32(rule.xml_path.read_bytes())]
    return rule.key(index.nodules[series_uid])


def describe_scan(path: Path) -> list[list[str | int]]:
    """Name, length and a checksum of each of a scan's files: the header's, and the voxels' if they have their own."""
    files = dict.fromkeys((path, find_voxel_file(path).path))
    return [[file.name, file.stat().st_size, sum_blocks(file)] for file in files]


def sum_blocks(path: Path) -> int:
    """A CRC of blocks that are spread evenly over a file, the first and the last of its bytes included.

    Of a whole data set that is a few megabytes. They are bytes of the file, not voxels: where these are compressed, all
    bytes that come after a voxel change with it.
    """
    checksum = 0
    with errors_naming(path), path.open("rb") as file:
        last_start = max(0, os.fstat(file.fileno()).st_size - BLOCK_BYTES)
        for start in sorted({last_start * ndx // (BLOCK_COUNT - 1) for ndx in range(BLOCK_COUNT)}):
            file.seek(start)
            checksum = zlib.crc32(file.read(BLOCK_BYTES), checksum)
    return checksum
