"""Damaged and hostile files: small valid ones, mutated at random, go through the readers as a user's files do.

    python -m stress.fuzz --count 10000 --seed 0

A file counts as failed if its reader raises anything but the errors that it documents, dies, takes longer than
`TIME_LIMIT_S`, or needs more memory than `MEMORY_LIMIT_BYTES`, which is a thousand times what the files hold. Each file
depends on the seed and its number alone; `--only` reads one again, and keeps it.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np

from p2ch13.util.errors import InputError, one_line, run_command
from p2ch13.util.options import non_negative_int, positive_int
from p2ch13.util.progress import progress_bar
from stress.mutations import mutate

TIME_LIMIT_S = 10.0  # of the processor, which others may be using as well; most files take a hundredth of a second
STUCK_AFTER_S = 300.0  # without a word
MEMORY_LIMIT_BYTES = 2**28  # beyond what a process has when it begins
OUT_OF_MEMORY = ("allocat", "memory")  # in a message: a limit was run into, although it was said politely
REFUSED, READ = "refused", "read"


class Kind(NamedTuple):
    """A kind of file.

    Args:
        write: makes valid files in a folder. Returns: those of which one is mutated.
        read: reads what is in the folder, as a user would have it. Raises: InputError.
    """

    write: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], None]


@dataclass
class Tally:
    """What became of the files of a kind."""

    refused: int = 0
    read: int = 0
    failures: list[str] = field(default_factory=list)  # number of the file, and what it did

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
    tallies = fuzz(args.count, args.seed)
    print(format_table(tallies))
    failures = [failure for tally in tallies.values() for failure in tally.failures]
    for failure in failures:
        print(f"failed: seed {args.seed}, {failure}")
    print(f"{args.count:,} files in {time.monotonic() - start:.0f} s.")
    return 1 if failures else 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stress.fuzz",
        description="Give the readers mutated files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--count", type=positive_int, default=10_000, help="files in all, of each kind as many")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="other files")
    parser.add_argument("--only", type=non_negative_int, metavar="NUMBER", help="read this one alone, and keep it")
    return parser


def fuzz(count: int, seed: int) -> dict[str, Tally]:
    """Mutate and read so many files. Returns: kind -> what became of them."""
    names = kind_names()
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
    """A line for each kind of file."""
    lines = ["| kind | files | refused | read | failed |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {tally.file_count:,} | {tally.refused:,} | {tally.read:,} | {len(tally.failures)} |"
        for name, tally in tallies.items()
    ]
    return "\n".join(lines)


def read_all(count: int, seed: int) -> Iterator[tuple[int, str]]:
    """Number and outcome of each file. A process reads them one by one, and is followed by another if it dies."""
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
    """What a process says; None if it says nothing in time, or has died."""
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
        receiver.recv()  # its first word, when all is imported, which takes seconds
        yield process, receiver
    finally:
        process.kill()
        process.join()


def read_files(seed: int, first: int, stop: int, outcomes: Connection) -> None:
    """In a process: the files of these numbers, one after the other."""
    from stress.kinds import KINDS

    with tempfile.TemporaryDirectory() as folder:
        for ndx, kind in enumerate(KINDS.values()):  # imports what they need, before memory is limited
            kind.write(Path(folder, str(ndx)))
            kind.read(Path(folder, str(ndx)))
        silence()
        limit_memory()
        outcomes.send("ready")
        for number in range(first, stop):
            signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT_S)  # ends the process, whatever it is doing
            outcomes.send(read_mutated(seed, number, Path(folder, "mutated")))


def silence() -> None:
    """Libraries have much to say of broken files."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream.fileno())


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def read_mutated(seed: int, number: int, folder: Path) -> str:
    """Write the files of a kind, mutate one of them, read all. Returns: how that ended."""
    from stress.kinds import KINDS

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
    except BaseException as error:  # a bug, whatever it is
        return f"{type(error).__name__}: {one_line(error)[:200]}"
    return READ


def kind_names() -> list[str]:
    from stress.kinds import KINDS

    return list(KINDS)


if __name__ == "__main__":
    run_command(main)
