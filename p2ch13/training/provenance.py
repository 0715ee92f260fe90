"""Provenance of a run: versions, commit, fingerprint of the data."""

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

from p2ch13.config import CENTERS_ALONE, CropChoice
from p2ch13.data.index import ScanIndex
from p2ch13.labels.mask import MaskRule
from p2ch13.labels.rules import LidcRule
from p2ch13.util.errors import errors_naming
from p2ch13.volumes.files import scan_signature
from p2ch13.volumes.formats import find_voxel_file

log = logging.getLogger(__name__)

PACKAGES = ("torch", "numpy", "SimpleITK", "p2ch13")
FINGERPRINT_VERSION = "v2"
BLOCK_COUNT, BLOCK_BYTES = 4, 4096  # read of each file for the fingerprint


def get_versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: get_version(name) for name in PACKAGES}}


def get_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # run from its own folder


def get_commit(folder: Path = Path(__file__).parents[1]) -> str | None:
    """Return the commit of a folder's code, with `+changes` if files differ from it; None outside of a repository."""
    if not ask_git(folder, "ls-files", "."):  # the folder may lie in a repository and be no part of it
        return None
    commit = ask_git(folder, "rev-parse", "HEAD")
    return commit and commit + ("+changes" if ask_git(folder, "status", "--porcelain") else "")


def ask_git(folder: Path, *arguments: str) -> str | None:
    """Return git's output; None if git is missing or fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, encoding="utf-8", errors="replace"
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def fingerprint_data(index: ScanIndex, series_list: Sequence[str], choice: CropChoice = CENTERS_ALONE) -> str:
    """Compute a SHA-256 that tells one data set from another, after the version of its recipe.

    It covers series UIDs, names, lengths and parts of the scans' and masks' files, annotations, label rules and the
    choice of crops; for negatives candidates and excluded findings too. Times of files are no part of it: copying
    changes them.

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
    """Return a saved state's fingerprint, in the current version.

    Fingerprints of the first version, without a version in front, cover less. If the data match such a one, this is the
    current fingerprint, and a warning names what was not compared. Any other is returned as it is.
    """
    if ":" in saved or saved != fingerprint_first_version(index, series_list):
        return saved
    log.warning(
        "The state to resume is of an earlier version, without a fingerprint of candidates and voxels: they are not "
        "compared with those that the run began with."
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
    return [[*nodule.center_xyz, nodule.diameter_mm] for nodule in index.get_annotations(series_uid)]


def describe_negatives(index: ScanIndex, series_uid: str) -> list[list[Any]]:
    """List the candidates that become negatives, and the excluded findings, near which none is taken."""
    return [
        [candidate.center_xyz for candidate in index.non_nodules[series_uid]],
        [[*finding.center_xyz, finding.diameter_mm] for finding in index.excluded[series_uid]],
    ]


def describe_rule(index: ScanIndex, series_uid: str) -> Any:
    """Describe a scan's label rule; readers' contours and masks by their content, not by their file's time."""
    rule = index.labels.rule_of(series_uid)
    if isinstance(rule, LidcRule):
        return ["lidc", *rule.source.describe()]
    if isinstance(rule, MaskRule):
        return ["mask", describe_scan(rule.mask_path), list(rule.values)]
    return rule.key(index.nodules[series_uid])


def describe_scan(path: Path) -> list[list[str | int]]:
    """List name, length and checksum of a scan's header, and of its file of voxels if there is one."""
    files = dict.fromkeys((path, find_voxel_file(path).path))
    return [[file.name, file.stat().st_size, sum_blocks(file)] for file in files]


def sum_blocks(path: Path) -> int:
    """Compute a CRC of blocks that are spread evenly over a file, from its first to its last bytes.

    Those of a whole data set are a few megabytes. They are bytes of the file: in a compressed one a changed voxel
    changes all bytes after it.
    """
    checksum = 0
    with errors_naming(path), path.open("rb") as file:
        last_start = max(0, os.fstat(file.fileno()).st_size - BLOCK_BYTES)
        for start in sorted({last_start * ndx // (BLOCK_COUNT - 1) for ndx in range(BLOCK_COUNT)}):
            file.seek(start)
            checksum = zlib.crc32(file.read(BLOCK_BYTES), checksum)
    return checksum
