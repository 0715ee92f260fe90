import numpy as np
import pytest

from p2ch13.detection.cubes import cut_cubes

VX_SIZE_IRC = (2.5, 0.8, 0.7)
OFFSETS_MM = np.stack(np.meshgrid(*[np.arange(32) - 15.5] * 3, indexing="ij"), axis=-1)  # at 1 mm


def as_hu(channel):
    """Undo the scaling: -1000..400 HU -> -1..1."""
    return (channel + 1) * 700 - 1000


def nowhere_searched(hu):
    return np.full(hu.shape, -np.inf, dtype=np.float32)


def test_a_ramp_of_hu_is_that_ramp_in_mm():
    """Per voxel 5 HU to the head, -3 to the back, 2 to the left; per mm 2, -3.75 and 20/7."""
    index, row, col = np.ogrid[:34, :110, :120]
    hu = (5 * index - 3 * row + 2 * col - 200).astype(np.int16)
    center = np.array([16.3, 52.75, 60.1])
    (cube,) = cut_cubes(hu, nowhere_searched(hu), VX_SIZE_IRC, [center])
    at_center = center @ (5, -3, 2) - 200
    for scale, spacing_mm in enumerate((1, 2)):
        expected = at_center + spacing_mm * OFFSETS_MM @ (5 / 2.5, -3 / 0.8, 2 / 0.7)
        np.testing.assert_allclose(as_hu(cube[scale, 0]), expected, atol=1e-3)


def test_small_pixels_are_averaged():
    """Stripes of 0.5 mm, at 0 and -600 HU, look gray to voxels of 2 mm; sampled at points, all would be 0 HU."""
    hu = np.zeros((70, 8, 200), dtype=np.int16)
    hu[:, :, 1::2] = -600
    (cube,) = cut_cubes(hu, nowhere_searched(hu), (1.0, 1.0, 0.5), [(35, 4, 98)])
    np.testing.assert_allclose(as_hu(cube[1, 0]), -300, atol=1e-3)


def test_beyond_the_scan_hu_repeats_and_logits_are_the_lowest():
    """Four slices of 1 mm, in samples 14 to 17; a sample's mean is three quarters itself, an eighth of either side."""
    hu = np.full((4, 40, 40), -300, dtype=np.int16)
    hu[0] = 100
    (cube,) = cut_cubes(hu, np.full(hu.shape, 10, dtype=np.float32), (1.0, 1.0, 1.0), [(1.5, 19.5, 19.5)])
    along = as_hu(cube[0, 0, :, 16, 16])
    np.testing.assert_allclose(along[:14], 100, atol=1e-3)
    np.testing.assert_allclose(along[14:16], [100 * 7 / 8 - 300 / 8, 100 / 8 - 300 * 7 / 8], atol=1e-3)
    np.testing.assert_allclose(along[16:], -300, atol=1e-3)
    logits = cube[0, 1, :, 16, 16]
    np.testing.assert_allclose(logits[12:20], [-1, 2 / 8 - 1, 14 / 8 - 1, 1, 1, 14 / 8 - 1, 2 / 8 - 1, -1], atol=1e-6)
    np.testing.assert_array_equal(logits[:12], -1)


def test_a_point_far_outside_sees_the_edge():
    hu = np.full((4, 5, 6), -700, dtype=np.int16)
    (cube,) = cut_cubes(hu, nowhere_searched(hu), (1.0, 1.0, 1.0), [(500, -500, 3)])
    np.testing.assert_allclose(as_hu(cube[:, 0]), -700, atol=1e-3)
    np.testing.assert_array_equal(cube[:, 1], -1)


def test_values_beyond_the_scale_are_clipped():
    hu = np.full((80, 80, 80), 3000, dtype=np.int16)
    hu[:, :, :40] = -2000
    logits = np.where(hu > 0, 40.0, -np.inf)
    for kind in (np.float16, np.float32):
        (cube,) = cut_cubes(hu, logits.astype(kind), (1.0, 1.0, 1.0), [(40, 40, 39.5)])
        np.testing.assert_allclose(cube[..., :15], -1, atol=1e-6)
        np.testing.assert_allclose(cube[..., 17:], 1, atol=1e-6)


def test_each_point_has_its_cubes():
    """A voxel of 1 mm that differs; seen from 3 voxels above, 2 in front of and 5 right of it."""
    hu = np.full((70, 72, 74), -1000, dtype=np.int16)
    hu[30, 33, 40] = 400
    points = [(30, 33, 40), (33, 31, 35)]
    cubes = cut_cubes(hu, nowhere_searched(hu), (1.0, 1.0, 1.0), np.array(points) + 0.5)
    assert cubes.shape == (2, 2, 2, 32, 32, 32)
    assert cubes.dtype == np.float32
    for cube, point in zip(cubes, points, strict=True):
        brightest = np.unravel_index(cube[0, 0].argmax(), (32, 32, 32))
        assert brightest == tuple(15 + np.subtract((30, 33, 40), point))
        assert as_hu(cube[0, 0].max()) == pytest.approx(-1000 + 1400 * 0.75**3, abs=1e-2)
    assert cut_cubes(hu, nowhere_searched(hu), (1.0, 1.0, 1.0), np.zeros((0, 3))).shape == (0, 2, 2, 32, 32, 32)
