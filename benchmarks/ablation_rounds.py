"""Find out what each option of the strong preset gains, in two rounds that can be continued: docs/ablation.json.

Every option is left out of a short run first. Those that gain little there are left out of longer ones, with two seeds.
Each row is written as its run is done, so a study that was stopped goes on with the next.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.kept import FORMAT_VERSION, read_kept
from benchmarks.machine import describe_cpu
from p2ch13.ablation import get_record, list_variants, with_labels
from p2ch13.config import AblationOptions, Folders
from p2ch13.training.provenance import get_commit, get_versions
from p2ch13.util.errors import run_command
from p2ch13.util.files import atomic_write
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.options import positive_int

log = logging.getLogger(__name__)

PRESET = "strong"
LEAST_GAIN = 0.03  # of CPM in the first round, for which an option is not looked at again
SMOKE_NOTE = "The smallest study that runs: its figures mean nothing."

Row = dict[str, Any]


class Round(NamedTuple):
    """A round's runs of each variant."""

    samples: int
    seeds: tuple[int, ...]


ROUNDS = (Round(20_000, (0,)), Round(60_000, (0, 1)))
SMOKE_ROUNDS = (Round(8, (0,)), Round(8, (1,)))


@dataclass(frozen=True)
class Study:
    """What is trained, and where rows are kept."""

    options: AblationOptions
    output: Path
    rounds: Sequence[Round]

    def variants(self) -> dict[str, list[str]]:
        """List name -> arguments of training, the preset first. The book's recipe is no option of it."""
        variants = with_labels(list_variants(PRESET), self.options)
        del variants["book"]
        return variants


def main(sys_argv: Sequence[str] | None = None) -> None:
    """Do the runs that are not done yet, and print what each option gains."""
    args = build_parser().parse_args(sys_argv)
    set_up_logging()
    if args.smoke:
        print(f"{SMOKE_NOTE}\n")
    folders = Folders(data_dir=args.data_dir, cache_dir=args.cache_dir)
    options = AblationOptions(
        **vars(folders),
        val_stride=args.val_stride,
        epochs=1,
        any_commit=True,
        output=args.runs,
        label_changes=labels_of(args),
    )
    study = Study(options, args.output, SMOKE_ROUNDS if args.smoke else ROUNDS)
    deadline = math.inf if args.minutes is None else time.monotonic() + 60 * args.minutes
    rows = read_rows(study.output)
    while run := find_next(study, rows):
        if time.monotonic() > deadline:
            log.info(f"Time is up after {len(rows)} runs; the same command goes on.")
            break
        rows = [*rows, do_run(study, *run)]
        write_rows(study.output, rows)
    print(format_gains(study, rows))


def labels_of(args: argparse.Namespace) -> dict[str, str]:
    return {} if args.labels is None else {"labels": args.labels}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation_rounds", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data/demo/scans"), help="annotated scans (%(default)s)")
    parser.add_argument("--cache-dir", type=Path, default=Path("data/demo/cache"), help="cache of crops (%(default)s)")
    parser.add_argument("--val-stride", type=int, default=4, help="every so manyth scan is scored (%(default)s)")
    parser.add_argument("--labels", help="of training and scores; the preset's, if it is not given")
    parser.add_argument("--runs", type=Path, default=Path("data/ablation-rounds"), help="for each run's scores")
    parser.add_argument("--output", type=Path, default=Path("docs/ablation.json"), help="rows (%(default)s)")
    parser.add_argument("--minutes", type=positive_int, help="begin no run after so many (no limit)")
    parser.add_argument("--smoke", action="store_true", help="check the command alone")
    return parser


def read_rows(path: Path) -> list[Row]:
    """Read the rows that are done, see `read_kept`."""
    rows: list[Row] = read_kept(path, "rows", list)
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    with atomic_write(path) as file:
        file.write(
            json.dumps({"format_version": FORMAT_VERSION, "rows": rows}, indent=1, allow_nan=False).encode() + b"\n"
        )


def find_next(study: Study, rows: Sequence[Row]) -> tuple[int, str, int] | None:
    """Find the first run that is not done: its round, from 1, variant and seed; None after the last."""
    done = {(row["round"], row["variant"], row["seed"]) for row in rows}
    return next((run for run in list_runs(study, rows) if run not in done), None)


def list_runs(study: Study, rows: Sequence[Row]) -> Iterator[tuple[int, str, int]]:
    """List all runs: those of the second round once the first one's are known."""
    names = list(study.variants())
    yield from ((1, name, seed) for seed in study.rounds[0].seeds for name in names)
    doubtful = [name for name in names[1:] if (gain := find_gain(rows, 1, name)) is not None and gain < LEAST_GAIN]
    yield from ((2, name, seed) for seed in study.rounds[1].seeds for name in (names[0], *doubtful))


def do_run(study: Study, number: int, name: str, seed: int) -> Row:
    """Train and score a variant. Returns: its row."""
    start = time.monotonic()
    size = study.rounds[number - 1]
    log.info(f"Round {number}: {name}, seed {seed}, {size.samples:,} samples")
    options = replace(study.options, samples_per_epoch=size.samples, output=study.options.output / f"round{number}")
    code = {"commit": get_commit(), "versions": get_versions()}
    scores = get_record(options, name, study.variants()[name], seed, code)["scores"]
    return {
        "round": number,
        "variant": name,
        "seed": seed,
        "samples": size.samples,
        "cpm": scores["froc"]["cpm"],
        "nodules_found": scores["nodules"]["recall"],
        "false_positives_per_scan": scores["findings"]["false_positives_per_scan"],
        "voxel_dice": scores["voxels"]["dice"],
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": code["commit"],
        "processor": describe_cpu(),
        "seconds": round(time.monotonic() - start),
    }


def find_gain(rows: Sequence[Row], number: int, name: str) -> float | None:
    """Find the CPM that a round loses without an option, on average over the seeds; None before its first run."""
    with_it, without = (
        {row["seed"]: row["cpm"] for row in rows if row["round"] == number and row["variant"] == variant}
        for variant in (PRESET, name)
    )
    seeds = with_it.keys() & without.keys()
    return fmean(with_it[seed] - without[seed] for seed in seeds) if seeds else None


def format_gains(study: Study, rows: Sequence[Row]) -> str:
    """Format a Markdown table of what each option gains in each round."""
    lines = ["| left out | gain of CPM, round 1 | round 2 |", "| --- | ---: | ---: |"]
    for name in list(study.variants())[1:]:
        gains = [find_gain(rows, number, name) for number in (1, 2)]
        lines.append(
            f"| {name.removeprefix('without ')} | {' | '.join('' if g is None else f'{g:+.3f}' for g in gains)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
