import math

import numpy as np
import pytest
from scipy import ndimage

from p2ch13.evaluation.shapes import find_surface_distance, score_shape

VX_SIZE_IRC = np.array([1.0, 0.5, 0.5])


def mark_sphere(radius_mm, center_mm=(0, 0, 0), shape=(41, 81, 81)):
    index, row, col = (
        (np.arange(size) - size // 2) * vx_mm - at
        for size, vx_mm, at in zip(shape, VX_SIZE_IRC, center_mm, strict=True)
    )
    return index[:, None, None] ** 2 + row[:, None] ** 2 + col**2 <= radius_mm**2


@pytest.mark.parametrize(("one_mm", "other_mm"), [(6, 6), (6, 8), (8, 6), (10, 5), (15, 14)])
def test_concentric_spheres_are_as_far_apart_as_their_radii(one_mm, other_mm):
    distance = find_surface_distance(mark_sphere(one_mm), mark_sphere(other_mm), VX_SIZE_IRC)
    assert distance == pytest.approx(abs(one_mm - other_mm), abs=0.25)


def test_shifted_spheres():
    """A shift d of a sphere moves its surface by d |cos| of the angle to it, on average by d / 2."""
    distance = find_surface_distance(mark_sphere(12), mark_sphere(12, (0, 2, 0)), VX_SIZE_IRC)
    assert distance == pytest.approx(1, abs=0.2)


def test_surface_distance_of_voxels_by_hand():
    one, other = (np.zeros((1, 1, 9), dtype=bool) for _ in range(2))
    one[..., 0], other[..., 3:5] = True, True
    # From 0 to 3, from 3 to 0 and from 4 to 0, in cols of 0.5 mm.
    assert find_surface_distance(one, other, VX_SIZE_IRC) == pytest.approx((1.5 + 1.5 + 2) / 3)


def score(nodule, labels):
    return score_shape(nodule, labels, ndimage.find_objects(labels), VX_SIZE_IRC)


def test_volume_errors_count_overlapping_findings_whole():
    nodule, labels = np.zeros((3, 9, 9), dtype=bool), np.zeros((3, 9, 9), dtype=np.int32)
    nodule[1, 2:4, 2:6] = True  # 8 voxels
    labels[1, 3, 3:8], labels[1, 2, 5], labels[0, 0, 0] = 1, 3, 2  # of which 5 and 1 overlap, the third does not
    assert score(nodule, labels).volume_error == pytest.approx((6 - 8) / 8)
    assert score(nodule, nodule.astype(np.int32)) == (0, 0)
    assert all(math.isnan(value) for value in score(nodule, np.where(labels == 2, 2, 0)))
