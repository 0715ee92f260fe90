"""Fill the cache before training, so that training never waits for a scan."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from p2ch13.cache import CtCache
from p2ch13.candidates import get_candidate_info_list
from p2ch13.config import Folders
from util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line, run_command
from util.logconf import set_up_logging
from util.options import positive_int
from util.processes import map_in_processes

log = logging.getLogger(__name__)


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Cache what training and validation read of every scan on disk; what is there already is left alone.

    Returns: the exit status, 1 if a scan was skipped because it cannot be read.
    Raises: InputError if nothing can be cached.
    """
    start = time.monotonic()
    args = build_parser().parse_args(sys_argv)
    set_up_logging()
    folders = Folders(args.data_dir, args.cache_dir)
    ct_cache = CtCache(folders)
    nodule_count = sum(len(ct_cache.nodules[series_uid]) for series_uid in ct_cache.series_list)
    to_do = [series_uid for series_uid in ct_cache.series_list if not ct_cache.is_complete(series_uid)]
    if not to_do:
        log.info(
            f"Nothing to do: {folders.cache_dir} holds all {len(ct_cache.series_list)} scans with {nodule_count} "
            f"nodules ({ct_cache.volume() / 1e6:.1f} MB). {time.monotonic() - start:.1f} s."
        )
        return EXIT_DONE

    candidates = get_candidate_info_list(folders.data_dir)
    log.info(
        f"{folders.data_dir}: {len(ct_cache.series_list)} scans, {len(to_do)} of them to be cached; "
        f"{nodule_count} nodules, {len(candidates) - nodule_count} other candidates."
    )
    try:
        errors = fill(folders, to_do, min(args.num_workers, len(to_do)))
    except KeyboardInterrupt:
        log.info("What is cached by now stays; start again to go on.")
        raise
    if len(errors) == len(ct_cache.series_list):
        raise errors[0]
    for error in errors:
        log.warning(f"Skipped: {one_line(error)}")
    log.info(
        f"Cached {len(to_do) - len(errors)} scans, skipped {len(errors)}. {folders.cache_dir}: {nodule_count} nodules, "
        f"{ct_cache.volume() / 1e6:.1f} MB. {time.monotonic() - start:.1f} s."
    )
    return EXIT_SKIPPED if errors else EXIT_DONE


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="precache.py", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=Folders.data_dir, help="LUNA16's subset*/ and CSV files")
    parser.add_argument("--cache-dir", type=Path, default=Folders.cache_dir, help="where the cache is kept")
    parser.add_argument("--num-workers", type=positive_int, default=os.cpu_count() or 1, help="processes")
    return parser


def fill(folders: Folders, series_list: Sequence[str], worker_count: int) -> list[InputError]:
    """Cache the series in worker processes. Returns: an error for each one that cannot be read, sorted by its file."""
    errors: list[InputError] = []
    futures = map_in_processes(fill_series, series_list, worker_count, "Caching", "scan", start_worker, (folders,))
    for future in futures:
        try:
            future.result()
        except InputError as error:
            errors.append(error)
    return sorted(errors, key=str)  # not by which process was first


def start_worker(folders: Folders) -> None:
    global worker_cache
    worker_cache = CtCache(folders)


def fill_series(series_uid: str) -> None:
    worker_cache.fill(series_uid)


worker_cache: CtCache  # of a worker process: opened once, not once for each scan


if __name__ == "__main__":
    run_command(main)
