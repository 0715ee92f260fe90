import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from p2ch13.acquisition import download
from p2ch13.acquisition.luna16 import FILES
from p2ch13.download import main
from p2ch13.labels.candidates import get_candidate_info_list
from p2ch13.volumes.files import find_scans, read_header, read_voxels
from tests.support.checks import assert_one_line
from tests.support.commands import REPOSITORY, exit_status, run_python
from tests.support.http_server import FileServer
from tests.support.luna16_files import SHAPE_IRC, make_contents, make_table, zip_of
from tests.support.scan_files import Ball, make_hu, write_scan


@pytest.fixture
def contents(tmp_path):
    return make_contents(tmp_path / "made")


@pytest.fixture
def table(contents):
    return make_table(contents)


@pytest.fixture
def server(contents, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with FileServer(dict(contents)) as server:
        yield server


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "luna"


def run(table, server, data_dir, *options):
    """Call `main`. Returns: the exit status."""
    return exit_status(lambda: main(["--data-dir", str(data_dir), "--mirror", server.url, *options], table))


def names_asked(server):
    return [name for name, _ in server.requests]


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


ALL_FILES = ["annotations.csv", "candidates_V2.csv"] + [
    f"subset{subset}/1.2.{number}.{suffix}" for subset, number in ((0, 0), (0, 1), (1, 2)) for suffix in ("mhd", "raw")
]


def test_all_of_it_once(table, server, data_dir, capsys):
    assert run(table, server, data_dir) == 0
    output, bars = capsys.readouterr()
    assert f"{table[2].size:,} bytes  to download" in output
    for name in ("annotations.csv", "candidates_V2.zip", "subset1.zip", "Unpacking subset1.zip"):
        assert f"{name}: 100%" in bars
    assert "annotations_with_malignancy.csv is optional" in output
    assert files_in(data_dir) == ALL_FILES
    assert not (data_dir / ".download").exists()
    assert list(find_scans(data_dir)) == ["1.2.0", "1.2.1", "1.2.2"]
    voxels = read_voxels(read_header(data_dir / "subset0" / "1.2.1.mhd"))
    np.testing.assert_array_equal(voxels, make_hu([Ball((3, 9, 9), 3)], SHAPE_IRC))
    assert len(get_candidate_info_list(data_dir)) == 5

    assert run(table, server, data_dir) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert names_asked(server) == [file.name for file in table]
    assert run(table, server, data_dir, "--verify") == 0


def test_some_subsets(table, server, data_dir):
    assert run(table, server, data_dir, "--subset") == 0
    assert files_in(data_dir) == ALL_FILES[:2]
    assert run(table, server, data_dir, "--subset", "1") == 0
    assert names_asked(server) == ["annotations.csv", "candidates_V2.zip", "subset1.zip"]
    assert run(table, server, data_dir, "--subset", "0", "1") == 0
    assert names_asked(server)[3:] == ["subset0.zip"]


def test_a_damaged_subset_is_downloaded_again(table, server, data_dir):
    assert run(table, server, data_dir) == 0
    (data_dir / "subset0" / "1.2.1.raw").write_bytes(b"short")
    server.requests.clear()
    assert run(table, server, data_dir) == 0
    assert names_asked(server) == ["subset0.zip"]
    assert run(table, server, data_dir, "--verify") == 0


def test_a_dry_run(table, server, data_dir, capsys):
    assert run(table, server, data_dir, "--dry-run") == 0
    output = capsys.readouterr().out
    assert all(file.name in output for file in table)
    assert server.requests == []
    assert files_in(data_dir) == []


def test_a_broken_download_resumes(table, server, data_dir, contents, capsys):
    """The connection breaks; the next requests fail as well."""
    half = 2**16
    server.faults = [("", 0), ("", 0), ("drop", half), *[("status", 503)] * 5]
    assert run(table, server, data_dir, "--subset", "0") == 1
    output = capsys.readouterr().out
    assert "resuming after 65,536 bytes" in output
    assert "Skipped: " in output
    assert (data_dir / ".download" / "subset0.zip.part").read_bytes() == contents["subset0.zip"][:half]
    server.requests.clear()
    server.faults.clear()
    assert run(table, server, data_dir, "--subset", "0") == 0
    assert server.requests == [("subset0.zip", "bytes=65536-")]
    assert not (data_dir / ".download").exists()


def start(tmp_path, server, data_dir):
    """Start a download in a process, and wait until it has received a part of a subset or ended."""
    command = [sys.executable, "-m", "tests.support.luna16_files", str(tmp_path / "made-again")]
    arguments = ["--data-dir", str(data_dir), "--mirror", server.url]
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    part = data_dir / ".download" / "subset0.zip.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size >= 2**16):
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("killer", [signal.SIGINT, signal.SIGKILL])
def test_killed_and_started_again(contents, table, tmp_path, data_dir, killer):
    with FileServer(dict(contents)) as server:
        server.faults = [("", 0), ("", 0), ("hang", 2**16)]
        first = start(tmp_path, server, data_dir)
        first.send_signal(killer)
        output, error = first.communicate(timeout=120)
        assert first.returncode == (130 if killer == signal.SIGINT else -signal.SIGKILL)
        assert "Traceback" not in error
        assert ("start the same command again to continue" in output) == (killer == signal.SIGINT)
    with FileServer(dict(contents)) as server:
        assert run(table, server, data_dir) == 0
        assert server.requests == [("subset0.zip", "bytes=65536-"), ("subset1.zip", None)]
    assert files_in(data_dir) == ALL_FILES


def test_a_server_that_is_killed_and_restarted(contents, tmp_path, data_dir):
    with FileServer(dict(contents)) as server:
        server.faults = [("", 0), ("", 0), ("hang", 2**16)]
        downloader = start(tmp_path, server, data_dir)
        port = server.http.server_port
    with FileServer(dict(contents), port) as server:
        _, error = downloader.communicate(timeout=120)
        assert downloader.returncode == 0, error
        assert server.requests == [("subset0.zip", "bytes=65536-"), ("subset1.zip", None)]
    assert files_in(data_dir) == ALL_FILES


def test_stopped_while_unpacking(table, server, data_dir, monkeypatch):
    """A second run does not download the archive again."""

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("zipfile.ZipFile.extract", stop)
    assert run(table, server, data_dir, "--subset", "0") == 130
    monkeypatch.undo()
    assert run(table, server, data_dir, "--subset", "0") == 0
    assert names_asked(server) == ["annotations.csv", "candidates_V2.zip", "subset0.zip"]
    assert not (data_dir / ".download").exists()


def test_stopped_while_scans_move_to_their_places(table, server, data_dir, monkeypatch):
    """Voxels move before headers: no header ever exists without its voxels."""
    moved = []
    replace = Path.replace

    def stop_after_three(path, target):
        if Path(target).parent.name == "subset0":
            assert data_dir / ".download" / "subset0.unpacked" in path.parents
            if len(moved) == 3:
                raise KeyboardInterrupt
            moved.append(Path(target).name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stop_after_three)
    assert run(table, server, data_dir, "--subset", "0") == 130
    monkeypatch.undo()
    assert sorted(moved[:2]) == ["1.2.0.raw", "1.2.1.raw"]
    assert [read_header(path).shape_irc for path in find_scans(data_dir).values()] == [SHAPE_IRC]
    assert run(table, server, data_dir, "--subset", "0") == 0
    assert names_asked(server) == ["annotations.csv", "candidates_V2.zip", "subset0.zip"]
    assert run(table, server, data_dir, "--verify", "--subset", "0") == 0


def test_wrong_bytes(table, server, data_dir, contents, capsys):
    right = server.files["subset0.zip"]
    server.files["subset0.zip"] = right[:-1] + b"x"
    assert run(table, server, data_dir) == 1
    output = capsys.readouterr().out
    skipped = [line for line in output.splitlines() if "Skipped: " in line]
    assert len(skipped) == 1
    assert f"subset0.zip: its MD5 is {hashlib.md5(server.files['subset0.zip']).hexdigest()}" in skipped[0]
    assert files_in(data_dir) == [name for name in ALL_FILES if "subset0" not in name]  # the others are done
    server.files["subset0.zip"] = right
    assert run(table, server, data_dir) == 0


def test_another_size_and_its_override(table, server, data_dir):
    server.files["subset0.zip"] += b"\0"  # zipfile does not mind
    assert run(table, server, data_dir, "--subset", "0") == 1
    assert run(table, server, data_dir, "--subset", "0", "--ignore-checksum") == 0
    assert len(find_scans(data_dir)) == 2


def test_a_list_of_candidates_that_is_another(table, server, data_dir, capsys):
    server.files["candidates_V2.zip"] = zip_of({"x/list.csv": b"seriesuid,coordX,coordY,coordZ,class\n1.2.0,1,2,3,0\n"})
    assert run(table, server, data_dir, "--subset") == 1
    assert "list.csv: " in capsys.readouterr().out
    assert files_in(data_dir)[-1] == "annotations.csv"
    assert run(table, server, data_dir, "--subset", "--ignore-checksum") == 0
    assert (data_dir / "candidates_V2.csv").read_text().endswith("1.2.0,1,2,3,0\n")


def test_the_users_own_file_is_kept(table, server, data_dir, capsys):
    data_dir.mkdir()
    (data_dir / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.9,1,2,3,4\n")
    assert run(table, server, data_dir, "--subset") == 0
    assert f"{data_dir / 'annotations.csv'}: " in capsys.readouterr().out
    assert "1.2.9" in (data_dir / "annotations.csv").read_text()


def test_other_scans_are_kept(table, server, data_dir):
    own = write_scan(data_dir / "subset0" / "9.9.9.mhd", make_hu([], SHAPE_IRC))
    assert run(table, server, data_dir) == 0
    assert own.exists()
    assert len(find_scans(data_dir)) == 4


@pytest.mark.parametrize("name", ["../evil.mhd", "/tmp/evil.mhd"])
def test_a_hostile_archive(server, data_dir, contents, name, capsys, tmp_path):
    contents["subset0.zip"] = server.files["subset0.zip"] = zip_of({name: b"x", "subset0/1.2.0.mhd": b"x"})
    assert run(make_table(contents)[2:], server, data_dir, "--subset", "0") == 2
    assert_one_line(capsys, str(data_dir / "subset0"))
    assert {path.parent for path in tmp_path.rglob("evil*")} == {data_dir / "subset0"}
    assert not Path("/tmp/evil.mhd").exists()


def test_a_member_with_a_wrong_checksum(server, data_dir, contents, capsys):
    """As in an older record of LUNA16, whose archive has the right MD5."""
    data = bytearray(contents["subset0.zip"])
    data[data.index(b"1.2.1.raw") + 500] ^= 0xFF
    contents["subset0.zip"] = server.files["subset0.zip"] = bytes(data)
    assert run(make_table(contents)[2:], server, data_dir, "--subset", "0") == 2
    assert_one_line(capsys, "subset0.zip: ", "subset0/1.2.1.raw")
    assert not (data_dir / "subset0").exists()


def test_a_full_disk_is_noticed_before_the_download(table, server, data_dir, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 19_000_000_000}))
    assert run([table[0], FILES[2]], server, data_dir) == 2
    assert_one_line(capsys, "needs 19.1 GB, 19.0 GB are free", "--data-dir")  # 6.8 GB and 1.8 times as much
    assert server.requests == []


def test_space_for_several_archives():
    """Archives are removed once unpacked; scans stay."""
    sizes = [file.size for file in FILES[2:4]]
    needed = download.room_needed(Path("nowhere"), FILES[2:4])
    assert needed == pytest.approx(1.8 * sizes[0] + 2.8 * sizes[1], abs=2)


WITHOUT_UNIX = """
import importlib, mmap, os, pkgutil, sys, time
for name in ("fcntl", "resource", "termios"):
    sys.modules[name] = None  # an import of it fails
for name in ("posix_fadvise", "posix_fallocate", "sched_getaffinity", "POSIX_FADV_WILLNEED"):
    delattr(os, name)
for name in [name for name in vars(mmap) if name.startswith("MADV_")]:
    delattr(mmap, name)
sys.argv[1:] = []
import p2ch13, util
for package in (p2ch13, util):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


def test_everything_can_be_imported_on_other_systems():
    done = run_python("-c", WITHOUT_UNIX, status=None)
    assert done.returncode == 0, done.stderr


def test_a_lock_without_fcntl(tmp_path):
    """A second download at the same time is refused, a later one is not."""
    code = (
        f"{WITHOUT_UNIX}\nfrom pathlib import Path; from p2ch13.acquisition.download import only_process\n"
        "from p2ch13.util.errors import InputError; folder = Path(sys.argv[1])\n"
        "with only_process(folder):\n"
        "    try:\n        only_process(folder).__enter__()\n"
        "    except InputError as error:\n        print(error)\n"
        "with only_process(folder):\n    print('free')\n"
    ).replace("sys.argv[1:] = []\n", "")
    done = run_python("-c", code, tmp_path, status=None)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path}: ")
    assert second == "free"
    assert list(tmp_path.iterdir()) == []


def test_two_downloads_at_once(table, server, data_dir, capsys):
    data_dir.mkdir()
    with download.only_process(data_dir):
        assert run(table, server, data_dir) == 2
    assert_one_line(capsys, f"{data_dir}: ")
    assert run(table, server, data_dir) == 0


def test_mistakes_end_in_one_line(table, server, data_dir, tmp_path, capsys):
    assert run(table, server, data_dir, "--subset", "10") == 2
    assert "invalid choice: 10" in capsys.readouterr().err
    for mirror in (f"{server.url}/nowhere", "nowhere"):
        assert run(table[2:3], server, data_dir, "--mirror", mirror) == 2
        assert_one_line(capsys, "subset0.zip: ", f" {mirror}/subset0.zip ", "--mirror")
    (tmp_path / "file").write_text("")
    assert run(table, server, tmp_path / "file" / "luna") == 2
    assert_one_line(capsys, "luna: ", "--data-dir")
    server.files.clear()
    assert run(table, server, data_dir) == 2
    assert_one_line(capsys, "none of 4 files")


def test_the_command_line(server, data_dir):
    """With the real table: files of the wrong size are refused before they are downloaded."""
    done = run_python(
        "-m", "p2ch13.download", "--data-dir", data_dir, "--mirror", server.url, "--subset", "0", status=None
    )
    if "needs 19.1 GB" in done.stderr:
        pytest.skip("the disk has less than 19.1 GB free")
    assert done.returncode == 2
    assert "6,811,924,508 bytes  to download" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: none of 3 files")
    assert files_in(data_dir) == []


def test_facts_about_luna16():
    """Sums from LUNA16's pages."""
    subsets = [file for file in FILES if file.subset is not None]
    assert [file.subset for file in subsets] == list(range(10))
    assert sum(file.size for file in subsets) == 66_337_930_718
    assert sum(file.scan_count for file in subsets) == 888
    assert len({file.md5 for file in FILES if file.md5}) == 11
    assert subsets[7].url() == "https://zenodo.org/api/records/4121926/files/subset7.zip/content"
    assert FILES[0].url("http://mirror/luna/") == "http://mirror/luna/annotations.csv"
