import math

import numpy as np
import pytest

from p2ch13.data.ct import Ct
from p2ch13.detection.candidates import find_candidates, split_chain
from p2ch13.util.boxes import BoxMask, make_box
from tests.support.scan_files import make_hu, write_scan

SHAPE_IRC = (8, 30, 60)
VX_SIZE_XYZ = (1.0, 1.0, 2.0)


@pytest.fixture
def ct(tmp_path):
    return Ct(write_scan(tmp_path / "1.2.3.mha", make_hu([], SHAPE_IRC), vx_size_xyz=VX_SIZE_XYZ))


@pytest.fixture
def logits():
    """Two boxes of 3 x 4 x 4 and 3 x 4 x 6 voxels above 0.5."""
    logits = np.full(SHAPE_IRC, -9, dtype=np.float32)
    logits[2:5, 10:14, 10:14] = 1.0
    logits[2:5, 10:14, 30:36] = 2.0
    return logits


def test_fragments_near_each_other_are_one_candidate(ct, logits):
    """4 mm of fainter voxels, none farther than 2.5 mm from a fragment."""
    logits[2:5, 10:14, 18:30] = 2.0
    logits[3, 12, 14:18] = -1.0
    (only,) = find_candidates(ct, logits, 0.1, 3.0)
    assert np.count_nonzero(only.part.mask) == 48 + 3 * 4 * 18  # without the bridge
    assert only.part.box == make_box((2, 10, 10), (5, 14, 36))
    assert only.center_irc == pytest.approx((3, 11.5, 26.5))  # of the larger one: columns 18 to 35
    assert only.first_stage_logit == 2.0


def test_a_long_chain_is_no_lesion(ct, logits):
    """16 mm of fainter voxels between the boxes, and a tail of 24 mm."""
    logits[3, 12, 14:30] = -1.0
    logits[3, 12, 36:60] = -1.0
    small, large = sorted(find_candidates(ct, logits, 0.1, 3.0), key=lambda each: each.center_irc[2])
    assert [np.count_nonzero(each.part.mask) for each in (small, large)] == [48, 72]
    assert small.center_irc == pytest.approx((3, 11.5, 11.5))
    assert large.center_irc == pytest.approx((3, 11.5, 32.5))
    assert small.diameter_mm == pytest.approx((6 / math.pi * 48 * 2) ** (1 / 3))


def test_a_faint_peak_in_a_chain_is_a_candidate(ct, logits):
    """A box of 27 voxels at a logit of -0.5 hangs on the larger one by a line at -1."""
    logits[3, 12, 36:50] = -1.0
    logits[2:5, 11:14, 50:53] = -0.5
    *_, faint = sorted(find_candidates(ct, logits, 0.1, 3.0), key=lambda each: each.center_irc[2])
    assert faint.first_stage_logit == pytest.approx(-0.5, abs=0.02)
    assert faint.center_irc[2] > 45
    assert faint.part.mask[-1, -1, -1]  # the box's farthest voxel


def test_faint_candidates_have_all_their_voxels(ct):
    logits = np.full(SHAPE_IRC, -9, dtype=np.float32)
    logits[2:5, 10:14, 10:50] = -1.0  # a probability of 0.27
    (only,) = find_candidates(ct, logits, 0.1, 3.0)
    assert np.count_nonzero(only.part.mask) == 480
    assert find_candidates(ct, logits, 0.3, 3.0) == []
    logits[3, 12, 12] = 4.0  # one voxel, smaller than the smallest nodule: those within 2.5 mm count
    (only,) = find_candidates(ct, logits, 0.1, 3.0)
    offsets = np.stack(np.meshgrid([-1, 0, 1], [-2, -1, 0, 1], range(-2, 3), indexing="ij"), axis=-1)
    distances_mm = np.linalg.norm(offsets * (2.0, 1.0, 1.0), axis=-1)
    assert np.count_nonzero(only.part.mask) == np.count_nonzero(distances_mm <= 2.5)


def test_slices_of_5_mm_are_near(ct):
    """A fragment in every second slice: the voxel between them is within a voxel of both."""
    logits = np.full((5, 3, 3), -1.0, dtype=np.float32)
    logits[::2] = 1.0
    whole = BoxMask(make_box((0, 0, 0), (5, 3, 3)), np.ones((5, 3, 3), dtype=bool))
    assert len(split_chain(whole, logits, np.array([5.0, 0.7, 0.7]))) == 1
    logits[2] = -1.0
    assert len(split_chain(whole, logits, np.array([5.0, 0.7, 0.7]))) == 2
