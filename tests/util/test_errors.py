import errno
import os
import pickle
import signal
from pathlib import Path

import pytest

from p2ch13.util.errors import InputError, is_out_of_memory, run_command
from tests.support.commands import exit_status


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("a.csv: no column\n  coordX"), 2, "error: a.csv: no column coordX\n"),
        (PermissionError(13, "Permission denied", "/models/a.state"), 2, "error: /models/a.state: Permission denied\n"),
        (OSError("disk on fire"), 2, "error: disk on fire\n"),
        (KeyboardInterrupt(), 130, "\nStopped by Ctrl-C.\n"),
    ],
)
def test_a_mistake_is_one_line(capsys, error, status, message):
    def main():
        raise error

    assert exit_status(main) == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({}, "no scan"),
        ({"path": Path("a.mhd")}, "a.mhd: no scan"),
        ({"path": Path("a.csv"), "line": 3, "option": "--data-dir"}, "a.csv, line 3: no scan"),
        ({"option": "--labels"}, "--labels: no scan"),
    ],
)
def test_where_the_mistake_is(keywords, text):
    error = pickle.loads(pickle.dumps(InputError("no scan", **keywords)))  # as from a worker process
    assert str(error) == text
    assert {name: getattr(error, name) for name in keywords} == keywords


def test_a_bug_keeps_its_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(main)


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_exit_status(returned, status):
    assert exit_status(lambda: returned) == status


def test_sigterm_ends_like_ctrl_c(capsys):
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert exit_status(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 143
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert capsys.readouterr().err == "\nStopped by SIGTERM.\n"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("can't start new thread"), True),
        (OSError(errno.ENOSPC, "No space left"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_one_line(error, expected, capsys):
    """Also where it led to another error."""

    def fail():
        try:
            raise error
        finally:
            raise InputError("damaged")

    assert is_out_of_memory(error) == expected
    assert exit_status(fail) == 2
    assert ("memory ran out" in capsys.readouterr().err) == expected
