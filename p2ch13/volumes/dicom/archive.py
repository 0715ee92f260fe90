"""Zip archives of DICOM files, as archives and PACS hand them over."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from p2ch13.util.archives import unpack

ZIP_SUFFIX = ".zip"
PACKED_SUFFIXES = (ZIP_SUFFIX, ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar", ".dcm.gz", ".dcm.bz2")


def is_archive(path: Path) -> bool:
    return path.suffix.lower() == ZIP_SUFFIX and path.is_file()


def is_packed(file: Path) -> bool:
    """Tell whether a file is called like an archive, in which a search does not look for scans."""
    return file.name.lower().endswith(PACKED_SUFFIXES)


def open_archive(path: Path) -> Path:
    """Return the folder to read: of an archive what it unpacks to, or else the path itself.

    Raises: see `unpack`.
    """
    if not is_archive(path):
        return path
    stat = path.stat()
    return unpack_for_now(path.resolve(), stat.st_size, stat.st_mtime_ns)


@cache
def unpack_for_now(archive: Path, byte_count: int, time_ns: int) -> Path:
    """Unpack an archive into a temporary folder of its name, which is removed when the process ends.

    Args: byte_count, time_ns: of the archive, to notice a change.
    """
    parent = Path(tempfile.mkdtemp(prefix="p2ch13-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    folder = parent / archive.stem
    unpack(archive, folder, "TMPDIR")
    return folder
