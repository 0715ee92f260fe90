import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.volumes.files import read_header, read_voxels
from p2ch13.volumes.formats import find_voxel_file
from p2ch13.volumes.voxels import DEFLATE_RATIO
from tests.support.checks import refused
from tests.support.scan_files import write_scan


def edit(path, old, new):
    data = path.read_bytes()
    assert old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode(), 1))
    return path


# Of the file's name, what is replaced in it and by what.
INVALID = [
    *[
        (name, voxels, outside)
        for name, voxels in (("a.mhd", "a.raw"), ("a.mha", "LOCAL"))
        for outside in ("../secret.raw", "/etc/passwd", "sub/../../secret.raw", "..\\secret.raw")
    ],
    *[
        ("a.mhd", "a.raw", several)
        for several in ("LIST\n../secret.raw\n", "LIST 2D\n../secret.raw\n", "List", "../s%05d.raw 1 6 1", "Local")
    ],
    *[
        ("a.nrrd", "encoding:", f"{field}\nencoding:")
        for field in ("data file: ../secret.raw", "datafile: /etc/passwd", "Data File: LIST")
    ],
    ("a.mhd", "ElementDataFile", "ElementDataFile = ../secret.raw\nElementDataFile"),  # ITK uses the first
    ("a.mhd", "ElementDataFile", "ElementDataFile: ../secret.raw\nElementDataFile"),
    ("a.mhd", "ElementDataFile", "ElementDataFile : ../secret.raw = a.raw\nElementDataFile"),
    ("a.mhd", "ElementType = MET_SHORT", "ElementType = MET_SHORT\nElementType = MET_UCHAR"),
    ("a.mhd", "NDims = 3", "NDims = 3\nComment = \x01"),
    ("a.mhd", "DimSize = 22 20 6", "DimSize = 22 20"),
    ("a.mhd", "DimSize = 22 20 6", "DimSize = 22 20 99999999999999999999"),
    ("a.mhd", "DimSize = 22 20 6", "DimSize = 22 20 6.5"),
    ("a.mhd", "Offset = -30", "Offset = 1_0"),
    ("a.mhd", "Offset = -30", "Offset = 1e99"),
    ("a.mhd", "ElementSpacing = 0.6", "ElementSpacing = 1e-9 0.6"),
    ("a.mhd", "0.69999999999999996", "1e-9"),
    ("a.mhd", "TransformMatrix = 1 0 0 0 1 0 0 0 1", "TransformMatrix = 1 0 0 0 1 0 0 9 1"),
    ("a.mhd", "TransformMatrix = 1 0 0 0 1 0 0 0 1", "TransformMatrix = 0 0 0 0 1 0 0 0 1"),
    ("a.mhd", "ElementSpacing = 0.69999999999999996", "ElementSpacing = -0.7"),
    ("a.mhd", "Offset = -30", "Offset = nan"),
    ("a.mhd", "DimSize = 22 20 6", "DimSize = 22 20 0"),
    ("a.mhd", "NDims = 3", "NDims = 2"),
    ("a.mhd", "ElementDataFile = a.raw", ""),
    ("a.mhd", "ElementDataFile = a.raw", f"ElementDataFile = {'9' * 400}.raw"),  # longer than a name can be
]


@pytest.mark.parametrize(("name", "old", "new"), INVALID)
def test_invalid_headers(tmp_path, hu, name, old, new):
    """Among them those that lead out of the scan's folder, or to several files."""
    (tmp_path / "secret.raw").write_bytes(hu.tobytes())
    path = edit(write_scan(tmp_path / "scans" / name, hu), old, new)
    with refused(path):
        read_header(path)


def test_dos_line_ends_and_an_unknown_field(tmp_path, hu):
    path = write_scan(tmp_path / "a.mhd", hu)
    path.write_bytes(path.read_bytes().replace(b"NDims", b"Series = Lung 1.5\nNDims").replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(read_voxels(read_header(path)), hu)


@pytest.mark.parametrize("source", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("name", ["b.mha", "b.mhd"])
def test_a_file_that_itk_converted(tmp_path, hu, source, name):
    """It has keys of its source, such as `dim[0]` and `NRRD_kinds[0]`."""
    image = sitk.ReadImage(str(write_scan(tmp_path / source, hu)))
    image.SetMetaData("Study (1/2) #", "Lung")
    sitk.WriteImage(image, str(tmp_path / name))
    np.testing.assert_array_equal(read_voxels(read_header(tmp_path / name)), hu)


NIFTI_DIM_Z = slice(46, 48)  # bytes of the number of slices, of the header of 348 bytes


def claim_slices(path, count):
    """Make a header claim this number of slices."""
    if path.name.endswith((".nii", ".nii.gz")):
        open_file = gzip.open if path.name.endswith(".gz") else open
        with open_file(path, "rb") as file:
            data = bytearray(file.read())
        data[NIFTI_DIM_Z] = struct.pack("<h", min(count, 32_767))  # the most that it can tell
        with open_file(path, "wb") as file:
            file.write(data)
    elif path.suffix == ".nrrd":
        edit(path, "sizes: 22 20 6", f"sizes: 22 20 {count}")
    else:
        edit(path, "DimSize = 22 20 6", f"DimSize = 22 20 {count}")


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["a.mhd", "a.mha", "a.nrrd", "a.nii", "a.nii.gz"])
def test_more_slices_than_the_file_can_hold_are_refused_before_allocation(tmp_path, hu, name, compress):
    path = write_scan(tmp_path / name, hu, compress=compress)
    claim_slices(path, 10**6)
    with refused(find_voxel_file(path).path):
        read_header(path)


def test_as_much_as_deflate_can_hold(tmp_path):
    """Air alone, which compresses best, is not refused."""
    for name in ("a.mhd", "a.nrrd", "a.nii.gz"):
        path = write_scan(tmp_path / name, np.full((64, 128, 128), -1024, dtype=np.int16), compress=True)
        file = find_voxel_file(path).path
        assert file.stat().st_size * DEFLATE_RATIO > 2 * 64 * 128 * 128
        assert (read_voxels(read_header(path)) == -1024).all()


@pytest.mark.parametrize("name", ["a.nii", "a.mhd", "a.mha", "a.nrrd", "a.tif"])
def test_a_files_format_is_that_of_its_name(tmp_path, hu, name):
    """ITK itself would try its readers of other formats."""
    write_scan(tmp_path / "a.tif", hu)
    (tmp_path / "a.tif").rename(tmp_path / name)
    with refused(tmp_path / name):
        read_header(tmp_path / name)


def test_voxels_that_are_no_numbers(tmp_path, hu):
    with refused(tmp_path / "a.nrrd"):
        read_header(write_scan(tmp_path / "a.nrrd", hu.astype(np.complex64)))


NIFTI_OFFSET = slice(108, 112)
DAMAGES = [("a.nii", NIFTI_OFFSET, struct.pack("<f", offset)) for offset in (float("nan"), float("inf"), -1e30)]
DAMAGES += [(name, slice(-30, -10), bytes(20)) for name in ("a.mha", "a.nii.gz", "a.nrrd")]  # compressed


@pytest.mark.parametrize(("name", "place", "damage"), DAMAGES)
def test_damaged_bytes_are_refused(tmp_path, hu, name, place, damage):
    path = write_scan(tmp_path / name, hu, compress=name != "a.nii")
    data = bytearray(path.read_bytes())
    data[place] = damage
    path.write_bytes(data)
    with refused(path):
        read_voxels(read_header(path))


def test_lengths_do_not_wrap_round(tmp_path, hu):
    path = write_scan(tmp_path / "a.nii", hu)
    data = bytearray(path.read_bytes())
    struct.pack_into("<8h", data, 40, 3, *[32_767] * 3, 1, 1, 1, 1)
    path.write_bytes(data)
    with refused(path):
        read_header(path)
