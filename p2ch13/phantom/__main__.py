"""Command line: python -m p2ch13.phantom OUT_DIR [--scans N] [--seed S] [--num-workers W]."""

from __future__ import annotations

import argparse
from pathlib import Path

from p2ch13.phantom import write_phantoms
from p2ch13.util.errors import run_command
from p2ch13.util.options import non_negative_int, positive_int
from p2ch13.util.threads import available_cores


def build_parser() -> argparse.ArgumentParser:
    """The options of `python -m p2ch13.phantom`."""
    parser = argparse.ArgumentParser(
        prog="python -m p2ch13.phantom",
        description="Write invented chest CT scans with nodules, in the LUNA16 layout, as a demo data set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out_dir", type=Path, help="folder to write to; must not hold scans yet")
    parser.add_argument("--scans", type=positive_int, default=20, help="how many; a scan takes some 30 MB")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="another seed gives other patients")
    parser.add_argument(
        "--num-workers", type=positive_int, default=available_cores(), help="processes; the files do not depend on it"
    )
    return parser


def main(sys_argv: list[str] | None = None) -> None:
    """Write the data set and say what to do with it."""
    options = build_parser().parse_args(sys_argv)
    done = write_phantoms(options.out_dir, options.scans, options.seed, options.num_workers)
    print(f"{done.scans} scans with {done.nodules} nodules, {done.megabytes:.0f} MB, in {done.seconds:.0f} s")
    print(f"Next: python precache.py --data-dir {options.out_dir}")


if __name__ == "__main__":
    run_command(main)
