"""Zip archives from elsewhere: looked at before anything is unpacked, and tested while it is."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, BinaryIO

from tqdm import tqdm

from util.errors import InputError
from util.files import check_free_disk, write_whole
from util.progress import byte_progress_bar

CHUNK_BYTES = 2**20


class ArchiveError(InputError):
    """The archive is not what it should be, and never will be."""


def unpack(archive: Path, folder: Path, option: str) -> list[Path]:
    """Unpack all files of a zip archive into one folder, without the folders that they lie in there.

    A file appears only when all of it is on disk and its checksum is right, and is then not unpacked again.

    Args: option: of the command line, that chooses another disk.
    Returns: the files.
    Raises: ArchiveError, naming the archive, if it is damaged, or a member would land elsewhere, is a link, or has the
        name of another; InputError if the disk has no room.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = list_members(archive, opened)
            targets = [folder / PurePosixPath(member.filename).name for member in members]
            to_do = [
                (member, target)
                for member, target in zip(members, targets, strict=True)
                if not is_there(member, target)
            ]
            byte_count = sum(member.file_size for member in members)
            left = sum(member.file_size for member, _ in to_do)
            check_free_disk(folder, left, f"unpacking {archive.name}", option)
            with byte_progress_bar(byte_count, f"Unpacking {archive.name}", byte_count - left) as bar:
                for member, target in to_do:
                    unpack_member(archive, opened, member, target, bar)
    except zipfile.BadZipFile as error:
        raise damaged(archive, "no whole archive", error) from None
    return targets


def list_members(archive: Path, opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files in it. Raises: ArchiveError if one is none, or would land elsewhere or on another."""
    seen: set[str] = set()
    members = [member for member in opened.infolist() if not member.is_dir()]
    for member in members:
        name = member.filename
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if posix.is_absolute() or windows.anchor or ".." in (*posix.parts, *windows.parts):
            raise refused(archive, f"{name!r} would land outside of the folder")
        if kind not in (0, stat.S_IFREG):
            raise refused(archive, f"{name!r} is a link or a device")
        if posix.name in seen:
            raise refused(archive, f"two files are called {posix.name!r}")
        seen.add(posix.name)
    return members


def is_there(member: zipfile.ZipInfo, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == member.file_size


def unpack_member(
    archive: Path, opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, bar: tqdm[Any]
) -> None:
    """Reading a member to its end compares its CRC-32: a test of its own would decompress everything twice."""
    try:
        with opened.open(member) as source, write_whole(target) as file:
            copy(source, file, bar)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise damaged(archive, member.filename, error) from None


def copy(source: IO[bytes], file: BinaryIO, bar: tqdm[Any]) -> None:
    while chunk := source.read(CHUNK_BYTES):
        file.write(chunk)
        bar.update(len(chunk))


def refused(archive: Path, what: str) -> ArchiveError:
    return ArchiveError(f"{archive}: {what}, nothing is unpacked; download it again, from elsewhere")


def damaged(archive: Path, what: str, error: BaseException) -> ArchiveError:
    return ArchiveError(f"{archive}: {what}: damaged ({error}); download it again")
