"""Files of nibabel and dcm2niix are read as they read them; they and SimpleITK read what predict writes."""

import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.data.ct import Ct
from p2ch13.detection.outputs import write_image
from p2ch13.predict import main as predict
from p2ch13.volumes.volume import Volume
from tests.support import dicom_files
from tests.support.checks import refused
from tests.support.networks import write_pixel_network
from tests.support.scan_files import make_chest
from tests.support.tools import run_tool

HU = np.random.default_rng(3).integers(-1000, 400, (5, 30, 40)).astype(np.int16)
RAS_TO_LPS = np.diag([-1.0, -1, 1, 1])


def turn(degrees, *axes):
    """(3, 3): turn one axis to another."""
    one, other = axes
    rotation = np.eye(3)
    angle = np.radians(degrees)
    rotation[[one, other], [one, other]] = np.cos(angle)
    rotation[one, other], rotation[other, one] = -np.sin(angle), np.sin(angle)
    return rotation


AXIAL = np.diag([-1.0, -1, 1])  # of columns, rows, slices, RAS
DIRECTIONS = {
    "axial": AXIAL,
    "RAS+": np.eye(3),
    "from head to feet": np.diag([-1.0, -1, -1]),
    "sagittal": np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    "coronal": np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "oblique": turn(20, 0, 1) @ turn(-10, 1, 2) @ AXIAL,
    "oblique and mirrored": turn(-15, 0, 2) @ turn(5, 0, 1),
}


def make_affine(name):
    """(4, 4), RAS, of voxels of 2 x 3 x 4 mm along columns, rows and slices."""
    affine = np.eye(4)
    affine[:3, :3] = DIRECTIONS[name] * (2, 3, 4)
    affine[:3, 3] = 60.5, -20.25, -300
    return affine


def assert_like_nibabel(volume, path):
    """Each voxel's value and place, in mm, LPS: those of the nearest axial order."""
    image = nib.as_closest_canonical(nib.load(path))
    values, affine = image.get_fdata().reshape(image.shape[:3]), RAS_TO_LPS @ image.affine
    np.testing.assert_array_equal(volume.hu, values.round().transpose(2, 1, 0)[:, ::-1, ::-1])
    cols, rows, _ = values.shape
    for index, row, col in ((0, 0, 0), (1, 2, 3), (4, 5, 6)):
        place = (affine @ (cols - 1 - col, rows - 1 - row, index, 1))[:3]
        np.testing.assert_allclose(volume.to_xyz((index, row, col)), place, atol=1e-3)


@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_nibabel(tmp_path, direction, suffix, image_class, capfd):
    path = tmp_path / f"scan.{suffix}"
    nib.save(image_class(HU.transpose(2, 1, 0), make_affine(direction)), path)
    assert_like_nibabel(Volume(path), path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_nibabel_scales_values_into_a_type(tmp_path, kind):
    """From floats, with slope and intercept; a value is as near as the type allows."""
    path = tmp_path / "scan.nii"
    image = nib.Nifti1Image(HU.transpose(2, 1, 0).astype(np.float64), make_affine("oblique"))
    image.set_data_dtype(kind)
    nib.save(image, path)
    assert_like_nibabel(Volume(path), path)
    np.testing.assert_allclose(nib.load(path).get_fdata(), HU.transpose(2, 1, 0), atol=1400 / 255)


def test_nibabel_with_one_form_or_a_fourth_axis(tmp_path):
    for qform, sform, shape in ((0, 2, ()), (1, 0, ()), (1, 1, (1,)), (1, 1, (1, 1))):
        image = nib.Nifti1Image(HU.transpose(2, 1, 0).reshape(40, 30, 5, *shape), make_affine("oblique"))
        image.set_qform(image.affine, qform)
        image.set_sform(image.affine, sform)
        nib.save(image, tmp_path / "scan.nii.gz")
        assert_like_nibabel(Volume(tmp_path / "scan.nii.gz"), tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("is_compressed", ["y", "n"])
@pytest.mark.parametrize(
    "cosines", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), (0.8, 0.6, 0, -0.6, 0.8, 0)]
)
def test_dcm2niix(tmp_path, cosines, is_compressed):
    """The same volume, to the voxel, as the DICOM series has that it was made of."""
    dicom_files.write_series(tmp_path / "ct", HU, cosines=cosines)
    run_tool("dcm2niix", "-z", is_compressed, "-f", "scan", "-o", tmp_path, tmp_path / "ct")
    (path,) = tmp_path.glob("scan*.nii*")
    volume, source = Volume(path), Volume(tmp_path / "ct")
    np.testing.assert_array_equal(volume.hu, source.hu)
    for irc in ((0, 0, 0), (4, 5, 6)):
        np.testing.assert_allclose(volume.to_xyz(irc), source.to_xyz(irc), atol=1e-3)
    assert_like_nibabel(volume, path)


def test_dcm2niix_of_a_tilted_gantry(tmp_path):
    """It writes the shear into the sform, which is refused with its angle, and a second file without, which is read."""
    step = (0, np.tan(np.radians(12)) * dicom_files.SLICE_SPACING, dicom_files.SLICE_SPACING)
    tags = {"GantryDetectorTilt": "12", "PixelRepresentation": 1}
    dicom_files.write_series(tmp_path / "ct", make_chest(), step_xyz=step, **tags)
    run_tool("dcm2niix", "-f", "scan", "-o", tmp_path, tmp_path / "ct")
    with refused(tmp_path / "scan.nii") as caught:
        Volume(tmp_path / "scan.nii")
    assert "12.0 degrees" in str(caught.value)
    (corrected,) = tmp_path.glob("scan_Tilt*.nii")
    assert_like_nibabel(Volume(corrected), corrected)


@pytest.mark.parametrize("suffix", ["nii.gz", "mha", "nrrd"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_masks_have_the_scans_affine(tmp_path, direction, suffix):
    """In NIfTI, by nibabel; in all formats, by SimpleITK."""
    scan, mask = tmp_path / "scan.nii.gz", tmp_path / f"mask.{suffix}"
    affine = make_affine(direction)
    nib.save(nib.Nifti1Image(HU.transpose(2, 1, 0), affine), scan)
    ct = Ct(scan)
    write_image(mask, (ct.hu > 0).astype(np.uint8), ct)
    image = sitk.ReadImage(str(mask))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), HU > 0)
    steps = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    expected = RAS_TO_LPS @ affine
    np.testing.assert_allclose(steps, expected[:3, :3], atol=1e-5)
    np.testing.assert_allclose(image.GetOrigin(), expected[:3, 3], atol=1e-4)
    if suffix == "nii.gz":
        np.testing.assert_allclose(nib.load(mask).affine, affine, atol=1e-4)
        np.testing.assert_array_equal(nib.load(mask).get_fdata(), HU.transpose(2, 1, 0) > 0)


def test_a_mask_that_predict_writes(tmp_path, capfd):
    """Of an oblique scan, whose axes are a hair off a right angle; nothing of a library's is printed."""
    hu = make_chest((8, 40, 50), 6.0)
    affine = make_affine("oblique")
    affine[0, 1] += 1e-4
    nib.save(nib.Nifti1Image(hu.transpose(2, 1, 0), affine), tmp_path / "scan.nii.gz")
    checkpoint = write_pixel_network(tmp_path / "seg.state", -700)
    options = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), "--no-lung-mask"]
    assert predict([str(tmp_path / "scan.nii.gz"), *options]) == 0
    output = capfd.readouterr()
    *lines, _, places, page = [line for line in output.out.splitlines() if line.strip()]
    assert str(tmp_path / "out") in places and page.endswith("scan_report.html")
    lines += [line for line in output.err.splitlines() if line.strip()]
    assert all(re.match(r"\d\d:\d\d:\d\d |Segmenting|\r", line) for line in lines)
    mask = nib.load(tmp_path / "out" / "scan_mask.nii.gz")
    np.testing.assert_allclose(mask.affine, affine, atol=2e-3)
    assert mask.shape == (50, 40, 8)
