"""Damaged and hostile files: mutate small valid files at random and read them as a user's files.

    python -m stress.fuzz --count 10000 --seed 0

A file fails if its reader raises an undocumented error, dies, takes longer than `TIME_LIMIT_S`, or needs more memory
than `MEMORY_LIMIT_BYTES`, a thousand times the size of the files. Each file depends on the seed and its number alone;
`--only` reads one again and keeps it.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from p2ch13.util.errors import InputError, one_line, run_command
from p2ch13.util.options import non_negative_int, positive_int
from p2ch13.util.progress import progress_bar
from stress.command_line import make_parser
from stress.kinds import KINDS
from stress.mutations import mutate
from stress.reached import counting_lines, reached_lines
from tests.support.memory_limit import limit_memory

TIME_LIMIT_S = 10.0  # of processor time; most files take a hundredth of a second
STUCK_AFTER_S = 300.0  # without an outcome
SAVING_S = 10.0  # for a process that has read all files
MEMORY_LIMIT_BYTES = 2**28  # beyond the memory of a new process
OUT_OF_MEMORY = ("allocat", "memory")  # in a message: the reader ran out of memory, though it raised a documented error
REFUSED, READ = "refused", "read"


@dataclass
class Tally:
    """The outcomes of the files of a kind."""

    refused: int = 0
    read: int = 0
    failures: list[str] = field(default_factory=list)  # number and outcome of each file

    @property
    def file_count(self) -> int:
        return self.refused + self.read + len(self.failures)


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Returns: 1 if a file has failed."""
    args = build_parser().parse_args(sys_argv)
    if args.only is not None:
        print(read_mutated(args.seed, args.only, Path(f"fuzz-{args.seed}-{args.only}")))
        return 0
    start = time.monotonic()
    with reached_lines(args.coverage) as reached:
        tallies = fuzz(args.count, args.seed)
    print(format_table(tallies))
    failures = [failure for tally in tallies.values() for failure in tally.failures]
    for failure in failures:
        print(f"failed: seed {args.seed}, {failure}")
    print(f"{args.count:,} files in {time.monotonic() - start:.0f} s{reached.describe()}.")
    return 1 if failures else 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("stress.fuzz", __doc__)
    parser.add_argument("--count", type=positive_int, default=10_000, help="number of files, equally many of each kind")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the mutations")
    parser.add_argument("--coverage", action="store_true", help="measure which of the readers' lines they reach")
    parser.add_argument("--only", type=non_negative_int, metavar="NUMBER", help="read this file alone and keep it")
    return parser


def fuzz(count: int, seed: int) -> dict[str, Tally]:
    """Mutate and read so many files. Returns: kind -> outcomes."""
    names = list(KINDS)
    tallies = {name: Tally() for name in names}
    with progress_bar(count, "Reading", "file") as bar:
        for number, outcome in read_all(count, seed):
            tally = tallies[names[number % len(names)]]
            if outcome == REFUSED:
                tally.refused += 1
            elif outcome == READ:
                tally.read += 1
            else:
                tally.failures.append(f"file {number} ({names[number % len(names)]}): {outcome}")
            bar.update()
    return tallies


def format_table(tallies: dict[str, Tally]) -> str:
    """Format a line for each kind of file."""
    lines = ["| kind | files | refused | read | failed |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {tally.file_count:,} | {tally.refused:,} | {tally.read:,} | {len(tally.failures)} |"
        for name, tally in tallies.items()
    ]
    return "\n".join(lines)


def read_all(count: int, seed: int) -> Iterator[tuple[int, str]]:
    """Yield number and outcome of each file. A process reads them one by one; if it dies, another continues."""
    number = 0
    while number < count:
        with reading_process(seed, number, count) as (process, outcomes):
            while number < count:
                outcome = receive(outcomes)
                yield number, outcome or describe_end(process)
                number += 1
                if outcome is None:
                    break


def receive(outcomes: Connection) -> str | None:
    """Receive an outcome from a process; None if it is stuck or has died."""
    with contextlib.suppress(EOFError, OSError):
        if outcomes.poll(STUCK_AFTER_S):
            outcome: str = outcomes.recv()
            return outcome
    return None


def describe_end(process: BaseProcess) -> str:
    process.join(timeout=1)
    if process.is_alive() or process.exitcode == -signal.SIGPROF:
        return f"no end after {TIME_LIMIT_S:.0f} s"
    return f"the process ended with {process.exitcode}"


@contextlib.contextmanager
def reading_process(seed: int, first: int, stop: int) -> Iterator[tuple[BaseProcess, Connection]]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=read_files, args=(seed, first, stop, sender), daemon=True)
    process.start()
    sender.close()
    try:
        receiver.recv()  # ready: imports take seconds
        yield process, receiver
    finally:
        process.join(timeout=SAVING_S)
        process.kill()
        process.join()


def read_files(seed: int, first: int, stop: int, outcomes: Connection) -> None:
    """In a process: read the files of these numbers, one after the other."""
    with counting_lines(), tempfile.TemporaryDirectory() as folder:
        for ndx, kind in enumerate(KINDS.values()):  # loads libraries before memory is limited
            kind.write(Path(folder, str(ndx)))
            kind.read(Path(folder, str(ndx)))
        silence()
        limit_memory(MEMORY_LIMIT_BYTES)
        outcomes.send("ready")
        for number in range(first, stop):
            signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT_S)  # ends the process, whatever the reader does
            outcomes.send(read_mutated(seed, number, Path(folder, "mutated")))


def silence() -> None:
    """Discard the output: libraries print much about broken files."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream.fileno())


def read_mutated(seed: int, number: int, folder: Path) -> str:
    """Write the files of a kind, mutate one of them, read all. Returns: the outcome."""
    kind = list(KINDS.values())[number % len(KINDS)]
    rng = np.random.default_rng([seed, number])
    shutil.rmtree(folder, ignore_errors=True)
    targets = kind.write(folder)
    target = targets[int(rng.integers(len(targets)))]
    target.write_bytes(mutate(target.read_bytes(), rng))
    try:
        kind.read(folder)
    except InputError as error:
        message = one_line(error)
        if len(message.splitlines()) != 1 or any(word in message.lower() for word in OUT_OF_MEMORY):
            return f"InputError: {message}"
        return REFUSED
    except BaseException as error:  # any other exception is a bug
        return f"{type(error).__name__}: {one_line(error)[:200]}"
    return READ


if __name__ == "__main__":
    run_command(main)
