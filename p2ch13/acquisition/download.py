"""Get LUNA16: download it from Zenodo, unpack it, see that it is whole."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from p2ch13.acquisition.luna16 import FILES, MALIGNANCY, CsvFacts, RemoteFile
from p2ch13.acquisition.verify import check_csv, check_subset, subset_folder, verify
from p2ch13.config import DownloadOptions
from p2ch13.util.archives import ArchiveError, unpack
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.fetch import fetch, part_of
from p2ch13.util.files import check_free_disk, in_gb, make_writable_folder

log = logging.getLogger(__name__)

LOCK_FILE = ".download.lock"  # in the data folder; a killed process leaves it there, unlocked
STAGING_FOLDER = ".download"  # in the data folder: what comes to its end there is renamed, not copied
UNPACKED_RATIO = 1.8  # bytes of a subset's scans for each of its archive, about; the archive itself tells them exactly


@dataclass(frozen=True)
class Source:
    """Where files are taken from: Zenodo, or a folder of a web server; and whether size and MD5 are compared."""

    mirror: str | None = None
    ignore_checksum: bool = False


def get_luna16(options: DownloadOptions, files: Sequence[RemoteFile] = FILES) -> int:
    """Download LUNA16, or verify the files on disk.

    Args: files: what LUNA16 consists of.
    Returns: the exit status, 1 if a file was skipped because it cannot be had, or something is missing or corrupt.
    Raises: InputError if nothing can be downloaded or verified.
    """
    data_dir, subset = options.data_dir, options.subset
    if options.verify:
        return verify(data_dir, files, subset)
    chosen = [file for file in files if file.subset is None or subset is None or file.subset in subset]
    make_writable_folder(data_dir, "--data-dir")
    with only_process(data_dir):
        to_do = report_plan(data_dir, chosen)
        if not to_do:
            log.info(f"Nothing to do: {data_dir} has all of it.")
            return EXIT_DONE
        check_free_disk(data_dir, room_needed(data_dir, to_do), "downloading and unpacking this", "--data-dir")
        if options.dry_run:
            return EXIT_DONE
        try:
            return download(data_dir, to_do, Source(options.mirror, options.ignore_checksum))
        except KeyboardInterrupt:
            log.info(f"Downloaded files are kept in {data_dir}; start the same command again to continue.")
            raise


@contextmanager
def only_process(data_dir: Path) -> Iterator[None]:
    """Raises: InputError if another download is at work in the folder; two would write into the same files."""
    lock = FileLock(data_dir / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{data_dir}: another download is at work in this folder; wait for it, or stop it") from None
    try:
        yield
    finally:
        with suppress(OSError):  # on Windows, which removes no open file, the lock itself does
            (data_dir / LOCK_FILE).unlink()
        lock.release()


def report_plan(data_dir: Path, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Say a line for each file. Returns: those that are to be downloaded."""
    to_do = []
    for file in files:
        if file.csv is not None and (data_dir / file.csv.name).exists():
            state = "is there"
            for problem in check_csv(data_dir / file.csv.name, file.csv):  # perhaps the user's own: not overwritten
                log.warning(f"{problem}, after removing this one, which is left as it is.")
        elif file.subset is not None and not check_subset(data_dir, file).problems:
            state = "is there"
            remove_staging(data_dir, file)  # left over, if the scans were unpacked by hand
        else:
            to_do.append(file)
            here = bytes_here(data_dir, file)
            state = "to be downloaded" + (f", {in_gb(here)} of it are here" if here else "")
        size = "size not known" if file.size is None else f"{file.size:,} bytes"
        log.info(f"{file.name:<18} {size:>20}  {state}")
    left = sum(max(0, (file.size or 0) - bytes_here(data_dir, file)) for file in to_do)
    log.info(
        f"To be downloaded: {in_gb(left)}. Room needed for it and what is in it: about "
        f"{in_gb(room_needed(data_dir, to_do))}; free: {in_gb(shutil.disk_usage(data_dir).free)}."
    )
    if not (data_dir / MALIGNANCY.name).exists():
        log.info(
            f"{MALIGNANCY.name} is optional and not among LUNA16's files; to know malignant from benign, take it from "
            "the book's repository (deep-learning-with-pytorch/dlwpt-code, data/part2/luna)."
        )
    return to_do


def room_needed(data_dir: Path, files: Sequence[RemoteFile]) -> int:
    """Bytes that are on disk at once at most, besides those that are there now: an archive goes when it is unpacked."""
    unpacked = most = 0
    for file in files:
        size = file.size or 0
        content = int(size * UNPACKED_RATIO) if file.is_archive else size
        most = max(most, unpacked + max(0, size - bytes_here(data_dir, file)) + content)
        unpacked += content
    return most


def bytes_here(data_dir: Path, file: RemoteFile) -> int:
    downloaded, _ = staging_places(data_dir, file)
    return max((path.stat().st_size for path in (downloaded, part_of(downloaded)) if path.exists()), default=0)


def download(data_dir: Path, files: Sequence[RemoteFile], source: Source) -> int:
    """Download and unpack one file after the other; one that cannot be had is named and skipped.

    Returns: the exit status, 1 if one was skipped. Raises: InputError if not one can be had.
    """
    staging = data_dir / STAGING_FOLDER
    staging.mkdir(exist_ok=True)
    errors = []
    for file in files:
        try:
            get_file(data_dir, file, source)
            log.info(f"{file.name}: done.")
        except InputError as error:
            errors.append(error)
            if len(files) > 1:
                log.warning(f"Skipped: {one_line(error)}")
    if not any(staging.iterdir()):
        staging.rmdir()
    if len(errors) == len(files):
        raise errors[0] if len(files) == 1 else InputError(f"none of {len(files)} files could be had, see above")
    return EXIT_SKIPPED if errors else EXIT_DONE


def get_file(data_dir: Path, file: RemoteFile, source: Source) -> None:
    """Download a file, unpack it if it is an archive, and move what is in it to its place.

    Raises: InputError, naming the file, if it cannot be had or is not what it should be.
    """
    if source.ignore_checksum:
        file = replace(file, size=None, md5=None)
    downloaded, unpacked = staging_places(data_dir, file)

    def unpack_archive(*_: object) -> list[Path]:
        return unpack(downloaded, unpacked, "--data-dir")

    try:
        processor = unpack_archive if file.is_archive else None
        result = fetch(file.url(source.mirror), downloaded, file.size, file.md5, processor)
        members = result if file.is_archive else [downloaded]
        if file.csv is not None:
            install_csv(data_dir, file.csv, members, source)
        else:
            install_subset(data_dir, file, members)
    except ArchiveError:
        remove_staging(data_dir, file)
        raise
    remove_staging(data_dir, file)


def staging_places(data_dir: Path, file: RemoteFile) -> tuple[Path, Path]:
    """Where a file lies until it is in its place, and the folder of what is in it."""
    downloaded = data_dir / STAGING_FOLDER / file.name
    return downloaded, downloaded.with_suffix(".unpacked")


def remove_staging(data_dir: Path, file: RemoteFile) -> None:
    downloaded, unpacked = staging_places(data_dir, file)
    for path in (downloaded, part_of(downloaded)):
        path.unlink(missing_ok=True)
    if unpacked.is_dir():
        shutil.rmtree(unpacked)


def install_csv(data_dir: Path, facts: CsvFacts, members: Sequence[Path], source: Source) -> None:
    tables = [member for member in members if member.suffix == ".csv" and not member.name.startswith(".")]
    if len(tables) != 1:
        raise ArchiveError(f"{facts.name}: {len(tables)} CSV files came, there should be one; download it again")
    problems = [] if source.ignore_checksum else check_csv(tables[0], facts)
    if problems:
        raise ArchiveError(f"{problems[0]}, or take it as it is with --ignore-checksum")
    tables[0].replace(data_dir / facts.name)


def install_subset(data_dir: Path, file: RemoteFile, members: Sequence[Path]) -> None:
    """Headers come last: no scan is found whose voxels are not there."""
    folder = subset_folder(data_dir, file)
    folder.mkdir(exist_ok=True)
    for member in sorted(members, key=lambda path: (path.suffix == ".mhd", path.name)):
        if not member.name.startswith("."):  # of macOS
            member.replace(folder / member.name)
    problems = check_subset(data_dir, file).problems
    if problems:
        raise InputError(f"{problems[0]} ({len(problems)} problems in all, see --verify)")
