import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from p2ch13.util.processes import map_in_processes
from tests.support.checks import refused
from tests.support.commands import REPOSITORY


def double(number):
    return 2 * number


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def set_offset(offset):
    global started_with
    started_with = offset


def add_offset(number):
    return number + started_with


def test_work_in_processes():
    assert sorted(future.result() for future in map_in_processes(double, range(5), 2, "Doubling", "number")) == [
        0, 2, 4, 6, 8
    ]  # fmt: skip
    futures = map_in_processes(add_offset, range(3), 2, "Adding", "number", set_offset, (10,))
    assert sorted(future.result() for future in futures) == [10, 11, 12]


def test_an_error_in_a_process_is_the_callers():
    (future,) = map_in_processes(double, [None], 1, "Doubling", "number")
    assert isinstance(future.exception(), TypeError)


def test_a_killed_process_does_not_hang():
    with refused():
        list(map_in_processes(die, range(3), 2, "Dying", "process"))


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    code = (
        "import os, time; from pathlib import Path; from p2ch13.util.processes import map_in_processes\n"
        "from tests.util.test_processes import note_process\n"
        f"list(map_in_processes(note_process, [Path({str(tmp_path)!r})] * 2, 2, 'Sleeping', 'process'))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    while len(list(tmp_path.iterdir())) < 2 and parent.poll() is None:
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    for _ in range(6000):  # two minutes; the workers would sleep for ten
        if not any(map(is_at_work, workers)):
            break
        time.sleep(0.02)
    assert not any(map(is_at_work, workers))


def is_at_work(process_id):
    """Return whether a process exists and is no zombie."""
    try:
        return " (zombie)" not in Path(f"/proc/{process_id}/status").read_text()
    except FileNotFoundError:
        return False


def note_process(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(600)
