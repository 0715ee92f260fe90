import numpy as np
import pytest

from p2ch13.labels.refined import distance_to, make_cross, open_by_ball, open_by_cross

VX_SIZE_IRC = np.array([2.0, 0.7, 0.5])


def block(shape, *bounds):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(start, stop) for start, stop in bounds)] = True
    return mask


def shifted(mask, radii, beyond):
    """The mask and its neighbors over faces, along the axes with a radius; `beyond` is outside of the array."""
    padded = np.pad(mask, 1, constant_values=beyond)
    inner = (slice(1, -1),) * 3
    return [mask, *(np.roll(padded, by, axis)[inner] for axis, radius in enumerate(radii) if radius for by in (-1, 1))]


@pytest.mark.parametrize("radii", [(1, 1, 1), (0, 1, 1), (1, 0, 1), (0, 0, 0)])
@pytest.mark.parametrize("shape", [(6, 7, 8), (1, 5, 9)])
def test_cross_by_shifted_masks(radii, shape):
    mask = np.random.default_rng(0).random(shape) < 0.8
    cross = make_cross(np.where(radii, 1.9, 2.0))
    eroded = np.all(shifted(mask, radii, True), axis=0)
    np.testing.assert_array_equal(open_by_cross(mask, cross), np.any(shifted(eroded, radii, False), axis=0))


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
