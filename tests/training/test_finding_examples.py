import math

import numpy as np
import pytest
import torch

from p2ch13.data.ct import Ct
from p2ch13.detection.cubes import cut_cubes
from p2ch13.training.finding_examples import Examples, FindingExamples, collect_examples
from tests.support.scan_files import Ball, as_nodule, ball_mask, make_hu, write_scan

SHAPE = (16, 60, 64)
NODULE, FAR, BESIDE, LESION = Ball((8, 20, 20), 4), Ball((8, 45, 45), 4), Ball((8, 20, 30), 4), Ball((8, 45, 15), 4)


@pytest.fixture
def ct(tmp_path):
    return Ct(write_scan(tmp_path / "1.2.3.mha", make_hu([NODULE, FAR], SHAPE)))


def find(ct, balls, nodules=(NODULE,), ignored=(), mask=None, views=1):
    logits = np.full(SHAPE, -5, np.float32)
    for level, ball in enumerate(balls, 1):
        logits[ball_mask(ball, SHAPE)] = level
    marked = np.any([ball_mask(ball, SHAPE) for ball in nodules], axis=0) if mask is None else mask
    lists = [[as_nodule("1.2.3", ball) for ball in some] for some in (nodules, ignored)]
    rng = np.random.default_rng(0)
    return *collect_examples(ct, logits, lists[0], marked, lists[1], 0.1, views, rng), logits


def test_candidates_of_nodules_and_others(ct):
    examples, *_ = find(ct, [NODULE, FAR])
    assert examples.is_nodule.tolist() == [True, False]
    assert (examples.hits, examples.missed_count) == ([[0]], 0)
    voxels = np.count_nonzero(ball_mask(NODULE, SHAPE))
    diameter_mm = (6 / math.pi * voxels * 0.7 * 0.7 * 1.5) ** (1 / 3)
    np.testing.assert_allclose(examples.features, [[1, math.log(diameter_mm)], [2, math.log(diameter_mm)]])


def test_a_missed_nodule(ct):
    examples, *_ = find(ct, [FAR])
    assert examples.is_nodule.tolist() == [False]
    assert (examples.hits, examples.missed_count) == ([], 1)


def test_candidate_beside_a_nodule_is_left_out(ct):
    """It reaches into the nodule's mask with less than its third, and its center is not in the nodule."""
    mask = ball_mask(NODULE, SHAPE)
    mask[8, 20, 26:28] = True  # two voxels of the candidate
    examples, *_ = find(ct, [BESIDE, FAR], mask=mask)
    assert examples.is_nodule.tolist() == [False]
    assert examples.missed_count == 1
    mask |= ball_mask(BESIDE, SHAPE)  # all of it
    assert find(ct, [BESIDE, FAR], mask=mask)[0].is_nodule.tolist() == [True, False]


def test_known_lesion_is_left_out(ct):
    examples, *_ = find(ct, [NODULE, LESION, FAR], ignored=[LESION])
    assert examples.is_nodule.tolist() == [True, False]
    assert examples.features[:, 0].tolist() == [1, 3]


def test_views(ct):
    """The first is centered, the others lie a millimeter or so off."""
    _, cubes, logits = find(ct, [NODULE], views=3)
    assert cubes.shape == (1, 3, 2, 2, 32, 32, 32)
    centered = cut_cubes(ct.hu, logits, ct.vx_size_xyz[::-1], [NODULE.center_irc])
    np.testing.assert_array_equal(cubes[0, 0], centered[0].astype(np.float16))
    assert not np.array_equal(cubes[0, 1], cubes[0, 0])
    assert not np.array_equal(cubes[0, 1], cubes[0, 2])


def test_no_candidate(ct):
    examples, cubes, _ = find(ct, [])
    assert len(examples) == 0
    assert cubes.shape == (0, 1, 2, 2, 32, 32, 32)
    assert (examples.features.shape, examples.missed_count) == ((0, 2), 1)


def test_examples_of_all_scans(tmp_path):
    """Scans without a candidate count as scans, and each example keeps its cubes, more often than memory is kept."""
    sizes, groups = (2, 0, 70), (4, 5, 4)
    examples = Examples(tmp_path)
    values = iter(range(72))
    for size, group in zip(sizes, groups, strict=True):
        own = np.array([next(values) for _ in range(size)], dtype=float)
        cubes = np.zeros((size, 2, 2, 2, 32, 32, 32), np.float16)
        cubes[:, 0] += own.reshape(-1, 1, 1, 1, 1, 1)
        scan = FindingExamples(own[:, None].repeat(2, axis=1), own % 2 == 1, [], 0)
        examples.add(scan, cubes, group)
    assert list(tmp_path.iterdir()) == []
    assert len(examples) == 72
    assert examples.groups.tolist() == [4] * 72
    assert examples.spread(np.array([1, 2, 3])).tolist() == [1, 1, *[3] * 70]
    assert examples.features[:, 0].tolist() == list(range(72))
    assert examples.is_nodule.tolist() == [False, True] * 36
    assert examples.view_count == 2
    for ndxs in (np.arange(72), np.array([71, 0, 71])):
        cubes = examples.take(ndxs)
        assert cubes.dtype == torch.float32
        assert cubes[:, 1, 1, 31, 31, 31].tolist() == ndxs.tolist()
    assert not examples.take(np.array([3, 4]), np.array([1, 1])).any()
