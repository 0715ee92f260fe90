import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.util.coordinates import AxialOrder, IrcTuple, XyzTuple, irc2xyz, xyz2irc
from tests.support.scan_files import IDENTITY

ORIGIN_XYZ = (10.0, 20.0, 30.0)
VX_SIZE_XYZ = (0.5, 0.6, 2.0)
FLIPPED = (-1, 0, 0, 0, -1, 0, 0, 0, 1)  # as 14 scans of LUNA16 have it
CYCLIC = (0, 0, 1, 1, 0, 0, 0, 1, 0)  # not symmetric: its inverse is its transpose, and another matrix
TILTED = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)  # 36.9 degrees about z
SHEARED = (1, 0, 0.3, 0, 1, 0, 0, 0, 1)  # not even orthogonal

BY_HAND = [
    (IDENTITY, (4, 3, 2), (11.0, 21.8, 38.0)),
    (FLIPPED, (4, 3, 2), (9.0, 18.2, 38.0)),
    # x follows the slice, y the column, z the row: 10 + 4 * 2.0, 20 + 2 * 0.5, 30 + 3 * 0.6
    (CYCLIC, (4, 3, 2), (18.0, 21.0, 31.8)),
    # 10 + 0.8 * 1.0 - 0.6 * 1.8, 20 + 0.6 * 1.0 + 0.8 * 1.8
    (TILTED, (4, 3, 2), (9.72, 22.04, 38.0)),
]


@pytest.mark.parametrize(("direction", "irc", "xyz"), BY_HAND)
def test_by_hand(direction, irc, xyz):
    matrix = np.reshape(direction, (3, 3))
    assert irc2xyz(irc, ORIGIN_XYZ, VX_SIZE_XYZ, matrix) == pytest.approx(xyz)
    assert xyz2irc(xyz, ORIGIN_XYZ, VX_SIZE_XYZ, matrix) == irc


@pytest.mark.parametrize("direction", [IDENTITY, FLIPPED, CYCLIC, TILTED, SHEARED])
def test_there_and_back_for_every_direction(direction):
    matrix = np.reshape(direction, (3, 3))
    for irc in [(0, 0, 0), (7, 1, 5), (100, 511, 0), (3, 20, 499)]:
        assert xyz2irc(irc2xyz(irc, ORIGIN_XYZ, VX_SIZE_XYZ, matrix), ORIGIN_XYZ, VX_SIZE_XYZ, matrix) == irc


@pytest.mark.parametrize("direction", [IDENTITY, FLIPPED, CYCLIC, TILTED])
def test_same_as_itk(direction):
    image = sitk.Image(8, 8, 8, sitk.sitkInt16)
    image.SetOrigin(ORIGIN_XYZ)
    image.SetSpacing(VX_SIZE_XYZ)
    image.SetDirection(direction)
    itk_xyz = image.TransformIndexToPhysicalPoint((2, 3, 4))
    assert irc2xyz((4, 3, 2), ORIGIN_XYZ, VX_SIZE_XYZ, np.reshape(direction, (3, 3))) == pytest.approx(itk_xyz)


def test_points_between_voxels_go_to_the_nearest():
    assert xyz2irc((10.24, 20.0, 30.9), ORIGIN_XYZ, VX_SIZE_XYZ, np.eye(3)) == IrcTuple(0, 0, 0)
    assert xyz2irc((10.26, 20.0, 31.1), ORIGIN_XYZ, VX_SIZE_XYZ, np.eye(3)) == IrcTuple(1, 0, 1)


def test_named_results():
    assert irc2xyz((0, 0, 0), ORIGIN_XYZ, VX_SIZE_XYZ, np.eye(3)) == XyzTuple(x=10.0, y=20.0, z=30.0)
    assert xyz2irc(ORIGIN_XYZ, ORIGIN_XYZ, VX_SIZE_XYZ, np.eye(3)).row == 0


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), lambda voxels: voxels),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), lambda voxels: voxels[:, ::-1, ::-1]),
        ((1, 0, 0, 0, 1, 0, 0, 0, -1), lambda voxels: voxels[::-1]),
        ((0.9, -0.1, 0, 0.1, 0.9, 0, 0, 0, 1), lambda voxels: voxels),
        # Columns: col along +y, row along -z, index along +x, so that the head is at row 0.
        ((0, 0, 1, 1, 0, 0, 0, -1, 0), lambda voxels: voxels[:, ::-1].transpose(1, 2, 0)),
    ],
)
def test_axial_order(direction, expected):
    voxels = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    order = AxialOrder.of(np.reshape(direction, (3, 3)))
    axial = order.to_axial(voxels)
    np.testing.assert_array_equal(axial, expected(voxels))
    assert axial.base is not None  # a view
    np.testing.assert_array_equal(order.to_stored(axial), voxels)
