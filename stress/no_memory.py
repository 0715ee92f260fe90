"""Give commands too little memory, and check that each says so in one line.

    python -m stress.no_memory --count 12

A limit on the process's address space (RLIMIT_AS) lets an allocation fail, the earlier the lower it is: first there is
nearly no memory left when a command begins, in the end enough of it. Results of an earlier run stay, no unfinished file
does, and the same command without a limit then leaves what it leaves undisturbed.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from p2ch13.util.errors import run_command
from p2ch13.util.options import positive_int
from stress.command_line import add_work_dir, make_parser, run_part
from stress.report import LostError, Row
from stress.warm import Ended, in_new_process, run_copy
from stress.work import Work, prepare_work
from tests.support.memory_limit import limit_memory

# Beyond what the libraries have. With less, Python's pool of processes cannot start its threads, and waits forever.
OPENBLAS_END = "OpenBLAS error: Memory allocation still failed after 10 retries, giving up.\n"
LEAST_BYTES, MOST_BYTES = 2**25, 2**29


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Returns: 1 if something was lost."""
    return run_part("no memory", limit_all, build_parser().parse_args(sys_argv))


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("stress.no_memory", __doc__)
    parser.add_argument("--count", type=positive_int, default=12, help="limits for each command")
    add_work_dir(parser)
    return parser


def limit_all(count: int, work_dir: Path | None = None) -> list[Row]:
    """Raises: LostError."""
    with tempfile.TemporaryDirectory(dir=work_dir) as name:
        rows: list[Row] = in_new_process(limit_each, Path(name).resolve(), count)
        return rows


def limit_each(folder: Path, count: int) -> list[Row]:
    return [limit_memory_of(work, count) for work in prepare_work(folder, folder / "watched")]


def limit_memory_of(work: Work, count: int) -> Row:
    start = time.monotonic()
    ended = 0
    for ndx in range(count):
        more_bytes = round(LEAST_BYTES * (MOST_BYTES / LEAST_BYTES) ** (ndx / max(1, count - 1)))
        what = f"{work.name} with {more_bytes / 2**20:.1f} MB"
        work.reset()
        done = run_copy(work.command, functools.partial(limit_memory, more_bytes))
        work.check_nothing_lost(what)
        if not done.is_done:
            ended += 1
            check_said(done, what)
            again = run_copy(work.command)
            if not again.is_done:
                raise LostError(f"after {what}: status {again.status}, {again.output[-2000:]}")
        work.check(what)
    return Row(
        f"too little memory for {work.name}",
        f"{count} runs, each again to its end",
        f"{count} limits, {LEAST_BYTES >> 20} to {MOST_BYTES >> 20} MB beyond its libraries",
        count,
        time.monotonic() - start,
        note=f"{ended} ended in one line that says so, the others had enough; results bit for bit",
    )


def check_said(done: Ended, what: str) -> None:
    """Raises: LostError unless a line says that memory ran out: the command's, or OpenBLAS's, which ends it."""
    if done.output.endswith(OPENBLAS_END):
        return
    done.check_one_line(what)
    if "memory" not in done.output.rpartition("error: ")[2]:
        raise LostError(f"{what}: it does not say that memory ran out: {done.output[-2000:]}")


if __name__ == "__main__":
    run_command(main)
