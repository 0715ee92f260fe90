"""How a command line ends: one line for a user's mistake, a traceback only for a bug."""

from __future__ import annotations

import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from p2ch13.util.launch import Launch

EXIT_DONE = 0
EXIT_SKIPPED = 1  # the work is done, but for what was named and left out
EXIT_USER_MISTAKE = 2
EXIT_SIGNAL = 128  # and the signal's number, which is what a shell reports: 130 for Ctrl-C, 143 for SIGTERM


class InputError(ValueError):
    """The user's input cannot be used: one line that names the file, what is wrong, and the cure.

    Args:
        message: what is wrong and what to do; the path and the line, or else the option, are put in front of it.
        path, line: the file or folder at fault, and the line in it.
        option: the command line's option that can mend it, such as `--data-dir`.
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
    """A signal has ended the work; the message is one line for the user. Handled wherever Ctrl-C is."""

    def __init__(self, message: str, signal_number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command line's `main` and leave the process with its exit status.

    `InputError` and `OSError` (a folder that cannot be written, a full disk) end in one line on stderr and status 2,
    Ctrl-C in status 130, SIGTERM in 143. Anything else is a bug and keeps its traceback.
    """
    if Launch.from_environment().is_alone:  # torchrun wants its processes to end at once, whatever they are waiting for
        signal.signal(signal.SIGTERM, stop)
    try:
        status = main() or EXIT_DONE
    except KeyboardInterrupt as interrupt:
        stopped = interrupt if isinstance(interrupt, Stopped) else Stopped("Stopped by Ctrl-C.")
        print(f"\n{stopped}", file=sys.stderr)
        status = EXIT_SIGNAL + stopped.signal_number
    except (InputError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        status = EXIT_USER_MISTAKE
    sys.exit(status)


def stop(signal_number: int, frame: FrameType | None) -> NoReturn:
    """What Python does on Ctrl-C, for another signal."""
    raise Stopped(f"Stopped by {signal.Signals(signal_number).name}.", signal_number)


def one_line(error: BaseException) -> str:
    """The message of an exception, without line breaks; an OSError as `file: what is wrong`."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Turn what SimpleITK, gzip and the file system raise into an InputError that names the file."""
    try:
        yield
    except (RuntimeError, EOFError, OSError, struct.error) as error:
        reason = (
            getattr(error, "strerror", None) or (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        )
        raise InputError(f"{path}: cannot be read as a scan ({reason}); unpack or download it again") from None
