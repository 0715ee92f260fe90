import gzip
import mmap
import os

import numpy as np
import pytest

from p2ch13.volumes.files import find_scans, list_scan_files, read_ahead, read_header, read_voxels, scan_signature
from tests.support.checks import refused
from tests.support.dicom_files import write_series
from tests.support.scan_files import ORIGIN_XYZ, VX_SIZE_XYZ, make_chest, write_scan

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
FORMATS = [("a.mhd", False), ("a.mhd", True), ("a.mha", False), ("a.mha", True), ("a.nii.gz", True), ("a.nii", False)]
FORMATS += [("a.nrrd", False), ("a.nrrd", True)]


def read(path):
    return read_voxels(read_header(path))


@pytest.mark.parametrize(("name", "compress"), FORMATS)
def test_every_format_gives_the_same_scan(tmp_path, hu, name, compress):
    header = read_header(write_scan(tmp_path / name, hu, compress=compress))
    assert header.shape_irc == hu.shape
    assert header.vx_size_xyz == pytest.approx(VX_SIZE_XYZ)
    assert header.origin_xyz == pytest.approx(ORIGIN_XYZ)
    assert header.direction == pytest.approx(np.eye(3))
    voxels = read_voxels(header)
    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(voxels, hu)


def test_plain_voxels_are_mapped_read_only(tmp_path, hu):
    voxels = read(write_scan(tmp_path / "a.mhd", hu))
    with (tmp_path / "a.raw").open("r+b") as file:
        file.write(np.array([123], dtype="<i2").tobytes())
    assert voxels[0, 0, 0] == 123  # the file itself, not a copy
    with pytest.raises(ValueError, match="read-only"):
        voxels[0, 0, 0] = 1


def test_big_endian_voxels(tmp_path, hu):
    path = write_scan(tmp_path / "a.mhd", hu)
    path.write_text(path.read_text().replace("MSB = False", "MSB = True"))
    (tmp_path / "a.raw").write_bytes(hu.astype(">i2").tobytes())
    np.testing.assert_array_equal(read(path), hu)


def test_floats_are_rounded_and_kept_within_int16(tmp_path):
    values = np.array([[[-1000.4, 0.6, 40000.0, -40000.0]]], dtype=np.float32)
    np.testing.assert_array_equal(read(write_scan(tmp_path / "a.mhd", values)), [[[-1000, 1, 32767, -32768]]])


def test_nan_is_refused(tmp_path):
    path = write_scan(tmp_path / "a.mha", np.array([[[np.nan, 0.0]]], dtype=np.float32))
    with refused(path):
        read(path)


@pytest.mark.parametrize(("name", "compress"), FORMATS)
def test_a_file_cut_short_is_refused(tmp_path, hu, name, compress):
    path = write_scan(tmp_path / name, hu, compress=compress)
    data_file = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    data_file.write_bytes(data_file.read_bytes()[:-50])
    with refused(data_file):
        read(path)


def test_a_nifti_without_its_last_voxels_is_refused_although_its_gzip_is_complete(tmp_path, hu):
    path = write_scan(tmp_path / "a.nii.gz", hu)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-50]))
    with refused(path):
        read(path)


def test_a_missing_data_file_is_named(tmp_path, hu):
    path = write_scan(tmp_path / "a.mhd", hu)
    (tmp_path / "a.raw").unlink()
    with refused(path):
        read_header(path)


EMPTY = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 0\nencoding: raw\nendian: little\n\n"


@pytest.mark.parametrize(("name", "text", "line"), [("a.mhd", "hello\n", 1), ("a.nrrd", EMPTY, None)])
def test_no_scan_at_all(tmp_path, name, text, line):
    path = tmp_path / name
    path.write_text(text)
    with refused(path, line=line):
        read_header(path)


def test_find_scans(tmp_path, hu):
    write_scan(tmp_path / "subset1" / "1.2.mhd", hu)
    write_scan(tmp_path / "subset0" / "1.3.nii.gz", hu)
    write_scan(tmp_path / "1.1.mha", hu)
    (tmp_path / "subset0" / "._1.4.mhd").write_text("left behind by macOS")
    write_scan(tmp_path / "seg-lungs-LUNA16" / "1.2.mhd", hu)  # lung masks, not scans
    assert find_scans(tmp_path) == {
        "1.1": tmp_path / "1.1.mha",
        "1.2": tmp_path / "subset1" / "1.2.mhd",
        "1.3": tmp_path / "subset0" / "1.3.nii.gz",
    }


@pytest.mark.parametrize("name", ["X.MHD", "x.Mha", "X.NII.GZ", "x.Nii", "X.NRRD"])
def test_suffixes_in_large_letters(tmp_path, hu, name):
    """Also with a data file in large letters, as it stands in no header."""
    write_scan(tmp_path / "subset0" / "first.mhd", hu)
    write_scan(tmp_path / "other" / name.lower(), hu).rename(tmp_path / "subset0" / name)
    for data_file in (tmp_path / "other").glob("*.raw"):
        data_file.rename(tmp_path / "subset0" / "X.RAW")
    scans = find_scans(tmp_path)
    assert set(scans) == {"first", name[0]}
    assert [path.name for path in list_scan_files(tmp_path)] == sorted([name, "first.mhd"])
    header = read_header(scans[name[0]])
    assert header.series_uid == name[0]
    np.testing.assert_array_equal(read_voxels(header), hu)
    assert len(scan_signature(scans[name[0]])) == (2 if name == "X.MHD" else 1)


MASK_NAMES = ("1.2_mask.nii.gz", "1.2_MASK.NRRD", "1.2-label.nrrd", "1.2.seg.nrrd", "1.2_probability.mha")


@pytest.mark.parametrize("folder", ["", "subset0", "subset7"])
@pytest.mark.parametrize("name", MASK_NAMES)
def test_a_mask_beside_its_scan_is_none(tmp_path, hu, name, folder, caplog):
    """By its name, and if there is a scan of this name."""
    write_scan(tmp_path / "subset0" / "1.2.mhd", hu)
    mask = write_scan(tmp_path / folder / name.lower(), (hu > 0).astype(np.uint8))
    mask = mask.rename(mask.with_name(name))
    assert list(find_scans(tmp_path)) == ["1.2"]
    assert name in caplog.text
    (tmp_path / "subset0" / "1.2.mhd").unlink()
    assert list(find_scans(tmp_path).values()) == [mask]


def test_find_scans_refuses(tmp_path, hu):
    with refused(tmp_path / "nowhere", "--data-dir"):
        find_scans(tmp_path / "nowhere")
    with refused(tmp_path):
        find_scans(tmp_path)
    write_scan(tmp_path / "subset0" / "1.1.mhd", hu)
    with refused(write_scan(tmp_path / "subset3" / "1.1.mha", hu)):
        find_scans(tmp_path)


def test_signature_changes_with_header_and_voxels(tmp_path, hu):
    path = write_scan(tmp_path / "a.mhd", hu)
    signatures = [scan_signature(path)]
    (tmp_path / "a.raw").write_bytes(hu.tobytes())
    signatures.append(scan_signature(path))
    path.write_text(path.read_text())
    signatures.append(scan_signature(path))
    assert len({str(signature) for signature in signatures}) == 3
    assert scan_signature(path) == signatures[-1]


TYPES = [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64]


@pytest.mark.parametrize("suffix", ["mhd", "mha", "nii", "nii.gz", "nrrd"])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_of_voxel(tmp_path, dtype, suffix):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    voxels = read(write_scan(tmp_path / f"a.{suffix}", values))
    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(voxels, values)


@pytest.mark.parametrize("name", ["a.mhd", "a.mha", "a.nii", "a.nrrd"])
def test_uncompressed_hu_is_mapped_wherever_it_begins(tmp_path, hu, name):
    header = read_header(write_scan(tmp_path / name, hu))
    assert header.mapped_file == (tmp_path / "a.raw" if name == "a.mhd" else tmp_path / name)
    voxels = read_voxels(header)
    assert not voxels.flags.owndata
    read_ahead(header, 1, 4)
    np.testing.assert_array_equal(voxels, hu)


def test_a_memory_map_on_a_system_that_takes_no_advice(tmp_path, hu, monkeypatch):
    """Windows has no `madvise`."""
    monkeypatch.delattr(mmap, "MADV_RANDOM", raising=False)
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    header = read_header(write_scan(tmp_path / "a.mhd", hu))
    assert header.mapped_file is not None
    read_ahead(header, 0, 3)
    np.testing.assert_array_equal(read_voxels(header), hu)


@pytest.mark.parametrize(
    ("content", "part"), [(LFS_POINTER, "git lfs pull"), (b"<html></html>", "HTML"), (b"", "empty")]
)
@pytest.mark.parametrize("name", ["a.mhd", "a.mha", "a.raw", "a.nii", "a.nii.gz", "a.nrrd", "a.dcm", "a.nhdr"])
def test_what_came_in_place_of_a_file(tmp_path, name, content, part):
    """To unpack or download it again does not bring what Git LFS has not fetched."""
    path = tmp_path / name
    if name == "a.raw":
        write_scan(tmp_path / "a.mhd", make_chest())
    path.write_bytes(content)
    with refused(path) as caught:
        read_header(path.with_suffix(".mhd") if name == "a.raw" else path)
    assert part in str(caught.value)


def test_scans_in_formats_that_are_not_read_are_named(tmp_path, hu, caplog):
    write_scan(tmp_path / "a.nii.gz", hu)
    for name in ("b.nii.bz2", "c.HDR", "c.img", "._d.img"):
        (tmp_path / name).write_bytes(b"not looked into")
    write_series(tmp_path / "e", hu[:1], names=["e.img"])
    (tmp_path / "e" / "e.img").rename(tmp_path / "e.img")  # DICOM, by its content
    assert list(find_scans(tmp_path)) == ["a"]
    (message,) = caplog.messages
    assert "3 files" in message
    assert "b.nii.bz2" in message
