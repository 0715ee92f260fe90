"""That failing writes and a loss of power happen as `stress.faults` and `stress.power_loss` say."""

import errno
import os
import subprocess
import sys

import pytest

from stress.faults import CONTROL, Operation, compile_library, is_possible, parse_log
from stress.io_errors import spread
from stress.power_loss import Disk
from stress.report import LostError
from stress.warm import Ended
from stress.work import Work

pytestmark = pytest.mark.skipif(not is_possible(), reason="needs a C compiler")

PROGRAM = """
import os, sys
folder = sys.argv[1]
with open(f"{folder}/a", "wb") as file:
    file.write(b"one")
    file.flush()
    os.fsync(file.fileno())
os.replace(f"{folder}/a", f"{folder}/b")
os.remove(f"{folder}/b")
"""


def run_program(tmp_path, fail_at):
    """Returns: the program's error, and the log."""
    watched = tmp_path / "watched"
    watched.mkdir(exist_ok=True)
    environment = compile_library(tmp_path, watched)
    (tmp_path / "control").write_bytes(CONTROL.pack(0, fail_at, errno.ENOSPC))
    command = [sys.executable, "-c", PROGRAM, str(watched)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("\n")[2], list(parse_log((tmp_path / "log").read_bytes()))


def test_all_writes_are_logged(tmp_path):
    error, log = run_program(tmp_path, fail_at=0)
    a, b = (str(tmp_path / "watched" / name) for name in "ab")
    assert error == ""
    assert [(done.what, done.name, done.data) for done in log] == [
        ("c", a, b""),
        ("w", "", b"one"),
        ("s", a, b""),
        ("r", a, os.fsencode(b)),
        ("u", b, b""),
    ]


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
def test_one_write_fails(tmp_path, fail_at):
    """Creating, writing, syncing and renaming are writes; removing is none."""
    error, log = run_program(tmp_path, fail_at)
    assert os.strerror(errno.ENOSPC) in error
    assert "r" not in [done.what for done in log]  # the program did not go on


def test_what_a_loss_of_power_leaves(tmp_path):
    """A file that is synced before it is renamed, and one that is not; then their folder is synced."""
    for name in ("old", "other"):
        (tmp_path / name).write_bytes(b"earlier")
    disk = Disk(tmp_path)
    old, other, new, late = (str(tmp_path / name) for name in ("old", "other", "new", "late"))
    for number, (name, data) in enumerate([(new, b"synced"), (late, b"lost")]):
        disk.apply(Operation("c", -number - 1, 0, name, b""))
        disk.apply(Operation("w", -number - 1, 0, "", data))
    disk.apply(Operation("s", -1, 0, new, b""))
    disk.apply(Operation("r", 0, 0, new, os.fsencode(old)))
    disk.apply(Operation("r", 0, 0, late, os.fsencode(other)))
    before = {old: b"earlier", other: b"earlier"}
    after = {old: b"synced", other: b""}
    assert disk.after_power_loss() == [after, before]
    disk.apply(Operation("s", 0, 0, str(tmp_path), b""))
    assert disk.after_power_loss() == [after, after]


def test_a_loss_is_noticed(tmp_path):
    before, folder = tmp_path / "before", tmp_path / "folder"
    for place in (before, folder):
        place.mkdir()
        (place / "a.csv").write_bytes(b"old")
    work = Work("any", ["any"], folder, before, dict)
    new = {str(folder / "a.csv"): b"new"}
    work.check_old_or_new("here", new)
    (folder / "a.csv").write_bytes(b"ne")
    with pytest.raises(LostError):
        work.check_old_or_new("here", new)
    (folder / "a.csv").unlink()
    with pytest.raises(LostError):
        work.check_nothing_lost("here")
    work.reset()
    (folder / ".host.1.tmp.a.csv").touch()
    with pytest.raises(LostError):
        work.check_nothing_lost("here")


@pytest.mark.parametrize(
    "ended", [Ended(1, "error: a\n"), Ended(2, "error: a\nerror: b\n"), Ended(2, "Traceback\nerror: a")]
)
def test_one_line_is_all_that_a_command_may_say(ended):
    Ended(2, "found\nerror: a\n").check_one_line("here")
    with pytest.raises(LostError):
        ended.check_one_line("here")


def test_chosen_numbers():
    assert spread(5, None) == spread(5, 9) == [1, 2, 3, 4, 5]
    assert spread(9, 3) == [1, 5, 9]
    assert spread(9, 1) == [1]
