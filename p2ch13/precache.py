"""Fill the cache before training, so that training never waits for a scan."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from p2ch13.config import PRESETS, CropChoice, Folders, TrainingConfig
from p2ch13.crop_options import add_negatives, add_off_centre, add_slice_distance
from p2ch13.data.cache import CtCache, describe_rebuilt
from p2ch13.label_options import add_label_options, label_options_of
from p2ch13.util.disk import CacheError
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line, run_command
from p2ch13.util.launch import Launch
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.options import positive_int
from p2ch13.util.processes import map_in_processes
from p2ch13.util.threads import available_cores

log = logging.getLogger(__name__)

PRESET_DEFAULTS = ("labels", "slice_spacing_mm", "negatives", "all_nodule_slices")  # what a preset stands for here


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Cache what training and validation read of every scan on disk.

    What is there already is read, and left alone if it is whole: that takes no longer than it takes training to begin.

    The processes of a torchrun share out the scans, and each one speaks of its own part.
    Returns: the exit status, 1 if a scan was skipped because it cannot be read.
    Raises: InputError if nothing can be cached.
    """
    start = time.monotonic()
    args = parse_options(sys_argv)
    launch = Launch.from_environment()
    set_up_logging(Launch())
    folders = Folders(args.data_dir, args.cache_dir)
    choice = CropChoice(args.all_nodule_slices, args.negatives > 0, args.slice_spacing_mm)
    ct_cache = CtCache.open(folders, label_options_of(args))
    series_list = launch.share(ct_cache.index.series_list)
    nodule_count = sum(len(ct_cache.index.nodules[series_uid]) for series_uid in series_list)
    to_do = [series_uid for series_uid in series_list if not ct_cache.is_complete(series_uid, choice)]
    process = "" if launch.is_alone else f"Process {launch.rank + 1} of {launch.world_size}: "
    if launch.is_first:
        for note in ct_cache.index.labels.notes:
            log.info(note)
    if to_do:
        candidates = ""
        if choice.negatives:  # nothing else needs the file that they are in
            candidates = f", {sum(len(ct_cache.index.non_nodules[uid]) for uid in series_list)} other candidates"
        log.info(
            f"{process}{folders.data_dir}: {len(series_list)} scans, {len(to_do)} of them to be cached; "
            f"{nodule_count} nodules{candidates}."
        )
    worker_count = max(1, args.num_workers // launch.local_world_size)
    try:
        rebuilt_count, errors = fill(ct_cache, choice, series_list, min(worker_count, len(series_list)))
    except KeyboardInterrupt:
        log.info("What is cached by now stays; start again to go on.")
        raise
    if rebuilt_count:
        log.warning(f"{process}{describe_rebuilt(rebuilt_count)}")
    if not to_do and not rebuilt_count:
        log.info(
            f"{process}Nothing to do: {folders.cache_dir} holds all {len(series_list)} scans with {nodule_count} "
            f"nodules ({ct_cache.volume() / 1e6:.1f} MB). {time.monotonic() - start:.1f} s."
        )
        return EXIT_DONE
    if len(errors) == len(series_list) and launch.is_alone:
        raise errors[0]
    for error in errors:
        log.warning(f"Skipped: {one_line(error)}")
    log.info(
        f"{process}Cached {len(to_do) - len(errors)} scans, skipped {len(errors)}. {folders.cache_dir}: "
        f"{nodule_count} nodules, {ct_cache.volume() / 1e6:.1f} MB. {time.monotonic() - start:.1f} s."
    )
    # torchrun takes any other status for a failure and ends all processes, those that are still at work too.
    return EXIT_SKIPPED if errors and launch.is_alone else EXIT_DONE


def parse_options(sys_argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line, or of this process's; what a preset stands for can be named, too."""
    parser = build_parser()
    preset = TrainingConfig(**PRESETS[parser.parse_args(sys_argv).preset])
    parser.set_defaults(**{name: getattr(preset, name) for name in PRESET_DEFAULTS})
    return parser.parse_args(sys_argv)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="precache.py", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=Folders.data_dir, help="LUNA16's subset*/ and CSV files")
    parser.add_argument("--cache-dir", type=Path, default=Folders.cache_dir, help="where the cache is kept")
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="book",
        help="of the training to come: strong reads more crops than book, and has other labels; the options below "
        "change what it stands for",
    )
    parser.add_argument(
        "--num-workers", type=positive_int, default=available_cores(), help="processes, on each machine"
    )
    crops = parser.add_argument_group("crops: as in the training to come")
    add_slice_distance(crops)
    add_negatives(crops)
    add_off_centre(crops)
    add_label_options(parser)
    return parser


def fill(
    ct_cache: CtCache, choice: CropChoice, series_list: Sequence[str], worker_count: int
) -> tuple[int, list[InputError]]:
    """Cache the series in worker processes.

    Returns: how many values were damaged and are made anew, those that `ct_cache` has come across before included; and
        an error for each series that cannot be read, sorted by its file.
    Raises: CacheError.
    """
    rebuilt_count = ct_cache.rebuilt_count
    errors: list[InputError] = []
    arguments = (ct_cache, choice)
    calls = map_in_processes(fill_series, series_list, worker_count, "Caching", "scan", start_worker, arguments)
    with closing(calls) as futures:  # a full disk ends it before its time
        for future in futures:
            try:
                rebuilt_count += future.result()
            except CacheError:
                raise
            except InputError as error:
                errors.append(error)
    return rebuilt_count, sorted(errors, key=str)  # not by which process was first


def start_worker(ct_cache: CtCache, choice: CropChoice) -> None:
    global worker_cache, worker_choice
    worker_cache, worker_choice = ct_cache, choice


def fill_series(series_uid: str) -> int:
    """Returns: how many of the series' values were damaged."""
    before = worker_cache.rebuilt_count
    worker_cache.fill(series_uid, worker_choice)
    return worker_cache.rebuilt_count - before


worker_cache: CtCache  # of a worker process: opened once, not once for each scan
worker_choice: CropChoice


if __name__ == "__main__":
    run_command(main)
