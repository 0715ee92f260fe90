"""Run all stress runs and print one table.

    python -m stress

Kills at random moments, a full disk, failing writes, power loss, too little memory, mutated files, damaged scans, busy
cores: each is also a command of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from p2ch13.util.errors import run_command
from p2ch13.util.options import non_negative_int, positive_int
from stress import SAMPLES_PER_EPOCH
from stress.command_line import add_work_dir, make_parser
from stress.report import Row, collect_rows, report


class Sizes(NamedTuple):
    """The size of each run."""

    kills: int
    samples: int  # in each of three epochs of the killed training
    disks: int  # for each of three commands
    files: int
    scans: int
    share: float  # of the scans, damaged
    busy_samples: int  # trained with and without busy loops
    loops: int
    writes: int | None  # of each of three commands, that fail; None: each one
    states: int | None  # of the disk after a loss of power, likewise
    limits: int  # of memory, likewise


LONG = Sizes(
    kills=30,
    samples=SAMPLES_PER_EPOCH,
    disks=5,
    files=10_000,
    scans=1000,
    share=0.05,
    busy_samples=800,
    loops=10,
    writes=None,
    states=None,
    limits=8,
)
SHORT = Sizes(
    kills=2,
    samples=24,
    disks=1,
    files=100,
    scans=60,
    share=0.4,
    busy_samples=64,
    loops=4,
    writes=1,
    states=1,
    limits=1,
)


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Returns: 1 if anything was lost."""
    args = build_parser().parse_args(sys_argv)
    sizes = SHORT if args.short else LONG
    if args.mutations is not None:
        sizes = sizes._replace(files=args.mutations)
    rows = []
    for what, part in make_parts(sizes, args.seed, args.work_dir, args.coverage).items():
        print(f"{what} ...", file=sys.stderr)
        rows += collect_rows(what, part)
    return report(rows)


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("stress", __doc__)
    parser.add_argument("--short", action="store_true", help="run a little of each")
    parser.add_argument("--mutations", type=positive_int, help="mutated files; default: 10,000, or 100 of a short run")
    parser.add_argument(
        "--coverage", action="store_true", help="measure which of the readers' lines mutated files reach"
    )
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of moments, files and damages")
    add_work_dir(parser)
    return parser


def make_parts(
    sizes: Sizes, seed: int, work_dir: Path | None, with_coverage: bool = False
) -> dict[str, Callable[[], list[Row]]]:
    """Map the name of each run to its function."""
    from stress.busy import train_beside_loops
    from stress.damaged_scans import damage_all
    from stress.faulty_system import meet_all
    from stress.full_disk import fill_all
    from stress.kills import kill_all

    return {
        "busy machine": lambda: train_beside_loops(sizes.loops, sizes.busy_samples, rounds=2, work_dir=work_dir),
        "damaged scans": lambda: damage_all(sizes.scans, sizes.share, seed, work_dir),
        "mutated files": lambda: mutate_all(sizes.files, seed, with_coverage),
        "full disk": lambda: fill_all(sizes.disks, seed, work_dir=work_dir),
        "faulty system": lambda: meet_all((sizes.writes, sizes.states, sizes.limits), work_dir),
        "kills": lambda: kill_all(sizes.kills, seed, sizes.samples, work_dir=work_dir),
    }


def mutate_all(count: int, seed: int, with_coverage: bool) -> list[Row]:
    """Run `stress.fuzz`, summed up in one row; print failures to stderr."""
    from stress.fuzz import fuzz
    from stress.reached import reached_lines

    start = time.monotonic()
    with reached_lines(with_coverage) as reached:
        tallies = fuzz(count, seed)
    failures = [failure for tally in tallies.values() for failure in tally.failures]
    for failure in failures:
        print(f"LOST, mutated files: seed {seed}, {failure}", file=sys.stderr)
    refused = sum(tally.refused for tally in tallies.values())
    return [
        Row(
            "mutated files",
            f"readers of {len(tallies)} kinds of files",
            f"{count:,} files",
            count - len(failures),
            time.monotonic() - start,
            lost=len(failures),
            note=f"{refused:,} refused in one line, the others read{reached.describe()}",
        )
    ]


if __name__ == "__main__":
    run_command(main)
