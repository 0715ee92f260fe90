import errno
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from p2ch13.util.archives import ArchiveError, unpack
from p2ch13.util.errors import InputError
from tests.support.checks import refused

RAW = bytes(range(256)) * 100


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def write_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_all_files_of_an_archive(tmp_path, out):
    members = {"subset0/": b"", "subset0/1.mhd": b"header", "subset0/1.raw": RAW, "2.raw": b""}
    files = unpack(write_zip(tmp_path / "a.zip", members), out, "--data-dir")
    assert files == [out / "2.raw", out / "subset0" / "1.mhd", out / "subset0" / "1.raw"]
    assert [file.read_bytes() for file in files] == [b"", b"header", RAW]


def test_leftovers_are_replaced(tmp_path, out):
    out.mkdir()
    for name in ("1.raw", "3.raw"):
        (out / name).write_bytes(RAW[:99])
    assert unpack(write_zip(tmp_path / "a.zip", {"1.raw": RAW}), out, "--data-dir") == [out / "1.raw"]
    assert (out / "1.raw").read_bytes() == RAW
    assert list(out.iterdir()) == [out / "1.raw"]


@pytest.mark.parametrize(
    "name", ["../evil.mhd", "subset0/../../evil.mhd", "/tmp/evil.mhd", "C:/evil.mhd", "..\\evil.mhd", "C:\\evil.mhd"]
)
def test_nothing_is_written_outside(tmp_path, out, name):
    unpack(write_zip(tmp_path / "a.zip", {name: b"x"}), out, "--data-dir")
    assert all(out in path.parents for path in tmp_path.rglob("*evil*"))
    assert not Path("/tmp/evil.mhd").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_become_plain_files(tmp_path, out, kind):
    link = zipfile.ZipInfo("1.raw")
    link.external_attr = (kind | 0o777) << 16
    (file,) = unpack(write_zip(tmp_path / "a.zip", {link: "/etc/passwd"}), out, "--data-dir")
    assert stat.S_ISREG(file.lstat().st_mode)
    assert file.read_text() == "/etc/passwd"


def flip(data):
    data[data.index(b"1.raw") + 100] ^= 0xFF
    return data


def set_password(data):
    data[6] |= 1  # in the member's own header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # in the central directory
    return data


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: b"<html>", lambda data: b"", flip, set_password]
)
def test_a_damaged_archive(tmp_path, out, damage, compression):
    archive = write_zip(tmp_path / "a.zip", {"1.raw": RAW, "2.raw": b""}, compression)
    archive.write_bytes(damage(bytearray(archive.read_bytes())))
    with refused(archive) as caught:
        unpack(archive, out, "--data-dir")
    assert isinstance(caught.value, ArchiveError)
    assert not out.exists()


def test_a_method_that_python_cannot_read(tmp_path, out):
    """Deflate64, which Windows uses for large files: the archive itself is intact."""
    archive = write_zip(tmp_path / "a.zip", {"1.raw": RAW})
    data = bytearray(archive.read_bytes())
    data[8] = data[data.index(b"PK\x01\x02") + 10] = 9
    archive.write_bytes(data)
    with refused(archive) as caught:
        unpack(archive, out, "--data-dir")
    assert not isinstance(caught.value, ArchiveError)


def test_a_member_is_no_larger_than_it_claims(tmp_path, out):
    archive = write_zip(tmp_path / "bomb.zip", {"1.raw": bytes(10_000_000)})
    data = archive.read_bytes()
    archive.write_bytes(data.replace((10_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with refused(archive):
        unpack(archive, out, "--data-dir")
    assert not out.exists()


def test_mutated_archives(tmp_path):
    """Each ends in an InputError of one line or in files within the folder."""
    good = write_zip(tmp_path / "good.zip", {"subset0/1.mhd": b"header" * 9, "subset0/é.raw": RAW}).read_bytes()
    random = np.random.default_rng(0)
    outcomes = set()
    for ndx in range(300):
        data = bytearray(good)
        for place in random.integers(len(data), size=random.integers(1, 4)):
            data[place] = random.integers(256)
        archive, folder = tmp_path / f"{ndx}.zip", tmp_path / str(ndx)
        archive.write_bytes(data)
        try:
            assert all(folder in file.parents for file in unpack(archive, folder, "--data-dir"))
            outcomes.add("unpacked")
        except InputError as error:
            assert error.path in (archive, folder)
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"unpacked", "refused"}


def test_a_full_disk_is_no_fault_of_the_archive(tmp_path, out, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", {"1.raw": bytes(3_000_000)})

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extract", fail)
    with pytest.raises(OSError, match="No space left"):
        unpack(archive, out, "--data-dir")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1_000_000}))
    with refused(out, "--data-dir"):
        unpack(archive, out, "--data-dir")
