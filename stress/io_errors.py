"""Let each single write of precache, training and prediction fail once, in turn, and check that nothing is lost.

    python -m stress.io_errors

Creating, writing, syncing, renaming or cutting a file, each in turn, fails as on a broken (EIO) or full (ENOSPC) disk.
The command has to end in one line, or go on without that write. The results of an earlier run stay, no unfinished file
does, and the same command then leaves what it leaves undisturbed. Needs a C compiler: see `stress.faults`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from p2ch13.util.errors import run_command
from p2ch13.util.options import positive_int
from stress.command_line import add_work_dir, make_parser, run_part
from stress.faults import ERRORS, Faults, compile_library, is_possible
from stress.report import LostError, Row
from stress.warm import in_new_process, run_copy
from stress.work import Work, prepare_work

NOT_POSSIBLE = "not run: needs a C compiler (cc) on Linux"


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Returns: 1 if something was lost."""
    return run_part("failing writes", fail_all, build_parser().parse_args(sys_argv))


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("stress.io_errors", __doc__)
    parser.add_argument("--count", type=positive_int, help="writes that fail, of each command; default: each one")
    add_work_dir(parser)
    return parser


def fail_all(count: int | None = None, work_dir: Path | None = None) -> list[Row]:
    """Args: count: of the failing writes of each command, spread over all of its writes. Raises: LostError."""
    if not is_possible():
        return [Row("failing writes", NOT_POSSIBLE, "", 0, 0.0)]
    with tempfile.TemporaryDirectory(dir=work_dir) as name:
        folder = Path(name).resolve()
        watched = folder / "watched"
        rows: list[Row] = in_new_process(
            fail_each, folder, watched, count, environment=compile_library(folder, watched)
        )
        return rows


def fail_each(folder: Path, watched: Path, count: int | None) -> list[Row]:
    """In a process with the library: let the writes of each command fail."""
    faults = Faults()
    return [fail_writes_of(work, faults, count) for work in prepare_work(folder, watched)]


def fail_writes_of(work: Work, faults: Faults, count: int | None) -> Row:
    start = time.monotonic()
    work.reset()
    faults.start()
    run_copy(work.command)
    total = faults.count
    numbers = spread(total, count)
    met = ended = 0
    for number in numbers:
        error = ERRORS[number % len(ERRORS)]
        what = f"{work.name}, write {number} of {total}: {os.strerror(error)}"
        work.reset()
        faults.start(number, error)
        done = run_copy(work.command)
        met += faults.count >= number
        faults.start()
        work.check_nothing_lost(what)
        if not done.is_done:
            ended += 1
            done.check_one_line(what)
            again = run_copy(work.command)
            if not again.is_done:
                raise LostError(f"after {what}: status {again.status}, {again.output[-2000:]}")
        work.check(what)
    return Row(
        f"failing writes of {work.name}",
        f"{len(numbers)} runs, each again to its end",
        f"{met} of {total} writes, EIO and ENOSPC",
        len(numbers),
        time.monotonic() - start,
        note=f"{ended} ended in one line, the others without that write; results bit for bit",
    )


def spread(total: int, count: int | None) -> list[int]:
    """Choose so many of the numbers from 1 to a total, evenly, or all of them."""
    if count is None or count >= total:
        return list(range(1, total + 1))
    return sorted({1 + ndx * (total - 1) // max(1, count - 1) for ndx in range(count)})


if __name__ == "__main__":
    run_command(main)
