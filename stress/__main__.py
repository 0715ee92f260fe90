"""Run all stress runs and print one table.

    python -m stress

Kills at random moments, a full disk, mutated files, damaged scans, busy cores: each is also a command of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from p2ch13.util.errors import run_command
from p2ch13.util.options import non_negative_int
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


LONG = Sizes(
    kills=30, samples=SAMPLES_PER_EPOCH, disks=5, files=10_000, scans=1000, share=0.05, busy_samples=800, loops=10
)
SHORT = Sizes(kills=2, samples=24, disks=1, files=100, scans=60, share=0.4, busy_samples=64, loops=4)


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Returns: 1 if anything was lost."""
    args = build_parser().parse_args(sys_argv)
    sizes = SHORT if args.short else LONG
    rows = []
    for what, part in make_parts(sizes, args.seed, args.work_dir).items():
        print(f"{what} ...", file=sys.stderr)
        rows += collect_rows(what, part)
    return report(rows)


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("stress", __doc__)
    parser.add_argument("--short", action="store_true", help="run a little of each")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of moments, files and damages")
    add_work_dir(parser)
    return parser


def make_parts(sizes: Sizes, seed: int, work_dir: Path | None) -> dict[str, Callable[[], list[Row]]]:
    """Map the name of each run to its function."""
    from stress.busy import train_beside_loops
    from stress.damaged_scans import damage_all
    from stress.full_disk import fill_all
    from stress.kills import kill_all

    return {
        "busy machine": lambda: train_beside_loops(sizes.loops, sizes.busy_samples, rounds=2, work_dir=work_dir),
        "damaged scans": lambda: damage_all(sizes.scans, sizes.share, seed, work_dir),
        "mutated files": lambda: mutate_all(sizes.files, seed),
        "full disk": lambda: fill_all(sizes.disks, seed, work_dir=work_dir),
        "kills": lambda: kill_all(sizes.kills, seed, sizes.samples, work_dir=work_dir),
    }


def mutate_all(count: int, seed: int) -> list[Row]:
    """Run `stress.fuzz`, summed up in one row; print failures to stderr."""
    from stress.fuzz import fuzz

    start = time.monotonic()
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
            note=f"{refused:,} refused in one line, the others read",
        )
    ]


if __name__ == "__main__":
    run_command(main)
