import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.data.ct import Ct
from p2ch13.util.coordinates import irc2xyz
from p2ch13.volumes.dicom.search import find_series
from p2ch13.volumes.files import read_header, read_voxels
from tests.support.checks import refused
from tests.support.dicom_files import ORIGIN_XYZ, SERIES_UID, SLICE_SPACING, rewrite, write_series

OTHER_UID = "1.2.826.0.1.3680043.8.498.8"
TURNED = (0, 1, 0, 0, 0, -1)  # rows along +y, columns along -z: a sagittal series
ANGLE = (0.8, 0.6, 0, -0.6, 0.8, 0)


def test_slices_are_in_the_order_of_their_positions(tmp_path, hu):
    write_series(tmp_path, hu, names=["d", "a.dcm", "IM7", "c", "b.ima", "000"])
    header = read_header(tmp_path)
    assert header.series_uid == SERIES_UID
    assert header.shape_irc == (6, 20, 22)
    assert header.origin_xyz == pytest.approx(ORIGIN_XYZ)
    assert header.vx_size_xyz == pytest.approx((0.5, 0.75, SLICE_SPACING))
    assert header.direction == pytest.approx(np.eye(3))
    voxels = read_voxels(header)
    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(voxels, hu)


def test_slices_from_head_to_feet(tmp_path, hu):
    """The array is in the order of the normal, and its origin is the last file's."""
    write_series(tmp_path, hu, step_xyz=(0, 0, -SLICE_SPACING))
    ct = Ct(tmp_path)
    np.testing.assert_array_equal(ct.hu, hu[::-1])
    assert ct.origin_xyz == pytest.approx((-30, -40, 200 - 5 * SLICE_SPACING))


@pytest.mark.parametrize("cosines", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), TURNED, ANGLE])
def test_geometry_is_that_of_simpleitk(tmp_path, hu, cosines):
    write_series(tmp_path, hu, cosines=cosines)
    header = read_header(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in header.dicom_files])
    image = reader.Execute()
    assert header.origin_xyz == pytest.approx(image.GetOrigin())
    assert header.vx_size_xyz == pytest.approx(image.GetSpacing())
    assert header.direction.ravel() == pytest.approx(image.GetDirection())
    np.testing.assert_array_equal(read_voxels(header), sitk.GetArrayFromImage(image))
    place = irc2xyz((2, 3, 4), header.origin_xyz, header.vx_size_xyz, header.direction)
    assert place == pytest.approx(image.TransformIndexToPhysicalPoint((4, 3, 2)))


def test_rescaled_values_are_rounded(tmp_path, hu):
    write_series(tmp_path, hu, slope=0.5)
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)
    write_series(tmp_path / "other", hu, slope=3)
    assert np.abs(Ct(tmp_path / "other").hu.astype(int) - hu).max() == 1


def test_of_several_series_one_is_asked_for(tmp_path, hu):
    write_series(tmp_path, hu)
    write_series(tmp_path, hu[:3] + 7, series_uid=OTHER_UID, names=["x", "y", "z"])
    (tmp_path / "readme.txt").write_text("not DICOM")
    assert {each.name: len(each.slices) for each in find_series(tmp_path).series} == {SERIES_UID: 6, OTHER_UID: 3}
    assert Ct(tmp_path).series_uid == SERIES_UID  # the largest
    ct = Ct(tmp_path, series_uid=OTHER_UID)
    np.testing.assert_array_equal(ct.hu, hu[:3] + 7)
    with refused(tmp_path):
        Ct(tmp_path, series_uid="1.2.9")


def test_a_single_slice(tmp_path, hu):
    write_series(tmp_path, hu[:1])
    assert read_header(tmp_path).vx_size_xyz == pytest.approx((0.5, 0.75, SLICE_SPACING))


def test_a_folder_without_dicom(tmp_path, capfd):
    (tmp_path / "readme.txt").write_text("not DICOM")
    with refused(tmp_path):
        read_header(tmp_path)
    assert capfd.readouterr().err == ""


def test_a_missing_slice_is_named(tmp_path, hu):
    write_series(tmp_path, hu)[3].unlink()
    with refused(tmp_path / "004.dcm"):
        read_header(tmp_path)


@pytest.mark.parametrize(
    "attributes",
    [
        {"PixelSpacing": [0.8, 0.5]},
        {"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]},
        {"ImagePositionPatient": [-30, -40, 207.5]},  # as 003.dcm
        {"ImagePositionPatient": [-30, -40, 210.5]},  # uneven
        {"Modality": "MR"},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"NumberOfFrames": 4},
        {"PixelSpacing": None},
        {"ImagePositionPatient": None},
    ],
)
def test_slices_that_make_up_no_scan(tmp_path, hu, attributes):
    files = write_series(tmp_path, hu)
    rewrite(files[4], **attributes)
    with refused(files[4]):
        read_header(tmp_path)


def test_slices_of_another_size(tmp_path, hu):
    write_series(tmp_path, hu)
    write_series(tmp_path, hu[:1, :10], names=["004.dcm"])
    with refused():
        read_header(tmp_path)


def test_a_tilted_gantry(tmp_path, hu):
    write_series(tmp_path, hu, step_xyz=(0, 0.5, 2.5))
    with refused(tmp_path):
        read_header(tmp_path)


@pytest.mark.parametrize("ndx", [2, 5])
def test_a_slice_cut_short(tmp_path, hu, ndx):
    files = write_series(tmp_path, hu)
    files[ndx].write_bytes(files[ndx].read_bytes()[:-300])
    with refused(files[ndx]):
        read_header(tmp_path)


def test_small_differences_of_position_do_no_harm(tmp_path, hu):
    files = write_series(tmp_path, hu)
    rewrite(files[4], ImagePositionPatient=[-30, -40, 210.03])
    assert read_header(tmp_path).vx_size_xyz[2] == pytest.approx(2.5)
