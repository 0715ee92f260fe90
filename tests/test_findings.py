import math

import numpy as np
import pytest

from p2ch13.ct import Ct
from p2ch13.findings import find_nodules, sphere_volume
from tests.scan_files import ORIGIN_XYZ, make_hu, write_scan

SHAPE_IRC = (6, 20, 22)
VX_SIZE_XYZ = (0.5, 0.8, 2.0)
VOXEL_MM3 = 0.5 * 0.8 * 2.0
TURNED = (0, 0, 1, -1, 0, 0, 0, -1, 0)


def open_scan(tmp_path, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)):
    return Ct(write_scan(tmp_path / "1.2.3.mha", make_hu([], SHAPE_IRC), direction, vx_size_xyz=VX_SIZE_XYZ))


@pytest.fixture
def ct(tmp_path):
    return open_scan(tmp_path)


@pytest.fixture
def probability():
    """Two pieces: 2 x 4 x 6 voxels, and 1 x 5 x 8 with a corner of the first."""
    probability = np.zeros(SHAPE_IRC, dtype=np.float16)
    probability[1:3, 3:7, 4:10] = 0.75
    probability[5, 10:15, 12:20] = 0.875
    return probability


def test_places_and_sizes_by_hand(ct, probability):
    labels, (first, second) = find_nodules(ct, probability)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, np.select([probability == 0.875, probability == 0.75], [1, 2]))
    assert (first.series_uid, first.number, second.number) == ("1.2.3", 1, 2)
    assert (first.probability, second.probability) == (0.875, 0.75)
    assert first.volume_mm3 == pytest.approx(40 * VOXEL_MM3)
    assert second.volume_mm3 == pytest.approx(48 * VOXEL_MM3)
    assert second.diameter_mm == pytest.approx((6 / math.pi * 48 * VOXEL_MM3) ** (1 / 3))
    assert (second.first_slice, second.last_slice) == (1, 2)
    assert (first.first_slice, first.last_slice) == (5, 5)
    # The mean of the voxels: index 1.5, row 4.5, col 6.5.
    x, y, z = ORIGIN_XYZ
    assert second.center_xyz == pytest.approx((x + 6.5 * 0.5, y + 4.5 * 0.8, z + 1.5 * 2))


def test_places_in_a_turned_scan(tmp_path, probability):
    """Cols run along -y, rows along -z, slices along x."""
    second = find_nodules(open_scan(tmp_path, TURNED), probability)[1][1]
    x, y, z = ORIGIN_XYZ
    assert second.center_xyz == pytest.approx((x + 1.5 * 2, y - 6.5 * 0.5, z - 4.5 * 0.8))
    assert (second.first_slice, second.last_slice) == (1, 2)


def test_corners_hold_together(ct):
    probability = np.zeros(SHAPE_IRC, dtype=np.float16)
    probability[1:3, 3:7, 4:10] = 1
    probability[3:5, 7:11, 10:16] = 1
    assert [finding.volume_mm3 for finding in find_nodules(ct, probability)[1]] == [pytest.approx(96 * VOXEL_MM3)]


def test_a_threshold_takes_apart_what_hangs_together_weakly(ct, probability):
    probability[3:5, 7:10, 10:12] = 0.25
    assert len(find_nodules(ct, probability, threshold=0.2)[1]) == 1
    assert len(find_nodules(ct, probability, threshold=0.5)[1]) == 2
    assert [finding.number for finding in find_nodules(ct, probability, threshold=0.8)[1]] == [1]


def test_small_pieces_are_left_out(ct, probability):
    diameter_mm = (6 / math.pi * 44 * VOXEL_MM3) ** (1 / 3)  # between 40 and 48 voxels
    assert sphere_volume(diameter_mm) == pytest.approx(44 * VOXEL_MM3)
    labels, (only,) = find_nodules(ct, probability, min_diameter_mm=diameter_mm)
    assert only.volume_mm3 == pytest.approx(48 * VOXEL_MM3)
    np.testing.assert_array_equal(labels, probability == 0.75)


def test_probability_is_of_the_most_probable_voxels(ct, probability):
    """The smallest nodule, a sphere of 3 mm, is 14.1 mm3: 18 voxels of 0.8."""
    probability[5, 10, 12:20] = 0.5 + 1 / 16
    probability[5, 11:13, 12:20] = 1
    first = find_nodules(ct, probability)[1][0]
    assert first.probability == pytest.approx((16 * 1 + 2 * 0.875) / 18)


def test_nothing_found(ct):
    labels, findings = find_nodules(ct, np.full(SHAPE_IRC, 0.5, dtype=np.float16))
    assert findings == []
    assert labels.shape == SHAPE_IRC
    assert not labels.any()
