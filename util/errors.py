"""Exit of a command: one line for a user's mistake, a traceback for a bug."""

from __future__ import annotations

import errno
import io
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from p2ch13.util.process_rank import ProcessRank

EXIT_DONE = 0
EXIT_SKIPPED = 1  # the work is done, except for items that were named and skipped
EXIT_USER_MISTAKE = 2
EXIT_SIGNAL = 128  # plus the signal's number, as shells report it: 130 for Ctrl-C, 143 for SIGTERM


NO_MEMORY = "memory ran out; end other programs, use fewer worker processes or a smaller batch, or a larger machine"
# Of libraries that raise RuntimeError for it: PyTorch, oneDNN, SimpleITK, Python's threads.
NO_MEMORY_WORDS = (
    *("allocate memory", "bad_alloc", "out of memory", "can't start new thread"),
    *("could not create a primitive", "could not execute a primitive"),
)


class InputError(ValueError):
    """Report input that cannot be used, in one line: the file, what is wrong, and the cure.

    Args:
        message: what is wrong and what to do; path and line, or else the option, are put in front of it.
        path, line: the file or folder at fault, and the line in it.
        option: the command line option that cures it, such as `--data-dir`.
    """

    def __init__(
        self, message: str, *, path: Path | None = None, line: int | None = None, option: str | None = None
    ) -> None:
        place = str(path) if line is None else f"{path}, line {line}"
        where = f"{place}: " if path is not None else f"{option}: " if option is not None else ""
        super().__init__(where + message)
        self.message = message
        self.path = path
        self.line = line
        self.option = option


class Stopped(KeyboardInterrupt):
    """Report that a signal ended the work, in one line; whatever handles Ctrl-C handles it."""

    def __init__(self, message: str, signal_number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's `main` and exit with its status.

    `InputError`, `OSError` (a read-only folder, a full disk) and lack of memory print one line on stderr and exit with
    status 2, Ctrl-C with 130, SIGTERM with 143. Any other exception is a bug and keeps its traceback.
    """
    make_streams_take_any_text()
    if ProcessRank.from_environment().is_alone:  # torchrun expects its processes to end at once
        signal.signal(signal.SIGTERM, stop)
    try:
        status = main() or EXIT_DONE
    except KeyboardInterrupt as interrupt:
        stopped = interrupt if isinstance(interrupt, Stopped) else Stopped("Stopped by Ctrl-C.")
        print(f"\n{stopped}", file=sys.stderr)
        status = EXIT_SIGNAL + stopped.signal_number
    except Exception as error:
        if not isinstance(error, InputError | OSError) and not is_out_of_memory(error):
            raise
        print(f"error: {NO_MEMORY if is_out_of_memory(error) else one_line(error)}", file=sys.stderr)
        status = EXIT_USER_MISTAKE
    sys.exit(status)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an allocation has failed, by Python's or another library's word for it, or led to this error."""
    if isinstance(error, OSError):
        is_it = error.errno == errno.ENOMEM
    else:
        is_said = isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY_WORDS)
        is_it = is_said or isinstance(error, MemoryError)
    return is_it or (error.__context__ is not None and is_out_of_memory(error.__context__))


def make_streams_take_any_text() -> None:
    """Have stdout and stderr write escapes for what their encoding lacks, where they would raise an error.

    ASCII of a C locale has no letter beyond English ones, and no encoding has the bytes of a file name that are not
    UTF-8. A process without one of the two, such as a service's, writes to nowhere.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = open(os.devnull, "w", errors="backslashreplace")  # noqa: PTH123, SIM115 (open as long as the process)
            setattr(sys, name, nowhere)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def stop(signal_number: int, frame: FrameType | None) -> NoReturn:
    """Raise `Stopped`, as Python raises KeyboardInterrupt on Ctrl-C."""
    raise Stopped(f"Stopped by {name_signal(signal_number)}.", signal_number)


def name_signal(signal_number: int) -> str:
    """Name a signal as people do: Ctrl-C for SIGINT."""
    return "Ctrl-C" if signal_number == signal.SIGINT else signal.Signals(signal_number).name


def one_line(error: BaseException) -> str:
    """Return an exception's message without line breaks; for an OSError, `file: reason`."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def name_type(value: object) -> str:
    """Name the type of a value, for an error: `int`, `numpy.ndarray`."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


@contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Turn errors of the file system and of decoders into an InputError that names the file."""
    try:
        yield
    except (RuntimeError, EOFError, OSError, struct.error) as error:
        if is_out_of_memory(error):
            raise MemoryError from None
        *_, last_line = str(error).strip().splitlines() or [type(error).__name__]
        reason = getattr(error, "strerror", None) or last_line.strip()
        raise InputError(f"cannot be read ({reason}); replace it with an intact copy", path=path) from None
