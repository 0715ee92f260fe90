"""Error lines, files and the progress bar."""

import logging
import os
import pickle
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from p2ch13.util import files
from p2ch13.util.errors import InputError, run_command, stop
from p2ch13.util.files import atomic_path, atomic_write, check_free_disk, make_writable_folder, written_together
from p2ch13.util.interruption import Interruption, signals_deferred
from p2ch13.util.launch import Launch
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.processes import map_in_processes
from p2ch13.util.progress import byte_progress_bar, progress_bar

REPOSITORY = Path(__file__).parents[2]


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

    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert end.value.code == status
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
    error = pickle.loads(pickle.dumps(InputError("no scan", **keywords)))  # as one comes from a worker process
    assert str(error) == text
    assert {name: getattr(error, name) for name in keywords} == keywords


def test_a_bug_keeps_its_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(main)


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_exit_status(returned, status):
    with pytest.raises(SystemExit) as end:
        run_command(lambda: returned)
    assert end.value.code == status


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "file"
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with atomic_write(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_library_that_writes_by_name_sees_the_suffix(tmp_path):
    path = tmp_path / "new" / "mask.nii.gz"
    with atomic_path(path) as unfinished:
        assert unfinished.name.endswith(".nii.gz")
        assert unfinished.name.startswith(".")
        unfinished.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as unfinished:
        unfinished.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path):
    """Not what a process at work, or one of another machine, is writing."""
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    names = [f".{host}.{pid}.tmp.a.state" for host in (platform.node(), "elsewhere") for pid in (killed.pid, 1)]
    for name in [*names, ".hidden"]:
        (tmp_path / name).write_text("half")
    with atomic_write(tmp_path / "file") as file:
        file.write(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], ".hidden", "file"])


def test_a_full_disk_is_one_line(tmp_path):
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from pathlib import Path\n"
        "from p2ch13.util.errors import run_command; from p2ch13.util.files import write_csv\n"
        f"run_command(lambda: write_csv(Path({str(tmp_path / 'new.csv')!r}), ['a'], [[ndx] for ndx in range(9999)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'new.csv'}: File too large\n")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_on_disk_before_its_name(tmp_path, monkeypatch):
    """And then the name."""
    done = []
    monkeypatch.setattr(files, "sync", lambda path: done.append((path, (tmp_path / "file").exists())))
    with atomic_write(tmp_path / "file") as file:
        file.write(b"whole")
    (unfinished, named), after = done
    assert unfinished.name.endswith(".tmp.file")
    assert (named, after) == (False, (tmp_path, True))


def test_files_appear_together(tmp_path):
    (tmp_path / "a").write_text("old")
    with written_together(tmp_path, "set") as folder:
        with atomic_write(folder / "a") as file:
            file.write(b"new")
        (folder / "b").write_text("new")
        assert (tmp_path / "a").read_text() == "old"
        assert not (tmp_path / "b").exists()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new"}


@pytest.mark.parametrize("error", [InputError("{}/a: no"), OSError(28, "No space left on device", "{}/a")])
def test_files_that_do_not_appear_together(tmp_path, error):
    """The error names the file as it would be called."""
    (tmp_path / "a").write_text("old")
    with pytest.raises(type(error)) as raised, written_together(tmp_path, "set") as folder:
        (folder / "a").write_text("new")
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, error.filename.format(folder))
        raise InputError(str(error).format(folder))
    assert f"{tmp_path}/a" in str(raised.value)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_files_waits(tmp_path, monkeypatch, signal_number):
    replace = Path.replace

    def replace_and_stop(path, target):
        replace(path, target)
        os.kill(os.getpid(), signal_number)

    monkeypatch.setattr(Path, "replace", replace_and_stop)
    handler = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(KeyboardInterrupt), written_together(tmp_path, "set") as folder:
            (folder / "a").write_text("new")
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new"}


def test_the_folder_of_a_killed_process_is_removed(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    for pid in (killed.pid, os.getpid()):  # the second: an earlier process that had this one's number
        folder = tmp_path / f".{platform.node()}.{pid}.tmp.set"
        folder.mkdir()
        (folder / "half").write_text("half")
    with written_together(tmp_path, "set") as folder:
        assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_signal_where_no_signals_are_handled():
    """In a thread."""
    done = []

    def work():
        with signals_deferred():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


def test_windows_neither_syncs_folders_nor_is_asked_for_processes(tmp_path, monkeypatch):
    """There, opening a folder fails, and signal 0 is Ctrl-C."""
    names = [f".{platform.node()}.999999.tmp.a"]
    (tmp_path / names[0]).write_text("half")
    real_open = os.open

    def open_no_folder(path, flags, *rest, **options):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise AssertionError("a file that cannot be written is not synced")
        return real_open(path, flags, *rest, **options)

    monkeypatch.setattr(files, "IS_WINDOWS", True)
    monkeypatch.setattr(files.os, "kill", lambda *arguments: pytest.fail("Ctrl-C to a process"))
    monkeypatch.setattr(files.os, "open", open_no_folder)
    try:
        files.remove_leftovers(tmp_path)
        files.sync(tmp_path)
        files.sync(tmp_path / names[0])
    finally:
        monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == names


def test_sigterm_ends_like_ctrl_c(capsys):
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            run_command(lambda: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert end.value.code == 143
    assert capsys.readouterr().err == "\nStopped by SIGTERM.\n"


def test_a_second_signal_ends_at_once():
    code = (
        "import os, signal; from p2ch13.util.interruption import Interruption\n"
        "with Interruption() as interruption:\n"
        "    os.kill(os.getpid(), signal.SIGINT); print(interruption.signal_number, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "2\n", "")
    handler = signal.getsignal(signal.SIGINT)
    with Interruption():
        pass
    assert signal.getsignal(signal.SIGINT) == handler


def test_an_ignored_signal_stays_ignored():
    """As a script wishes it for what it starts in the background."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            assert interruption.signal_number is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert interruption.signal_number == signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    code = (
        "import os, time; from pathlib import Path; from p2ch13.util.processes import map_in_processes\n"
        "from tests.util.test_util import note_process\n"
        f"list(map_in_processes(note_process, [Path({str(tmp_path)!r})] * 2, 2, 'Sleeping', 'process'))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    while len(list(tmp_path.iterdir())) < 2 and parent.poll() is None:
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    for _ in range(6000):  # two minutes on an idle machine; left alone, they would sleep for ten
        if not any(map(is_at_work, workers)):
            break
        time.sleep(0.02)
    assert not any(map(is_at_work, workers))


def is_at_work(process_id):
    """Not over, nor a zombie."""
    try:
        return " (zombie)" not in Path(f"/proc/{process_id}/status").read_text()
    except FileNotFoundError:
        return False


def note_process(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(600)


def test_a_folder_that_cannot_be_written(tmp_path):
    make_writable_folder(tmp_path / "a" / "b", "--runs-dir")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/runs: cannot be written .* --runs-dir"):
        make_writable_folder(tmp_path / "file" / "runs", "--runs-dir")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match="locked: cannot be written"):
        make_writable_folder(tmp_path / "locked", "--runs-dir")


def test_progress_bar_counts_up(capsys):
    with progress_bar(4, "Caching", "scan") as bar:
        bar.update(3)
        assert (bar.n, bar.total) == (3, 4)
    assert "Caching" in capsys.readouterr().err
    with progress_bar(4, "Caching", "scan", is_shown=False) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""


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
    with pytest.raises(InputError, match="a worker process was killed"):
        list(map_in_processes(die, range(3), 2, "Dying", "process"))


def test_log_lines_go_to_stdout(capsys):
    set_up_logging(Launch())
    logging.getLogger("p2ch13.test").info("hello")
    assert capsys.readouterr().out.endswith(" hello\n")


def test_bytes_that_are_there_count_for_the_bar(capsys):
    with byte_progress_bar(3_000_000, "a.zip", 1_000_000) as bar:
        assert bar.n == 1_000_000
        bar.update(2_000_000)
    assert "a.zip: 100%" in capsys.readouterr().err
    assert "3.00M/3.00M" in str(bar)


def test_a_full_disk_is_told_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2_500_000_000}))
    check_free_disk(tmp_path / "new" / "folder", 2_500_000_000, "unpacking", "--data-dir")
    with pytest.raises(InputError, match=r"new: unpacking needs 2\.6 GB, and 2\.5 GB are free; .* with --data-dir"):
        check_free_disk(tmp_path / "new", 2_600_000_000, "unpacking", "--data-dir")
