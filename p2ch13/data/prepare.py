"""Fill the cache in several processes with what training and validation read."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing

from p2ch13.commands import spell
from p2ch13.config import PRESETS, CropChoice, Folders, LabelOptions, PrecacheOptions
from p2ch13.data.cache import CtCache, describe_rebuilt
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.util.disk import CacheError
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.options import as_arguments, list_options
from p2ch13.util.outcome import Outcome
from p2ch13.util.process_rank import ProcessRank
from p2ch13.util.processes import map_in_processes
from p2ch13.util.progress import BAR_DELAY_S, progress_bar

log = logging.getLogger(__name__)


def prepare(options: PrecacheOptions, process: ProcessRank) -> Outcome:
    """Cache what training and validation read of every scan on disk.

    Valid entries are read and kept, which takes no longer than the start of a training. The processes of a torchrun
    share the scans, and each reports on its own.
    Returns: what is cached, and exit status 1 if a scan was skipped because it cannot be read.
    Raises: InputError if nothing can be cached.
    """
    start = time.monotonic()
    ct_cache, choice = CtCache.open(options.part(Folders), options.part(LabelOptions)), options.crop_choice
    series_list = process.share(ct_cache.index.series_list)
    to_do = [series_uid for series_uid in series_list if not ct_cache.is_complete(series_uid, choice)]
    to_do_count = len(to_do)
    prefix = "" if process.is_alone else f"Process {process.rank + 1} of {process.world_size}: "
    if process.is_first:
        for note in ct_cache.index.labels.notes:
            log.info(note)
    if ct_cache.is_read_only and any(map(ct_cache.index.is_readable, to_do)):
        raise cannot_write(options, f"entries of {to_do_count} of {len(series_list)} scans are missing")
    if to_do_count:
        nodules = candidates = ""
        if ct_cache.index.has_annotations:  # masks are yet to be read
            nodules = f"; {count_nodules(ct_cache, series_list)} nodules"
        if choice.negatives:  # nothing else reads the file of candidates
            candidates = f", {sum(len(ct_cache.index.non_nodules[uid]) for uid in series_list)} other candidates"
        log.info(
            f"{prefix}{options.data_dir}: {len(series_list)} scans, {to_do_count} of them to be cached"
            f"{nodules}{candidates}."
        )
    worker_count = max(1, min(options.num_workers // process.local_world_size, len(series_list)))
    try:
        rebuilt_count, filled, unmarked, errors = fill(ct_cache, choice, series_list, worker_count)
    except KeyboardInterrupt:
        log.info("Cached entries are kept; start again to continue.")
        raise
    if rebuilt_count and ct_cache.is_read_only:
        raise cannot_write(options, f"{rebuilt_count} entries are corrupt")
    if rebuilt_count:
        log.warning(f"{prefix}{describe_rebuilt(rebuilt_count)}")
    if len(errors) == len(series_list) and process.is_alone:
        raise errors[0]
    for error in errors:
        log.warning(f"Skipped: {one_line(error)}")
    if unmarked and options.labels == "mask":
        log.warning(f"{prefix}{describe_unmarked(unmarked)}")
    nodule_count = sum(len(ct_cache.index.nodules[series_uid]) for series_uid in filled)
    if not nodule_count and (reason := ct_cache.index.no_nodules(series_list)):
        log.warning(f"{prefix}No nodule: {one_line(reason)}.")
    is_done = not to_do_count and not rebuilt_count
    cached_count = 0 if is_done else to_do_count - len(errors)
    done = "Nothing to do" if is_done else f"Cached {cached_count} scans, skipped {len(errors)}"
    values = {
        "folder": options.cache_dir,
        "cached": cached_count,
        "scans": len(series_list) - len(errors),
        "nodules": nodule_count,
        "megabytes": ct_cache.volume() / 1e6,
        "seconds": time.monotonic() - start,
        "skipped": [one_line(error) for error in errors],
    }
    line = (
        f"{prefix}{done}. {options.cache_dir}: {values['scans']} scans, {nodule_count} nodules, "
        f"{values['megabytes']:.1f} MB. {values['seconds']:.1f} s."
    )
    next_line = f"Next: {spell('train', *chosen_arguments(options))}"
    # torchrun takes any other status for a failure and ends all processes, even those at work.
    status = EXIT_SKIPPED if errors and process.is_alone else EXIT_DONE
    return Outcome([line, next_line] if process.is_first else [line], values, status)


def chosen_arguments(options: PrecacheOptions) -> list[str]:
    """Return the options, as one types them, that training must be given too: those that differ from its preset's."""
    usual = {**vars(PrecacheOptions()), **PRESETS[options.preset], "preset": PrecacheOptions.preset}
    shared = [name for name in list_options(PrecacheOptions) if name not in ("num_workers", "json")]
    values = {name: getattr(options, name) for name in shared}
    return as_arguments({name: value for name, value in values.items() if value != usual[name]})


def count_nodules(ct_cache: CtCache, series_list: Sequence[str]) -> int:
    """Count the nodules of the series whose scan and mask can be read."""
    count = 0
    for series_uid in series_list:
        try:
            count += len(ct_cache.index.nodules[series_uid])
        except CacheError:
            raise
        except InputError:  # `fill` reports it
            continue
    return count


def cannot_write(options: PrecacheOptions, reason: str) -> CacheError:
    message = f"{reason}, and the folder cannot be written; copy it elsewhere, and name the copy with --cache-dir"
    return CacheError(message, path=options.cache_dir, option="--cache-dir")


def fill(
    ct_cache: CtCache, choice: CropChoice, series_list: Sequence[str], worker_count: int
) -> tuple[int, list[str], list[CandidateInfoTuple], list[InputError]]:
    """Cache the series in worker processes.

    Returns: the number of corrupt entries that were recomputed, including those that `ct_cache` found before; the
        series whose scan can be read; the nodules that the labels do not mark; an error for each other series, sorted
        by file.
    Raises: CacheError.
    """
    rebuilt_count = ct_cache.rebuilt_count
    filled: list[str] = []
    unmarked: list[CandidateInfoTuple] = []
    errors: list[InputError] = []
    arguments = (ct_cache, choice)
    calls = map_in_processes(fill_series, series_list, worker_count, "Caching", "scan", start_worker, arguments)
    with closing(calls) as futures:  # a full disk ends it early
        for future in futures:
            try:
                series_uid, rebuilt_of_series, unmarked_of_series = future.result()
                filled.append(series_uid)
                rebuilt_count += rebuilt_of_series
                unmarked += unmarked_of_series
            except CacheError:
                raise
            except InputError as error:
                errors.append(error)
    # Whichever process was first.
    unmarked.sort(key=lambda nodule: nodule.series_uid)
    return rebuilt_count, filled, unmarked, sorted(errors, key=str)


def keep_readable(series_list: Sequence[str], read_series: Callable[[str], None]) -> list[str]:
    """Keep the series that can be read, and name the others.

    Raises: CacheError; the InputError of the first series, if none can be read.
    """
    kept: list[str] = []
    errors: list[InputError] = []
    with progress_bar(len(series_list), "Reading scans", "scan", delay_s=BAR_DELAY_S) as bar:
        for series_uid in series_list:
            try:
                read_series(series_uid)
                kept.append(series_uid)
            except CacheError:
                raise
            except InputError as error:
                errors.append(error)
            bar.update()
    if not kept:
        raise errors[0]
    for reason in map(one_line, errors):
        log.warning(f"Skipped: {reason}")
    return kept


def describe_unmarked(nodules: Sequence[CandidateInfoTuple]) -> str:
    """Describe annotated nodules that the labels do not mark."""
    at = ", ".join(f"{value:.1f}" for value in nodules[0].center_xyz)
    return (
        f"The masks have no voxel near {len(nodules)} annotated nodules, such as {nodules[0].series_uid} at ({at}) mm; "
        "correct them, or remove the rows."
    )


def start_worker(ct_cache: CtCache, choice: CropChoice) -> None:
    global worker_cache, worker_choice
    worker_cache, worker_choice = ct_cache, choice


def fill_series(series_uid: str) -> tuple[str, int, list[CandidateInfoTuple]]:
    """Cache a series. Returns: it, the number of its entries that were corrupt, the nodules that labels do not mark."""
    before = worker_cache.rebuilt_count
    unmarked = worker_cache.fill(series_uid, worker_choice)
    return series_uid, worker_cache.rebuilt_count - before, unmarked


worker_cache: CtCache  # of a worker process: opened once, not for each scan
worker_choice: CropChoice


def precache_command(folders: Folders, labels: LabelOptions, choice: CropChoice, negatives: float) -> str:
    """Return the command that caches all that training with these options reads.

    Args: negatives: their share of the samples.
    """
    values = {**vars(folders), **vars(labels), **vars(choice), "negatives": negatives}
    chosen = {name: value for name, value in values.items() if value != getattr(PrecacheOptions, name)}
    return spell("precache", *as_arguments(chosen))
