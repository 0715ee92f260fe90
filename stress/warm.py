"""Commands in copies of a process that has loaded their libraries: a copy begins at once, and is what a fault meets."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import Any, NamedTuple
from unittest.mock import patch

from p2ch13.__main__ import find_module
from p2ch13.util.errors import run_command
from stress.report import LostError

MISTAKE = 2  # exit status of a command that ended in one line
STUCK_AFTER_S = 120
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a process with more cannot be copied
Command = Sequence[str]  # the command's name and its options


class Ended(NamedTuple):
    """How a command ended: its exit status, or minus the signal that ended it; all that it printed."""

    status: int
    output: str

    @property
    def is_done(self) -> bool:
        return self.status == 0

    def check_one_line(self, what: str) -> None:
        """Raises: LostError unless the command ended in one line that says what is wrong."""
        errors = [line for line in self.output.splitlines() if line.startswith("error: ")]
        if self.status != MISTAKE or len(errors) != 1 or "Traceback" in self.output:
            raise LostError(f"{what}: status {self.status}, {self.output[-2000:]}")


def in_new_process(function: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None) -> Any:
    """Call a function of a module in a new process with these variables, where it can call `run_copy`."""
    context = multiprocessing.get_context("spawn")
    with patch.dict(os.environ, {**ONE_THREAD, **(environment or {})}), ProcessPoolExecutor(1, context) as executor:
        return executor.submit(call_as_usual, function, *arguments).result()


def call_as_usual(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function with the usual way to start processes of Linux, which this process was not started in."""
    multiprocessing.set_start_method("fork", force=True)
    return function(*arguments)


def run_copy(command: Command, prepare: Callable[[], object] | None = None) -> Ended:
    """Run a command in a copy of this process, which has a single thread. Args: prepare: called there before it."""
    main = import_module(find_module(command[0])).main
    with TemporaryFile() as output:
        process_id = os.fork()
        if process_id == 0:
            try:
                run_here(lambda: main(list(command[1:])), output.fileno(), prepare)
            finally:
                os._exit(70)
        _, status = os.waitpid(process_id, 0)
        output.seek(0)
        return Ended(os.waitstatus_to_exitcode(status), output.read().decode(errors="replace"))


def run_first(command: Command) -> None:
    """Run a command to its end, and load here what it has loaded: later copies need not. Raises: LostError."""
    with NamedTemporaryFile("r+") as names:
        ended = run_copy(
            [*command], lambda: atexit.register(lambda: Path(names.name).write_text("\n".join(sys.modules)))
        )
        if not ended.is_done:
            raise LostError(f"{' '.join(command)}: status {ended.status}, {ended.output[-2000:]}")
        for name in names.read().split():
            with suppress(Exception):
                import_module(name)


def run_here(main: Callable[[], int | None], output: int, prepare: Callable[[], object] | None) -> None:
    """In the copy: run a command to its end, and exit with its status as Python would."""
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(STUCK_AFTER_S)
    status = 1
    try:
        if prepare is not None:
            prepare()
        run_command(main)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
