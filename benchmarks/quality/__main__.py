"""Score the network in the package, part by part, and write the figures with their targets to docs/quality.json.

    python -m benchmarks.quality --real DIR [--left-out NAME=STATE ...] [--part NAME ...]

Each part overwrites its own entry as soon as it is done, `left-out` one for each lung, so that an interrupted run can
go on with what is missing. Parts whose scans or networks are not given are skipped. The model card's tables are made
from the file by `python -m benchmarks.model_card`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.model_card import QUALITY_FILE
from benchmarks.quality.parts import NEEDS, PARTS, measure_part
from benchmarks.quality.results import SUMMARY, add_part, describe_run, join_tables, read_parts
from benchmarks.quality.scans import QualityScans, Setup
from benchmarks.tables import format_rows
from p2ch13.util.errors import InputError, run_command
from p2ch13.util.files import make_writable_folder
from p2ch13.util.logconf import set_up_logging
from p2ch13.weights import find_weights

log = logging.getLogger("benchmarks.quality")


def main(sys_argv: Sequence[str] | None = None) -> None:
    """Raises: InputError if a network or scans cannot be used."""
    sys_argv = sys.argv[1:] if sys_argv is None else sys_argv
    args = build_parser().parse_args(sys_argv)
    set_up_logging()
    make_writable_folder(args.work_dir, "--work-dir")
    phantoms, left_out = args.phantoms or args.work_dir / "phantoms", dict(map(parse_left_out, args.left_out))
    setup = Setup(args.checkpoint or find_weights(), args.work_dir, phantoms, args.real, left_out)
    measure_parts(setup, args.part or PARTS, args.output, sys_argv)


def measure_parts(setup: Setup, names: Sequence[str], output: Path, sys_argv: Sequence[str]) -> None:
    """Measure parts, write each one when it is done, and print the table of all that are."""
    run, scans = describe_run(setup.checkpoint, sys_argv), QualityScans(setup)
    tables = join_tables(read_parts(output))
    for name in names:
        start, is_measured = time.monotonic(), False
        for entry, part in measure_part(name, scans):
            tables = add_part(output, entry, part, {**run, "seconds": round(time.monotonic() - start)})
            log.info(f"{entry}: {sum(figure.met for figure in part.figures)} of {len(part.figures)} targets met.")
            start, is_measured = time.monotonic(), True
        if not is_measured:
            log.info(f"{name}: skipped; it needs {NEEDS[name]}.")
    if SUMMARY in tables:
        log.info(f"\n{format_rows(tables[SUMMARY])}\n\n{output}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, help=".state file to score (default: the network in the package)")
    parser.add_argument(
        "--real",
        type=Path,
        help="folder of real scans: test/ with LIDC-IDRI-0001, its consensus mask and LUNA16's rows; training/, the "
        "backgrounds of the training; unverified/, other lungs",
    )
    parser.add_argument(
        "--left-out",
        action="append",
        default=[],
        metavar="NAME=STATE",
        help="network that was trained without this scan of training/; for each scan",
    )
    parser.add_argument("--phantoms", type=Path, help="their folder, made if missing (default: in --work-dir)")
    parser.add_argument("--work-dir", type=Path, default=Path("data/quality"), help="for scans and reports")
    parser.add_argument("--part", action="append", choices=PARTS, help="measure this part alone (default: all)")
    parser.add_argument("--output", type=Path, default=QUALITY_FILE, help="file of scores (default: %(default)s)")
    return parser


def parse_left_out(text: str) -> tuple[str, Path]:
    """Parse NAME=STATE. Raises: InputError if it is none."""
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise InputError(f"{text!r} is not NAME=STATE; name a scan and its network", option="--left-out")
    return name, Path(path)


if __name__ == "__main__":
    run_command(main)
