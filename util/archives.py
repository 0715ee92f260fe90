"""Zip archives from elsewhere: looked at before anything is unpacked, and tested while it is."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tqdm import tqdm

from p2ch13.util.errors import InputError
from p2ch13.util.files import atomic_write, check_free_disk
from p2ch13.util.progress import byte_progress_bar

CHUNK_BYTES = 2**20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ArchiveError(InputError):
    """The archive is not what it should be, and never will be."""


def unpack(archive: Path, folder: Path, option: str) -> list[Path]:
    """Unpack all files of a zip archive into one folder, without the folders that they lie in there.

    A file appears only when all of it is on disk and its checksum is right, and is then not unpacked again.

    Args: option: of the command line, that chooses another disk.
    Returns: the files.
    Raises: ArchiveError, naming the archive, if it is damaged, or a member would land elsewhere, is a link, or has the
        name of another; InputError if it is compressed in a way that Python cannot read, or the disk has no room.
    """
    with naming_damage(archive, "the archive"):
        opened = zipfile.ZipFile(archive)
    with opened:
        members = [member for member in opened.infolist() if not member.is_dir()]
        check_members(archive, members)
        targets = [folder / PurePosixPath(member.filename).name for member in members]
        pairs = list(zip(members, targets, strict=True))
        to_do = [pair for pair in pairs if not is_unpacked(*pair)]
        total = sum(member.file_size for member in members)
        left = sum(member.file_size for member, _ in to_do)
        check_free_disk(folder, left, f"unpacking {archive.name}", option)
        with byte_progress_bar(total, f"Unpacking {archive.name}", total - left) as bar:
            for member, target in to_do:
                unpack_member(archive, opened, member, target, bar)
    return targets


def check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    names: set[str] = set()
    for member in members:
        posix, windows = PurePosixPath(member.filename), PureWindowsPath(member.filename)
        if posix.is_absolute() or windows.anchor or ".." in (*posix.parts, *windows.parts):
            raise refused(archive, f"{member.filename!r} would land outside of the folder")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            raise refused(archive, f"{member.filename!r} is a link or a device")
        if posix.name in names:
            raise refused(archive, f"two files are called {posix.name!r}")
        names.add(posix.name)
        if member.compress_type not in METHODS:
            raise InputError(
                f"{archive}: {member.filename!r} is compressed by method {member.compress_type}, which Python cannot "
                "read; unpack the archive by hand, say with 7z, to where its scans belong, and start again"
            )


def is_unpacked(member: zipfile.ZipInfo, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == member.file_size


def unpack_member(
    archive: Path, opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, bar: tqdm[Any]
) -> None:
    """Reading a member to its end compares its CRC-32: a test of its own would decompress everything twice."""
    with naming_damage(archive, member.filename):
        source = opened.open(member)
    with source, atomic_write(target) as file:
        while True:
            with naming_damage(archive, member.filename):
                chunk = source.read(CHUNK_BYTES)
            if not chunk:
                break
            file.write(chunk)
            bar.update(len(chunk))
        if file.tell() != member.file_size:
            raise damaged(archive, member.filename, f"{file.tell():,} of {member.file_size:,} bytes")


@contextmanager
def naming_damage(archive: Path, what: str) -> Iterator[None]:
    """Turn what zipfile raises when it reads an archive into an ArchiveError: nearly anything, if that is damaged."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        RuntimeError,
        ValueError,
        IndexError,
        OSError,
    ) as error:
        raise damaged(archive, what, str(error)) from None


def refused(archive: Path, what: str) -> ArchiveError:
    return ArchiveError(f"{archive}: {what}, nothing is unpacked; download it again, from elsewhere")


def damaged(archive: Path, what: str, reason: str) -> ArchiveError:
    return ArchiveError(f"{archive}: {' '.join(f'{what} is damaged ({reason})'.split())}; download it again")
