"""How a command line ends: one line for a user's mistake, a traceback only for a bug."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

EXIT_DONE = 0
EXIT_SKIPPED = 1  # the work is done, but for what was named and left out
EXIT_USER_MISTAKE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C


class InputError(ValueError):
    """What the user gave cannot be used; the message is one line that names the file and the cure."""


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command line's `main` and leave the process with its exit status.

    `InputError` and `OSError` (a folder that cannot be written, a full disk) end in one line on stderr and status 2,
    Ctrl-C in status 130. Anything else is a bug and keeps its traceback.
    """
    try:
        status = main() or EXIT_DONE
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        status = EXIT_INTERRUPTED
    except (InputError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        status = EXIT_USER_MISTAKE
    sys.exit(status)


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
