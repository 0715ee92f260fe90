"""Blur and noise of slices that were blurred and made noisy by known amounts."""

import numpy as np
import pytest
from scipy import ndimage

from p2ch13.volumes.point_spread import (
    USUAL_NOISE_HU,
    USUAL_POINT_SPREAD_MM,
    estimate_noise,
    estimate_point_spread,
    spread,
)

FINER = 5  # places looked at along each side of a pixel
SLICES, PIXELS = 10, 200


def make_scan(pixel_mm, point_spread_mm, noise_hu):
    """Two discs of lung in tissue: HU and lungs, (index, row, col)."""
    row, col = np.mgrid[: PIXELS * FINER, : PIXELS * FINER] / FINER
    is_lung = np.logical_or.reduce([(row - 100) ** 2 + (col - middle) ** 2 < 32**2 for middle in (60, 140)])
    share = ndimage.gaussian_filter(is_lung.astype(np.float32), point_spread_mm / pixel_mm * FINER)
    share = share.reshape(PIXELS, FINER, PIXELS, FINER).mean(axis=(1, 3))
    noise = noise_hu * np.random.default_rng(0).standard_normal((SLICES, PIXELS, PIXELS))
    return (40 - 900 * share + noise).round().astype(np.int16), np.repeat((share > 0.5)[None], SLICES, axis=0)


@pytest.mark.parametrize("pixel_mm", [0.6, 0.8])
@pytest.mark.parametrize("point_spread_mm", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("noise_hu", [0, 20, 40])
def test_blur_and_noise_are_found(pixel_mm, point_spread_mm, noise_hu):
    hu, lungs = make_scan(pixel_mm, point_spread_mm, noise_hu)
    assert estimate_point_spread(hu, lungs, pixel_mm) == pytest.approx(point_spread_mm, rel=0.15)
    assert estimate_noise(hu) == pytest.approx(noise_hu, rel=0.05)


def test_a_blur_much_smaller_than_a_pixel_is_still_one():
    hu, lungs = make_scan(0.8, 0.05, 0)
    assert 0.15 < estimate_point_spread(hu, lungs, 0.8) < 0.4


def test_scans_without_edges_have_the_usual_blur():
    hu, lungs = np.full((8, 64, 64), -860, dtype=np.int16), np.zeros((8, 64, 64), dtype=bool)
    assert estimate_point_spread(hu, lungs, 0.7) == USUAL_POINT_SPREAD_MM
    lungs[:, 20:40, 20:40] = True
    assert estimate_point_spread(hu, lungs, 0.7) == USUAL_POINT_SPREAD_MM
    assert estimate_point_spread(hu[:1], lungs[:1], 0.7) == USUAL_POINT_SPREAD_MM  # a single slice


def test_edges_that_lean_are_left_out():
    """The discs shift by 6 pixels from slice to slice: no edge is upright."""
    hu, lungs = make_scan(0.7, 0.6, 0)
    leaning = [np.stack([np.roll(each, 6 * ndx, axis=1) for ndx, each in enumerate(scan)]) for scan in (hu, lungs)]
    upright_only = estimate_point_spread(*leaning, 0.7)
    assert upright_only == USUAL_POINT_SPREAD_MM or upright_only == pytest.approx(0.6, rel=0.3)


def test_scans_without_tissue_have_the_usual_noise():
    assert estimate_noise(np.full((3, 32, 32), -860, dtype=np.int16)) == USUAL_NOISE_HU


@pytest.mark.parametrize(
    ("arguments", "expected"), [((0, 5, 20), [0, 1, 2, 3, 4]), ((1, 9, 4), [1, 3, 5, 7]), ((1, 1, 4), [])]
)
def test_spread(arguments, expected):
    assert list(spread(*arguments)) == expected
