import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2ch13.util import files
from p2ch13.util.errors import InputError, stop
from p2ch13.util.files import (
    BoundedReader,
    atomic_path,
    atomic_write,
    check_free_disk,
    make_writable_folder,
    written_together,
)
from tests.support.checks import refused
from tests.support.commands import run_python
from tests.support.memory_limit import limited_memory


def test_a_write_is_atomic(tmp_path):
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


def test_an_unfinished_file_keeps_the_suffix(tmp_path):
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


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    """Those of running processes and of other machines are kept."""
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
    done = run_python("-c", code, status=None)
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


@pytest.mark.parametrize(
    "make_error", [lambda path: InputError(f"no {path}", path=path), lambda path: OSError(28, "No space", str(path))]
)
def test_files_that_do_not_appear_together(tmp_path, make_error):
    """The error has the file's final name."""
    (tmp_path / "a").write_text("old")
    with pytest.raises((InputError, OSError)) as caught, written_together(tmp_path, "set") as folder:
        (folder / "a").write_text("new")
        raise make_error(folder / "a")
    assert str(caught.value) == str(make_error(tmp_path / "a"))
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


def test_on_windows_no_folder_is_synced_and_no_process_looked_up(tmp_path, monkeypatch):
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


def test_a_folder_that_cannot_be_written(tmp_path):
    make_writable_folder(tmp_path / "a" / "b", "--runs-dir")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with refused(tmp_path / "file" / "runs", "--runs-dir"):
        make_writable_folder(tmp_path / "file" / "runs", "--runs-dir")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with refused(tmp_path / "locked", "--runs-dir"):
        make_writable_folder(tmp_path / "locked", "--runs-dir")


def test_a_disk_without_space(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2_500_000_000}))
    check_free_disk(tmp_path / "new" / "folder", 2_500_000_000, "unpacking", "--data-dir")
    with refused(tmp_path / "new", "--data-dir") as caught:
        check_free_disk(tmp_path / "new", 2_600_000_000, "unpacking", "--data-dir")
    assert "2.6 GB, 2.5 GB" in str(caught.value)


@pytest.mark.parametrize("size", [2**40, -1, None])
def test_a_read_reserves_no_more_than_the_file_has(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)) * 1000)
    with BoundedReader(path) as opened, limited_memory(50_000_000):
        assert opened.read(3) == b"\0\1\2"
        assert len(opened.read(size)) == 99_997
        assert opened.read(2**40) == b""
