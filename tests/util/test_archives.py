import stat
import zipfile

import numpy as np
import pytest

from p2ch13.util.archives import unpack
from p2ch13.util.errors import InputError

RAW = bytes(range(256)) * 100


def write_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refused(archive, folder, message):
    with pytest.raises(InputError, match=message):
        unpack(archive, folder, "--data-dir")
    assert not folder.exists()


def test_files_come_out_of_their_folders(tmp_path):
    members = {"subset0/": b"", "subset0/1.mhd": b"header", "subset0/1.raw": RAW}
    files = unpack(write_zip(tmp_path / "a.zip", members), tmp_path / "out", "--data-dir")
    assert files == [tmp_path / "out" / "1.mhd", tmp_path / "out" / "1.raw"]
    assert [file.read_bytes() for file in files] == [b"header", RAW]
    assert sorted((tmp_path / "out").iterdir()) == files


def test_what_is_unpacked_already_stays(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"1.raw": RAW, "2.raw": RAW})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.raw").write_bytes(b"x" * len(RAW))
    (tmp_path / "out" / ".1234.tmp.2.raw").write_bytes(RAW[:99])  # of a process that was killed
    unpack(archive, tmp_path / "out", "--data-dir")
    assert (tmp_path / "out" / "1.raw").read_bytes() == b"x" * len(RAW)
    assert (tmp_path / "out" / "2.raw").read_bytes() == RAW


@pytest.mark.parametrize(
    "name", ["../evil.mhd", "subset0/../../evil.mhd", "/tmp/evil.mhd", "C:/evil.mhd", "..\\evil.mhd", "C:\\evil.mhd"]
)
def test_nothing_lands_outside(tmp_path, name):
    archive = write_zip(tmp_path / "a.zip", {"good.mhd": b"x", name: b"x"})
    refused(archive, tmp_path / "out", r"a\.zip: .*evil\.mhd' would land outside of the folder, nothing is unpacked")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, kind):
    link = zipfile.ZipInfo("subset0/1.raw")
    link.external_attr = (kind | 0o777) << 16
    archive = write_zip(tmp_path / "a.zip", {"good.mhd": b"x"})
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(link, "/etc/passwd")
    refused(archive, tmp_path / "out", r"'subset0/1\.raw' is a link or a device")


def test_two_files_of_one_name(tmp_path):
    refused(write_zip(tmp_path / "a.zip", {"a/1.raw": b"x", "b/1.raw": b"y"}), tmp_path / "out", "two files are called")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_named(tmp_path, compression):
    archive = write_zip(tmp_path / "a.zip", {"subset0/1.mhd": b"header", "subset0/1.raw": RAW}, compression)
    data = bytearray(archive.read_bytes())
    data[data.index(b"1.raw") + 100] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.zip: subset0/1\.raw is damaged \(.*\); download it again") as caught:
        unpack(archive, tmp_path / "out", "--data-dir")
    assert "\n" not in str(caught.value)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["1.mhd"]


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"<html>not found</html>", lambda data: b""])
def test_no_archive(tmp_path, damage):
    archive = write_zip(tmp_path / "a.zip", {"1.raw": RAW})
    archive.write_bytes(damage(archive.read_bytes()))
    refused(archive, tmp_path / "out", r"a\.zip: the archive is damaged")


def test_a_method_that_python_cannot_read(tmp_path):
    """Deflate64, as Windows makes it of large files: the archive itself is fine."""
    archive = write_zip(tmp_path / "a.zip", {"1.raw": RAW})
    data = bytearray(archive.read_bytes())
    data[8] = data[data.index(b"PK\x01\x02") + 10] = 9
    archive.write_bytes(data)
    refused(archive, tmp_path / "out", r"'1\.raw' is compressed by method 9, .* by hand, say with 7z")
    assert archive.exists()


def test_mutated_archives(tmp_path):
    """Whatever stands in it, what comes out is an InputError in one line, or files beside each other."""
    good = write_zip(tmp_path / "good.zip", {"subset0/1.mhd": b"header" * 9, "subset0/é.raw": RAW}).read_bytes()
    random = np.random.default_rng(0)
    outcomes = set()
    for ndx in range(300):
        data = bytearray(good)
        for place in random.integers(len(data), size=random.integers(1, 4)):
            data[place] = random.integers(256)
        archive, out = tmp_path / f"{ndx}.zip", tmp_path / str(ndx)
        archive.write_bytes(data)
        try:
            files = unpack(archive, out, "--data-dir")
            assert {file.parent for file in files} <= {out}
            outcomes.add("unpacked")
        except InputError as error:
            assert str(error).startswith((str(archive), str(out)))
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"unpacked", "refused"}


def test_a_password(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"1.raw": RAW}, zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # of the file's own header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # of the list at the end
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.zip: 1\.raw is damaged \(.*password"):
        unpack(archive, tmp_path / "out", "--data-dir")


def test_room_is_looked_for_beforehand(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", {"1.raw": bytes(3_000_000)})
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1_000_000}))
    refused(archive, tmp_path / "out", r"out: unpacking a\.zip needs 0\.0 GB, and 0\.0 GB are free; .*--data-dir")
