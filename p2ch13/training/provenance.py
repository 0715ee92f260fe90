"""Where a run comes from: versions, commit, data."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from p2ch13.cache import CtCache
from p2ch13.scans import scan_signature

PACKAGES = ("torch", "numpy", "SimpleITK", "p2ch13")


def get_versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: get_version(name) for name in PACKAGES}}


def get_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # but run from its own folder


def get_commit(folder: Path = Path(__file__).parent) -> str | None:
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


def fingerprint_data(ct_cache: CtCache, series_list: Sequence[str]) -> str:
    """A SHA-256 that tells one data set from another, without reading its voxels.

    It is made of the series UIDs, the names and lengths of the scans' files, their nodules and the way they are marked;
    not of the files' times, which change when they are copied.
    """
    digest = hashlib.sha256()
    for series_uid in sorted(series_list):
        nodules = ct_cache.nodules[series_uid]
        files = [[name, length] for name, length, _ in scan_signature(ct_cache.scans[series_uid])]
        places = [[*nodule.center_xyz, nodule.diameter_mm] for nodule in nodules]
        rule = ct_cache.labels.rule_of(series_uid).key(nodules)
        digest.update(json.dumps([series_uid, files, places, rule]).encode())
    return digest.hexdigest()
