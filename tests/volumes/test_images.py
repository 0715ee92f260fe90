"""Images in memory are the same scans as their files."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.data.ct import Ct
from p2ch13.util.errors import InputError
from p2ch13.volumes.volume import Volume
from tests.support.checks import refused
from tests.support.commands import run_python
from tests.support.scan_files import ORIENTATIONS, make_chest, write_scan, write_turned

OBLIQUE = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)


def assert_same(scan, other):
    np.testing.assert_array_equal(scan.hu, other.hu)
    for name in ("origin_xyz", "vx_size_xyz", "direction"):
        np.testing.assert_allclose(getattr(scan, name), getattr(other, name), atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(scan.as_stored(scan.hu), other.as_stored(other.hu))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_as_from_its_file(tmp_path, hu, orientation):
    """Whatever the order of axes, in SimpleITK's LPS and in nibabel's RAS."""
    path = write_turned(tmp_path / "turned.nii.gz", orientation, write_scan(tmp_path / "a.mha", hu))
    assert_same(Ct(sitk.ReadImage(str(path))), Ct(path))
    assert_same(Ct(nibabel.load(path)), Ct(path))


def test_an_oblique_one(tmp_path, hu):
    path = write_scan(tmp_path / "a.nii", hu, OBLIQUE)
    for image in (sitk.ReadImage(str(path)), nibabel.load(path)):
        assert_same(Ct(image), Ct(path))


def test_where_a_voxel_is():
    """By hand: of nibabel, the voxel (i, j, k) = (1, 2, 3) is at RAS (10 - 1 * 2, 20 - 2 * 2, 30 + 3 * 4)."""
    values = np.full((5, 6, 7), -1000, np.int16)
    values[1, 2, 3] = 40
    image = nibabel.Nifti1Image(values, np.array([[-2, 0, 0, 10], [0, -2, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]))
    volume = Volume(image)
    (voxel,) = np.argwhere(volume.voxels == 40)
    assert tuple(volume.to_xyz(voxel)) == (-8, -16, 42)
    assert volume.shape_irc == (7, 6, 5)


@pytest.mark.parametrize(
    ("stored", "slope", "inter"), [("int16", 1, -1024), ("uint16", 2.0, -1000.0), ("float32", 1, 0)]
)
def test_rescaled_voxels_of_nibabel(tmp_path, stored, slope, inter):
    """`scl_slope` and `scl_inter` of a file are applied, as nibabel's `get_fdata` does."""
    hu = make_chest()
    image = nibabel.Nifti1Image(((hu.T - inter) / slope).astype(stored), np.diag([-3, -3, 3, 1]))
    image.header.set_slope_inter(slope, inter)
    image.header.set_data_dtype(stored)
    nibabel.save(image, tmp_path / "a.nii")
    with (tmp_path / "a.nii").open("r+b") as file:  # nibabel writes its own scaling
        file.seek(112)
        file.write(np.array([slope, inter], "<f4").tobytes())
    loaded = nibabel.load(tmp_path / "a.nii")
    volume = Ct(loaded)
    np.testing.assert_array_equal(volume.as_stored(volume.hu), loaded.get_fdata().T.round())
    assert_same(volume, Ct(tmp_path / "a.nii"))


def test_names(tmp_path, hu):
    path = write_scan(tmp_path / "some scan.nii.gz", hu)
    assert Ct(nibabel.load(path)).series_uid == "some scan"
    image = sitk.ReadImage(str(path))
    assert Ct(image).series_uid == "image"
    assert Ct(image, series_uid="1.2").series_uid == "1.2"


def test_the_voxels_stay_when_the_image_changes(hu):
    image = sitk.GetImageFromArray(hu)
    ct = Ct(image)
    before = ct.hu.copy()
    image[0, 0, 0] = 999
    np.testing.assert_array_equal(ct.hu, before)


def test_paths_as_text(tmp_path, hu):
    path = write_scan(tmp_path / "a.mha", hu)
    assert_same(Ct(str(path)), Ct(path))


def nifti(values, affine):
    return nibabel.Nifti1Image(values, affine)


# An image's text holds its address, so that each has a name of its own.
NO_SCANS = {
    "2-D": sitk.Image(4, 5, sitk.sitkInt16),
    "three values": sitk.Image([4, 5, 6], sitk.sitkVectorInt16, 3),
    "4-D": sitk.Image([4, 5, 6, 2], sitk.sitkInt16),
    "complex": sitk.Image([4, 5, 6], sitk.sitkComplexFloat32),
    "nibabel 2-D": nifti(np.zeros((4, 5), np.int16), np.eye(4)),
    "nibabel 4-D": nifti(np.zeros((4, 5, 6, 2), np.int16), np.eye(4)),
    "nibabel complex": nifti(np.zeros((4, 5, 6), np.complex64), np.eye(4)),
    "nibabel empty": nifti(np.zeros((4, 5, 0), np.int16), np.eye(4)),
    "no affine": nifti(np.zeros((4, 5, 6), np.int16), None),
    "half a meter": nifti(np.zeros((4, 5, 6), np.int16), np.diag([0.7, 0.7, 500, 1])),
    "array": np.zeros((4, 5, 6), np.int16),
    "number": 5,
    "nothing": None,
}


@pytest.mark.parametrize("image", NO_SCANS.values(), ids=NO_SCANS)
def test_what_is_no_scan(image):
    with refused():
        Ct(image)


def test_no_orientation():
    image = nifti(np.zeros((4, 5, 6), np.int16), np.eye(4))
    image.header["sform_code"] = 0
    with refused():
        Ct(image)


def test_a_trailing_dimension_of_one():
    assert Ct(nifti(np.zeros((4, 5, 6, 1), np.int16), np.eye(4))).shape_irc == (6, 5, 4)


@pytest.mark.parametrize("values", [(0, 1), (0, 255)])
def test_values_are_checked_as_those_of_files(values):
    """A mask and a picture are no HU."""
    hu = np.random.default_rng(0).integers(values[0], values[1], (6, 20, 22), endpoint=True).astype(np.int16)
    for image in (sitk.GetImageFromArray(hu), nifti(hu.T, np.diag([-1, -1, 1, 1]))):
        with refused():
            Ct(image).hu  # noqa: B018 (it is checked when it is used)


def test_not_a_number():
    hu = np.full((6, 20, 22), np.nan, np.float32)
    with pytest.raises(InputError):
        Ct(sitk.GetImageFromArray(hu)).hu  # noqa: B018


def test_nibabel_is_not_imported():
    code = (
        "import sys, numpy, SimpleITK; from p2ch13 import Ct, InputError\n"
        "Ct(SimpleITK.GetImageFromArray(numpy.zeros((4, 5, 6), numpy.int16)))\n"
        "try: Ct(5)\nexcept InputError: sys.exit('nibabel' in sys.modules)"
    )
    run_python("-c", code)
