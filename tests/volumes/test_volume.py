import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.util.boxes import BoxMask, make_box, shape_of
from p2ch13.util.coordinates import IrcTuple
from p2ch13.volumes.volume import Volume
from tests.support.checks import refused
from tests.support.scan_files import IDENTITY, ORIENTATIONS, ORIGIN_XYZ, VX_SIZE_XYZ, to_xyz, write_scan, write_turned

SHAPE_IRC = (9, 6, 7)
HU = np.random.default_rng(0).integers(-1500, 1500, SHAPE_IRC).astype(np.int16)
CONTEXT = 3


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["mhd", "nii.gz"])
def test_every_order_of_axes_is_read_as_axial(tmp_path, orientation, suffix):
    path = write_turned(tmp_path / f"1.2.{suffix}", orientation, write_scan(tmp_path / "axial.mha", HU))
    volume = Volume(path)
    np.testing.assert_array_equal(volume.hu, HU)
    assert (volume.series_uid, volume.shape_irc) == ("1.2", SHAPE_IRC)
    np.testing.assert_allclose(volume.origin_xyz, ORIGIN_XYZ, atol=1e-4)
    np.testing.assert_allclose(volume.vx_size_xyz, VX_SIZE_XYZ, rtol=1e-6)
    np.testing.assert_allclose(volume.direction, np.eye(3), atol=1e-6)
    assert volume.locate(to_xyz((8, 1, 2))) == volume.to_irc(to_xyz((8, 1, 2))) == IrcTuple(8, 1, 2)
    assert volume.to_xyz((8, 1, 2)) == pytest.approx(to_xyz((8, 1, 2)), abs=1e-4)
    np.testing.assert_array_equal(volume.as_stored(HU), sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_part_of_a_mask_in_the_order_of_the_file(tmp_path, orientation):
    volume = Volume(write_turned(tmp_path / "1.2.mha", orientation, write_scan(tmp_path / "axial.mha", HU)))
    box = make_box((1, 2, 0), (4, 4, 5))
    mask = np.random.default_rng(1).random(shape_of(box)) < 0.5
    whole = np.zeros(volume.as_stored(HU).shape, dtype=bool)
    whole[box] = mask
    placed = volume.place_stored(BoxMask(box, mask))
    axial = np.zeros(SHAPE_IRC, dtype=bool)
    axial[placed.box] = placed.mask
    np.testing.assert_array_equal(volume.as_stored(axial), whole)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(("spacing_mm", "step"), [(0.0, 1), (1.0, 1), (3.0, 2), (2.2, 1), (2.3, 2)])
def test_context_slices_by_hand(tmp_path, orientation, spacing_mm, step):
    """Slices are 1.5 mm apart from feet to head, in any file."""
    volume = Volume(write_turned(tmp_path / "1.2.mha", orientation, write_scan(tmp_path / "axial.mha", HU)))
    rows, cols = slice(1, 5), slice(2, 7)
    cut = volume.context_slices(range(9), CONTEXT, spacing_mm, rows, cols)
    assert cut.shape == (9, 7, 4, 5)
    clipped = HU.clip(-1000, 1000)
    for slice_ndx in range(9):
        for place in range(7):
            source = min(max(slice_ndx + (place - CONTEXT) * step, 0), 8)
            np.testing.assert_array_equal(cut[slice_ndx, place], clipped[source, rows, cols])
    np.testing.assert_array_equal(volume.context_slices([4], CONTEXT, spacing_mm)[0, CONTEXT], clipped[4])


def test_slice_spacing_is_measured_along_the_patients_axis(tmp_path):
    """Slices 2 mm apart, tilted by 45 degrees, lie 1.41 mm apart along z: 2.3 mm are two of them, not one."""
    c = np.sqrt(0.5)
    tilted = (1, 0, 0, 0, c, -c, 0, c, c)
    for direction, step in ((IDENTITY, 1), (tilted, 2)):
        volume = Volume(write_scan(tmp_path / "1.2.mha", HU, direction, vx_size_xyz=(0.7, 0.7, 2.0)))
        assert volume.context_indexes(4, 1, 2.3) == [4 - step, 4, 4 + step]


def test_a_point_outside(tmp_path):
    volume = Volume(write_scan(tmp_path / "1.2.mha", HU))
    assert volume.to_irc(to_xyz((9, 0, 0))) == IrcTuple(9, 0, 0)
    with refused(path=tmp_path / "1.2.mha"):
        volume.locate(to_xyz((9, 0, 0)))


def test_a_files_series_may_have_another_name(tmp_path):
    assert Volume(write_scan(tmp_path / "case_0000.nii.gz", HU), "case").series_uid == "case"
