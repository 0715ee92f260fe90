"""That `python -m stress.full_disk` would notice what a full disk must not do."""

import sys

import pytest

from stress.full_disk import Disk
from stress.report import LostError


def command(code):
    """Says that the disk is full, as all commands should, unless the code ends before."""
    return [sys.executable, "-c", f"import sys; {code}; sys.stderr.write('error: x: full\\n'); sys.exit(2)"]


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path, is_mounted=False)


def test_one_line_is_all_that_a_full_disk_may_leave(disk):
    assert disk.run_full(command("0"), 100)
    assert not disk.run_full(command("sys.exit()"), 100)
    for code in ("sys.exit(1)", "1 / 0", "sys.stderr.write('Traceback')", "sys.stderr.write('error: one more\\n')"):
        with pytest.raises(LostError):
            disk.run_full(command(code), 100)
    (disk.folder / ".host.1.tmp.a.state").touch()
    with pytest.raises(LostError):
        disk.run_full(command("0"), 100)


def test_there_is_as_much_room_as_is_said(disk):
    write = command(f"import pathlib; pathlib.Path({str(disk.folder / 'file')!r}).write_bytes(bytes(5000)); sys.exit()")
    disk.run_to_end(write)
    assert not disk.run_full(write, 5000)
    with pytest.raises(LostError, match="File too large"):
        disk.run_full(write, 4999)
    with pytest.raises(LostError):
        disk.run_to_end(command("0"))
