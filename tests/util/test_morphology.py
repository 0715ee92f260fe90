import numpy as np
import pytest

from p2ch13.util.morphology import distance_to, grow_by_cross, open_by_ball, open_by_cross

VX_SIZE_IRC = (2.0, 0.7, 0.5)


def block(shape, *bounds):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(start, stop) for start, stop in bounds)] = True
    return mask


def test_open_by_cross():
    plate = block((3, 7, 7), (1, 2), (1, 6), (2, 5))
    opened = open_by_cross(plate, (0, 1, 1))
    assert opened.sum() == 5 * 3 - 4  # its corners
    assert not (opened & ~plate).any()
    assert not open_by_cross(plate, (1, 1, 1)).any()


def test_grow_by_cross():
    grown = grow_by_cross(block((3, 5, 5), (1, 2), (2, 3), (2, 3)), (0, 1, 1))
    assert sorted(map(tuple, np.argwhere(grown).tolist())) == [(1, 1, 2), (1, 2, 1), (1, 2, 2), (1, 2, 3), (1, 3, 2)]


def test_distance_to():
    """Against all pairs of voxels."""
    mask = np.random.default_rng(0).random((5, 9, 11)) < 0.05
    places = np.argwhere(np.ones_like(mask)) * VX_SIZE_IRC
    away = np.linalg.norm(places[:, None] - np.argwhere(mask) * VX_SIZE_IRC, axis=-1).min(axis=1)
    np.testing.assert_allclose(distance_to(mask, VX_SIZE_IRC).ravel(), away, atol=1e-5)


@pytest.mark.parametrize(("radius_mm", "is_left"), [(1.3, True), (1.5, False)])
def test_open_by_ball(radius_mm, is_left):
    """A plate of 7 rows: its middle one is 4 * 0.7 = 2.8 mm from the others' outside. Balls of 1.3 mm fill it."""
    plate = block((5, 20, 20), (0, 5), (8, 12), (0, 20))
    strand = block((5, 20, 20), (2, 3), (12, 20), (10, 12))
    np.testing.assert_array_equal(
        open_by_ball(plate | strand, radius_mm, VX_SIZE_IRC), plate if is_left else np.zeros_like(plate)
    )


def test_open_by_ball_where_all_or_nothing_is_mask():
    mask = np.ones((2, 3, 4), dtype=bool)
    assert open_by_ball(mask, 100.0, VX_SIZE_IRC).all()
    assert not open_by_ball(~mask, 0.1, VX_SIZE_IRC).any()
