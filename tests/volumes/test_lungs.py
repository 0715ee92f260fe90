import numpy as np
import pytest
from scipy import ndimage

from p2ch13.data.ct import Ct
from p2ch13.labels.candidates import get_nodule_info_list
from p2ch13.volumes.files import find_scans
from p2ch13.volumes.lungs import dilate, erode, fill_holes, find_lungs
from tests.support.scan_files import make_chest

VX_SIZE_XYZ = (3.0, 3.0, 3.0)
LEFT, RIGHT, TRACHEA, HEART, TABLE = (40, 42), (40, 86), (30, 64), (45, 64), (80, 64)


def lung_tissue(hu):
    """The ellipses of `make_chest`; foam is slightly denser."""
    return hu == -860


def test_both_lungs_and_nothing_else():
    hu = make_chest()
    lungs = find_lungs(hu, VX_SIZE_XYZ)
    assert lungs.dtype == bool
    # Nothing is lost, and closing two ellipses, 20 mm apart at least, adds next to nothing.
    assert lungs[lung_tissue(hu)].all()
    assert lungs.sum() <= 1.02 * lung_tissue(hu).sum()
    assert not any(lungs[4][place] for place in (TRACHEA, HEART, TABLE))


@pytest.mark.parametrize("slice_count", [1, 2, 16])
@pytest.mark.parametrize("vx_size_mm", [0.75, 1.5])
def test_any_number_and_size_of_voxels(slice_count, vx_size_mm):
    factor = round(3 / vx_size_mm)
    hu = make_chest((slice_count, 96 * factor, 128 * factor), vx_size_mm)
    lungs = find_lungs(hu, (vx_size_mm, vx_size_mm, 0.6))
    truth = lung_tissue(hu)
    assert lungs.shape == hu.shape
    assert (lungs & truth).sum() > 0.97 * truth.sum()  # the rest is the steps of the grid
    assert lungs.sum() < 1.03 * truth.sum()


def test_vessels_and_nodules_are_filled_in():
    hu = make_chest()
    hu[:, 38:42, 40:44] = 40  # a vessel from the first slice to the last
    hu[3:6, 37:43, 50:60] = 40  # at the surface, towards the heart: 18 mm wide, 12 mm of it in the lung
    lungs = find_lungs(hu, VX_SIZE_XYZ)
    assert lungs[:, 38:42, 40:44].all()
    assert lungs[4, 37:43, 50:52].all()
    assert not lungs[4, 40, 60]


def test_padding_is_no_air():
    """The field of view cuts off the chest wall beside both lungs."""
    hu = make_chest()
    col = np.arange(128)
    hu[:, :, (col < 32) | (col > 94)] = -3024
    lungs = find_lungs(hu, VX_SIZE_XYZ)
    assert lungs[lung_tissue(hu)].all()
    assert not lungs[hu == -3024].any()
    assert not any(lungs[4][place] for place in (TRACHEA, HEART, TABLE))


def test_a_box_cut_out_around_the_lungs():
    hu = make_chest()[:, 14:66, 28:100]
    lungs = find_lungs(hu, VX_SIZE_XYZ)
    assert lungs[lung_tissue(hu)].all()


def test_noise_and_turned_patients():
    hu = make_chest() + np.random.default_rng(0).normal(0, 60, (8, 96, 128)).astype(np.int16)
    truth = lung_tissue(make_chest())
    lungs = find_lungs(hu, VX_SIZE_XYZ)
    assert (lungs & truth).sum() > 0.99 * truth.sum()
    np.testing.assert_array_equal(find_lungs(hu[::-1, ::-1, ::-1], VX_SIZE_XYZ)[::-1, ::-1, ::-1], lungs)


def test_bowel_gas_and_bubbles_are_left_out():
    hu = make_chest()
    hu[:, 55:65, 60:70] = -990  # stomach: 30 mm
    hu[2:4, 48:50, 63:65] = -860  # a bubble, its average made denser by its wall
    lungs = find_lungs(hu, VX_SIZE_XYZ)
    assert not lungs[:, 57:63, 62:68].any()
    assert not lungs[2:4, 48:50, 63:65].any()
    assert lungs[lung_tissue(make_chest())].all()


@pytest.mark.parametrize("hu", [-1000, -900, 40, -3024])
def test_no_lungs(hu):
    assert find_lungs(np.full((6, 40, 50), hu, dtype=np.int16), VX_SIZE_XYZ) is None


def test_a_head_has_no_lungs():
    hu = make_chest()
    hu[lung_tissue(hu)] = 40
    assert find_lungs(hu, VX_SIZE_XYZ) is None


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5])
def test_dilate_as_scipy_does(radius):
    mask = np.random.default_rng(0).random((2, 20, 30)) < 0.02
    expected = mask
    for step in range(radius):
        expected = ndimage.binary_dilation(expected, ndimage.generate_binary_structure(2, 1 + step % 2)[None])
    np.testing.assert_array_equal(dilate(mask, radius), expected)
    np.testing.assert_array_equal(erode(~mask, radius), ~expected)


def test_only_small_holes_are_filled():
    mask = np.ones((2, 12, 12), dtype=bool)
    mask[0, 2:4, 2:5] = False  # 6 pixels
    mask[0, 6:9, 6:9] = False  # 9
    mask[1, 0:2, 0:2] = False  # not a hole: at the edge
    filled = fill_holes(mask, 6)
    assert (~filled).sum() == 9 + 4
    assert not filled[0, 7, 7]
    assert not filled[1, 0, 0]


def test_real_lungs_hold_their_nodules(luna_sample):
    nodules = get_nodule_info_list(luna_sample)
    assert len(nodules) == 8
    lungs = {uid: find_lungs(Ct(path).hu, Ct(path).vx_size_xyz) for uid, path in find_scans(luna_sample).items()}
    for nodule in nodules:
        ct = Ct(find_scans(luna_sample)[nodule.series_uid])
        assert lungs[nodule.series_uid][ct.locate(nodule.center_xyz)]
    assert all(0.15 < mask.mean() < 0.35 for mask in lungs.values())
