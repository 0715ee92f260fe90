"""Download LUNA16 from Zenodo, unpack it, and verify it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from p2ch13.acquisition.luna16 import MALIGNANCY, CsvFacts, RemoteFile
from p2ch13.acquisition.verify import check_csv, check_subset, subset_folder, verify
from p2ch13.commands import spell
from p2ch13.config import DownloadOptions
from p2ch13.util.archives import ArchiveError, unpack
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.fetch import DownloadError, fetch, part_of
from p2ch13.util.files import check_free_disk, in_gb, make_writable_folder
from p2ch13.util.outcome import Outcome

log = logging.getLogger(__name__)

LOCK_FILE = ".download.lock"  # a killed process leaves it behind, unlocked
STAGING_FOLDER = ".download"  # in the data folder, so that complete files are renamed and not copied
UNPACKED_RATIO = 1.8  # size of a subset's scans relative to its archive, about


def get_luna16(options: DownloadOptions, files: Sequence[RemoteFile]) -> Outcome:
    """Download LUNA16, or verify the files on disk.

    Args: files: what LUNA16 consists of.
    Returns: what is there, and exit status 1 if a file was skipped because it cannot be had, or something is missing or
        corrupt.
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
            return conclude(data_dir, [f"Nothing to do: {data_dir} has all of it."])
        check_free_disk(data_dir, room_needed(data_dir, to_do), "downloading and unpacking this", "--data-dir")
        if options.dry_run:
            return conclude(data_dir, [f"Nothing was downloaded: this was a --dry-run for {data_dir}."], to_do)
        try:
            return download(options, to_do)
        except KeyboardInterrupt:
            log.info(f"Downloaded files are kept in {data_dir}; start the same command again to continue.")
            raise


@contextmanager
def only_process(data_dir: Path) -> Iterator[None]:
    """Lock the folder: two downloads would write to the same files. Raises: InputError if it is locked."""
    lock = FileLock(data_dir / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError("another download is running in this folder; wait for it or stop it", path=data_dir) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file; releasing the lock does
            (data_dir / LOCK_FILE).unlink()
        lock.release()


def report_plan(data_dir: Path, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Log the state of each file. Returns: the files to download."""
    to_do = []
    for file in files:
        if file.csv is not None and (data_dir / file.csv.name).exists():
            state = "exists"
            for problem in check_csv(data_dir / file.csv.name, file.csv):
                log.warning(f"{problem}; this file is kept, remove it first.")  # it may be the user's own
        elif file.subset is not None and not check_subset(data_dir, file).problems:
            state = "exists"
            remove_staging(data_dir, file)  # of a subset that was unpacked by hand
        else:
            to_do.append(file)
            here = bytes_here(data_dir, file)
            state = "to download" + (f", {in_gb(here)} exist" if here else "")
        size = "unknown size" if file.size is None else f"{file.size:,} bytes"
        log.info(f"{file.name:<18} {size:>20}  {state}")
    left = sum(max(0, (file.size or 0) - bytes_here(data_dir, file)) for file in to_do)
    log.info(
        f"To download: {in_gb(left)}. Disk space for archives and scans: about "
        f"{in_gb(room_needed(data_dir, to_do))}; free: {in_gb(shutil.disk_usage(data_dir).free)}."
    )
    if not (data_dir / MALIGNANCY.name).exists():
        log.info(
            f"{MALIGNANCY.name} is optional and not part of LUNA16; for malignancy labels, copy it from the book's "
            "repository (deep-learning-with-pytorch/dlwpt-code, data/part2/luna)."
        )
    return to_do


def room_needed(data_dir: Path, files: Sequence[RemoteFile]) -> int:
    """Return how many more bytes will be on disk at most: each archive is removed once it is unpacked."""
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


def download(options: DownloadOptions, files: Sequence[RemoteFile]) -> Outcome:
    """Download and unpack files one by one; log and skip those that fail.

    Returns: what was downloaded, and exit status 1 if a file was skipped. Raises: InputError if all fail.
    """
    staging = options.data_dir / STAGING_FOLDER
    staging.mkdir(exist_ok=True)
    errors, done = [], []
    for file in files:
        try:
            get_file(options, file)
            done.append(file)
            log.info(f"{file.name}: done.")
        except InputError as error:
            errors.append(error)
            if len(files) > 1:
                log.warning(f"Skipped: {one_line(error)}")
    if not any(staging.iterdir()):
        staging.rmdir()
    if len(errors) == len(files):
        raise errors[0] if len(files) == 1 else InputError(f"none of {len(files)} files could be downloaded, see above")
    lines = [f"Downloaded {len(done)} files, skipped {len(errors)}: {options.data_dir}"]
    if not errors:
        lines.append(f"Next: {spell('precache', '--preset', 'strong', '--data-dir', str(options.data_dir))}")
    left = [file for file in files if file not in done]
    return conclude(options.data_dir, lines, left, done, [one_line(error) for error in errors])


def conclude(
    data_dir: Path,
    lines: Sequence[str],
    to_do: Sequence[RemoteFile] = (),
    done: Sequence[RemoteFile] = (),
    skipped: Sequence[str] = (),
) -> Outcome:
    values = {
        "folder": data_dir,
        "downloaded": [file.name for file in done],
        "missing": [file.name for file in to_do],
        "problems": skipped,
    }
    return Outcome(lines, values, EXIT_SKIPPED if skipped else EXIT_DONE)


def get_file(options: DownloadOptions, file: RemoteFile) -> None:
    """Download a file, unpack it if it is an archive, and move its contents into the data folder.

    Raises: InputError if it cannot be downloaded or has unexpected contents.
    """
    data_dir = options.data_dir
    if options.ignore_checksum:
        file = replace(file, size=None, md5=None)
    downloaded, unpacked = staging_places(data_dir, file)
    try:
        fetch(file.url(options.mirror), downloaded, file.size, file.md5)
        members = unpack(downloaded, unpacked, "--data-dir") if file.is_archive else [downloaded]
        if file.csv is not None:
            install_csv(data_dir, file.csv, members, options.ignore_checksum)
        else:
            install_subset(data_dir, file, members)
    except DownloadError as error:
        cure = "try again, choose another server with --mirror, or accept any size and MD5 with --ignore-checksum"
        raise InputError(f"{error.message}; {cure}", path=error.path, option="--mirror") from None
    except ArchiveError:
        remove_staging(data_dir, file)
        raise
    remove_staging(data_dir, file)


def staging_places(data_dir: Path, file: RemoteFile) -> tuple[Path, Path]:
    """Return where a file is downloaded to, and the folder it is unpacked into."""
    downloaded = data_dir / STAGING_FOLDER / file.name
    return downloaded, downloaded.with_suffix(".unpacked")


def remove_staging(data_dir: Path, file: RemoteFile) -> None:
    downloaded, unpacked = staging_places(data_dir, file)
    for path in (downloaded, part_of(downloaded)):
        path.unlink(missing_ok=True)
    shutil.rmtree(unpacked, ignore_errors=True)


def install_csv(data_dir: Path, facts: CsvFacts, members: Iterable[Path], ignore_checksum: bool) -> None:
    tables = [member for member in members if member.suffix == ".csv" and not member.name.startswith(".")]
    if len(tables) != 1:
        raise ArchiveError(f"{len(tables)} CSV files in its archive instead of one", path=data_dir / facts.name)
    problems = [] if ignore_checksum else check_csv(tables[0], facts)
    if problems:
        raise ArchiveError(f"{problems[0]}, or accept it with --ignore-checksum", option="--ignore-checksum")
    tables[0].replace(data_dir / facts.name)


def install_subset(data_dir: Path, file: RemoteFile, members: Iterable[Path]) -> None:
    """Move scans to their subset's folder, headers last: no header exists without its voxels."""
    folder = subset_folder(data_dir, file)
    folder.mkdir(exist_ok=True)
    for member in sorted(members, key=lambda path: (path.suffix == ".mhd", path.name)):
        if not member.name.startswith("."):  # of macOS
            member.replace(folder / member.name)
    problems = check_subset(data_dir, file).problems
    if problems:
        raise InputError(f"{problems[0]} ({len(problems)} problems; --verify lists them)")
