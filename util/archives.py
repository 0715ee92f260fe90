"""Zip archives from untrusted sources."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import time
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

from p2ch13.util.errors import InputError
from p2ch13.util.files import check_free_disk, sync
from p2ch13.util.progress import byte_progress_bar

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)
# `zipfile` raises nearly anything when it reads a damaged archive.
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, IndexError, OSError)
ENCRYPTED = 1  # of a member's flags


class ArchiveError(InputError):
    """An archive is damaged or has unexpected contents."""


def unpack(archive: Path, folder: Path, option: str) -> list[Path]:
    """Unpack a zip archive into a folder, replacing it; its files are complete when this returns.

    `zipfile` keeps members within the folder, writes links as plain files, compares checksums, and writes no more than
    the sizes whose sum is compared with the free space here.

    Args: option: of the command line, that chooses another folder.
    Returns: the files, sorted.
    Raises: ArchiveError if the archive is damaged; InputError if Python cannot decompress it or the disk has no space.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            total = sum(member.file_size for member in opened.infolist())
            check_free_disk(folder, total, f"unpacking {archive.name}", option)
            with byte_progress_bar(total, f"Unpacking {archive.name}") as bar:
                for member in opened.infolist():
                    if member.flag_bits & ENCRYPTED:
                        raise ArchiveError("encrypted; unpack it with its password, and give the folder", path=archive)
                    path = Path(opened.extract(member, folder))
                    sync(path)
                    keep_time(path, member)
                    bar.update(member.file_size)
    except InputError:
        raise
    except NotImplementedError as error:  # such as Deflate64, which Windows uses for large files
        raise InputError(f"Python cannot unpack it ({error}); use another program", path=archive) from None
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise ArchiveError(f"damaged ({' '.join(str(error).split())}); download it again", path=archive) from None
    return sorted(path for path in folder.rglob("*") if path.is_file())


def keep_time(path: Path, member: zipfile.ZipInfo) -> None:
    """Give a file the time that it had, by which others notice a change of it."""
    with suppress(ValueError, OverflowError):  # the archive may hold any numbers
        seconds = time.mktime((*member.date_time, 0, 0, -1))
        os.utime(path, (seconds, seconds))
