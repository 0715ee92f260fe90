import math

import numpy as np
import pytest

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import find_marked, find_nodules
from p2ch13.labels.regions import sphere_volume
from p2ch13.util.coordinates import AxialOrder
from tests.support.scan_files import ORIGIN_XYZ, make_hu, write_scan

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
def logits():
    """Two components: 2 x 4 x 6 voxels, and 1 x 5 x 8 with a corner of the first."""
    logits = np.full(SHAPE_IRC, -9, dtype=np.float32)
    logits[1:3, 3:7, 4:10] = 1.0
    logits[5, 10:15, 12:20] = 2.0
    return logits


def test_positions_and_sizes_by_hand(ct, logits):
    labels, (first, second) = find_nodules(ct, logits)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, np.select([logits == 2, logits == 1], [1, 2]))
    assert (first.series_uid, first.number, second.number) == ("1.2.3", 1, 2)
    assert (first.logit, second.logit) == (2.0, 1.0)
    assert (first.score, second.score) == (2.0, 1.0)
    assert (first.probability, second.probability) == pytest.approx((1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))))
    assert first.volume_mm3 == pytest.approx(40 * VOXEL_MM3)
    assert second.volume_mm3 == pytest.approx(48 * VOXEL_MM3)
    assert second.diameter_mm == pytest.approx((6 / math.pi * 48 * VOXEL_MM3) ** (1 / 3))
    assert (second.first_slice, second.last_slice) == (1, 2)
    assert (first.first_slice, first.last_slice) == (5, 5)
    # The mean of the voxels: index 1.5, row 4.5, col 6.5.
    x, y, z = ORIGIN_XYZ
    assert second.center_xyz == pytest.approx((x + 6.5 * 0.5, y + 4.5 * 0.8, z + 1.5 * 2))


def test_positions_in_a_turned_scan(tmp_path, logits):
    """Cols run along -y, rows along -z, slices along x."""
    axial = AxialOrder.of(np.reshape(TURNED, (3, 3))).to_axial(logits)
    second = find_nodules(open_scan(tmp_path, TURNED), axial)[1][1]
    x, y, z = ORIGIN_XYZ
    assert second.center_xyz == pytest.approx((x + 1.5 * 2, y - 6.5 * 0.5, z - 4.5 * 0.8))
    assert (second.first_slice, second.last_slice) == (20 - 1 - 6, 20 - 1 - 3)  # from the feet


def test_components_are_connected_by_corners(ct):
    logits = np.full(SHAPE_IRC, -9, dtype=np.float32)
    logits[1:3, 3:7, 4:10] = 1
    logits[3:5, 7:11, 10:16] = 1
    assert [finding.volume_mm3 for finding in find_nodules(ct, logits)[1]] == [pytest.approx(96 * VOXEL_MM3)]


def test_a_threshold_separates_components(ct, logits):
    logits[3:5, 7:10, 10:12] = -1.0  # a probability of 0.27
    assert len(find_nodules(ct, logits, threshold=0.2)[1]) == 1
    assert len(find_nodules(ct, logits, threshold=0.5)[1]) == 2
    assert [finding.number for finding in find_nodules(ct, logits, threshold=0.8)[1]] == [1]


def test_small_components_are_dropped(ct, logits):
    diameter_mm = (6 / math.pi * 44 * VOXEL_MM3) ** (1 / 3)  # between 40 and 48 voxels
    assert sphere_volume(diameter_mm) == pytest.approx(44 * VOXEL_MM3)
    labels, (only,) = find_nodules(ct, logits, min_diameter_mm=diameter_mm)
    assert only.volume_mm3 == pytest.approx(48 * VOXEL_MM3)
    np.testing.assert_array_equal(labels, logits == 1)


def test_the_logit_is_of_the_most_probable_voxels(ct, logits):
    """The smallest nodule, a sphere of 3 mm, has 14.1 mm3: 18 voxels of 0.8."""
    logits[5, 10, 12:20] = 0.5
    logits[5, 11:13, 12:20] = 3
    first = find_nodules(ct, logits)[1][0]
    assert first.logit == pytest.approx((16 * 3 + 2 * 2) / 18, abs=1e-6)


def test_nearly_certain_findings_keep_their_rank(ct, logits):
    """Probabilities of 0.99988 and 0.999994 are equal in float16, whose largest value below 1 is 0.99976."""
    logits[logits == 1] = 12.0
    logits[logits == 2] = 9.0
    first, second = find_nodules(ct, logits)[1]
    assert (first.logit, second.logit) == (12.0, 9.0)
    assert second.probability == pytest.approx(0.9998766, abs=1e-7)
    assert first.probability == pytest.approx(0.9999939, abs=1e-7)
    assert [finding.logit for finding in find_nodules(ct, logits, threshold=0.9999)[1]] == [12.0]  # from 9.21034 on
    assert len(find_nodules(ct, logits, threshold=0.9998)[1]) == 2
    logits[logits == 9] = 9.2104
    assert len(find_nodules(ct, logits, threshold=0.9999)[1]) == 2


def test_voxels_just_above_the_threshold_count(ct, logits):
    """float16 rounds a probability of 0.5001 to 0.5."""
    logits[logits == 1] = 0.0004
    assert len(find_nodules(ct, logits)[1]) == 2


def test_findings_of_a_mask_are_all_certain(ct, logits):
    labels, (first, second) = find_marked(ct, logits > 0)
    np.testing.assert_array_equal(labels, np.select([logits == 1, logits == 2], [1, 2]))  # the larger one first
    assert (first.probability, first.score, second.score) == (1.0, 1.0, 1.0)
    assert math.isnan(first.logit)


def test_nothing_found(ct):
    labels, findings = find_nodules(ct, np.zeros(SHAPE_IRC, dtype=np.float32))
    assert findings == []
    assert labels.shape == SHAPE_IRC
    assert not labels.any()
