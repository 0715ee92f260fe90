"""Zip archives of DICOM files."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from p2ch13.data.ct import Ct
from p2ch13.detection.inputs import find_inputs
from p2ch13.import_dicom import main
from p2ch13.volumes.dicom.search import find_series
from tests.support.checks import refused
from tests.support.commands import REPOSITORY, exit_status
from tests.support.dicom_files import ABSENT, SERIES_UID, write_enhanced, write_series
from tests.support.scan_files import write_scan


def pack(path, folder, prefix="", compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            archive.write(file, prefix + str(file.relative_to(folder)))
    return path


@pytest.mark.parametrize("name", ["scan.zip", "SCAN.ZIP"])
@pytest.mark.parametrize("prefix", ["", "study/ct/", "../", "/tmp/"])
def test_a_series_in_an_archive(tmp_path, hu, name, prefix):
    """At any depth; a member's way out of the archive leads nowhere."""
    write_series(tmp_path / "plain", hu)
    archive = pack(tmp_path / name, tmp_path / "plain", prefix)
    before = set(tmp_path.rglob("*"))
    np.testing.assert_array_equal(Ct(archive).hu, hu)
    assert set(tmp_path.rglob("*")) == before


def test_frames_of_one_file(tmp_path, hu):
    write_enhanced(tmp_path / "plain" / "ct.dcm", hu)
    archive = pack(tmp_path / "a.zip", tmp_path / "plain", compression=zipfile.ZIP_STORED)
    np.testing.assert_array_equal(Ct(archive).hu, hu)


def test_a_series_without_uid_is_called_like_its_archive(tmp_path, hu):
    write_series(tmp_path / "plain", hu, SeriesInstanceUID=ABSENT)
    assert [each.name for each in find_series(pack(tmp_path / "patient7.zip", tmp_path / "plain")).series] == [
        "patient7"
    ]


def test_faults_are_named_by_their_member(tmp_path, hu):
    write_series(tmp_path / "plain", hu)[3].unlink()
    with refused() as caught:
        Ct(pack(tmp_path / "scan.zip", tmp_path / "plain"))
    assert caught.value.path.parts[-2:] == ("scan", "004.dcm")


def test_an_archive_that_has_changed(tmp_path, hu):
    write_series(tmp_path / "plain", hu)
    assert Ct(pack(tmp_path / "a.zip", tmp_path / "plain")).hu[0, 0, 0] == hu[0, 0, 0]
    write_series(tmp_path / "plain", hu + 7)
    archive = pack(tmp_path / "a.zip", tmp_path / "plain")
    os.utime(archive, (0, 0))
    assert Ct(archive).hu[0, 0, 0] == hu[0, 0, 0] + 7


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04" + bytes(100), b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_or_empty(tmp_path, content):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with refused():
        Ct(path)


def test_an_archive_cut_short(tmp_path, hu):
    write_series(tmp_path / "plain", hu)
    archive = pack(tmp_path / "a.zip", tmp_path / "plain")
    archive.write_bytes(archive.read_bytes()[:-300])
    with refused(path=archive):
        Ct(archive)


def test_an_encrypted_archive(tmp_path):
    """The flag alone; its password could not be given."""
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("1.dcm", b"x")
    content = bytearray(archive.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with refused(path=archive) as caught:
        Ct(archive)
    assert "password" in str(caught.value)


def test_importing_an_archive(tmp_path, hu, capsys):
    """A second time, nothing is left to do: files keep their times."""
    write_series(tmp_path / "plain", hu)
    archive, data_dir = pack(tmp_path / "a.zip", tmp_path / "plain"), tmp_path / "luna"
    for _ in range(2):
        assert exit_status(lambda: main([str(archive), "--data-dir", str(data_dir), "--num-workers", "1"])) == 0
    np.testing.assert_array_equal(Ct(data_dir / "subset_dicom" / f"{SERIES_UID}.mhd").hu, hu)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("Imported ")] == [
        f"Imported {count} scans, skipped 0: {data_dir / 'subset_dicom'}" for count in (1, 0)
    ]


def test_nothing_is_left_behind(tmp_path, hu):
    """What was unpacked goes with the process."""
    write_series(tmp_path / "plain", hu)
    archive = pack(tmp_path / "a.zip", tmp_path / "plain")
    (tmp_path / "tmp").mkdir()
    code = f"from pathlib import Path; from p2ch13.data.ct import Ct; print(Ct(Path({str(archive)!r})).hu.sum())"
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY, env=environment)
    assert int(done.stdout) == hu.sum()
    assert list(Path(tmp_path, "tmp").iterdir()) == []


def test_a_scan_of_another_format_in_an_archive(tmp_path, hu):
    path = write_scan(tmp_path / "scan.mhd", hu)
    archive = tmp_path / "scans.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in (path, path.with_suffix(".raw")):
            opened.write(file, file.name)
    (found,) = find_inputs(archive)
    assert found.name == "scan"
    np.testing.assert_array_equal(Ct(found.source).hu, hu)


@pytest.mark.parametrize("name", ["more.zip", "IM1.dcm.gz", "study.tar.gz", "X.7Z", "a.rar"])
def test_an_archive_in_a_folder_is_named(tmp_path, hu, name, caplog):
    """It is not searched: nobody knows how much it unpacks to."""
    (tmp_path / name).write_bytes(b"not looked into")
    with refused(tmp_path) as caught:
        find_inputs(tmp_path)
    assert name in str(caught.value)
    write_series(tmp_path, hu)
    caplog.clear()
    with caplog.at_level("INFO"):
        assert len(find_inputs(tmp_path)) == 1
    assert [name in message for message in caplog.messages] == [True]
