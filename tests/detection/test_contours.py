import math

import numpy as np
import pytest

from p2ch13.detection.contours import find_contours, find_longest, find_longest_across, find_moments


def mark_ellipse(long, short, degrees=0.0, center=(0.0, 0.0)):
    """Mark the pixels in an ellipse of these diameters in pixels."""
    reach = math.ceil(long / 2) + 2
    row, col = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    row, col = row - center[0], col - center[1]
    angle = math.radians(degrees)
    along, across = col * math.cos(angle) + row * math.sin(angle), row * math.cos(angle) - col * math.sin(angle)
    return (2 * along / long) ** 2 + (2 * across / short) ** 2 <= 1


def length(line):
    return float(np.linalg.norm(line[1] - line[0]))


# Closed lines (row, col): a rectangle of 3 x 4, and three squares in an L.
RECTANGLE = [np.array([(0, 0), (0, 4), (3, 4), (3, 0), (0, 0)], dtype=float)]
ANGLE = [np.array([(0, 0), (0, 2), (1, 2), (1, 1), (2, 1), (2, 0), (0, 0)], dtype=float)]


def test_diameters_of_contours_by_hand():
    longest = find_longest(RECTANGLE)
    assert length(longest) == 5
    # A perpendicular of the diagonal has slope 4/3; through a corner next to it, it leaves the rectangle after 3 rows
    # and 9/4 cols.
    assert length(find_longest_across(RECTANGLE, longest)) == pytest.approx(3.75)
    longest = find_longest(ANGLE)
    assert length(longest) == pytest.approx(math.sqrt(8))
    # From the corner (0, 0) to the inner corner.
    assert length(find_longest_across(ANGLE, longest)) == pytest.approx(math.sqrt(2))


def test_the_longest_line_across_is_perpendicular_and_on_the_contour():
    contours = find_contours(mark_ellipse(20, 13, 30))
    longest = find_longest(contours)
    across = find_longest_across(contours, longest)
    assert (longest[1] - longest[0]) @ (across[1] - across[0]) == pytest.approx(0, abs=1e-9)
    for end in (*longest, *across):
        edges = zip(contours[0][:-1], contours[0][1:], strict=True)
        assert min(length((start, end)) + length((end, stop)) - length((start, stop)) for start, stop in edges) < 1e-9


def test_moments_of_contours_by_hand():
    mean, covariance = find_moments(RECTANGLE)
    assert mean == pytest.approx([1.5, 2])
    np.testing.assert_allclose(covariance, [[9 / 12, 0], [0, 16 / 12]], atol=1e-12)
    # A square of 4 x 4 with a hole of 2 x 2 in it: means of 16 * 16/12 and -4 * 4/12, of 12.
    square = np.array([(0, 0), (0, 4), (4, 4), (4, 0), (0, 0)], dtype=float)
    hole = np.array([(1, 1), (3, 1), (3, 3), (1, 3), (1, 1)], dtype=float)
    mean, covariance = find_moments([square, hole])
    assert mean == pytest.approx([2, 2])
    np.testing.assert_allclose(covariance, np.eye(2) * (16 * 16 / 12 - 4 * 4 / 12) / 12, atol=1e-12)


@pytest.mark.parametrize("mask", [mark_ellipse(8, 5, 20), mark_ellipse(30, 18, 75, (0.3, 0.4)), np.eye(6, dtype=bool)])
def test_contours_keep_the_masks_moments(mask):
    mean, covariance = find_moments(find_contours(mask))
    pixels = np.argwhere(mask)
    assert mean == pytest.approx(pixels.mean(axis=0))
    variances, directions = np.linalg.eigh(np.cov(pixels.T, bias=True))
    expected = (directions * np.maximum(variances, 1 / 12)) @ directions.T  # a pixel is not a point
    np.testing.assert_allclose(covariance, expected, atol=1e-9)


def test_holes_are_filled():
    disk = mark_ellipse(20, 20)
    ring = disk & ~np.pad(mark_ellipse(4, 4), 8)
    assert np.count_nonzero(disk & ~ring) == 13
    np.testing.assert_array_equal(find_contours(ring), find_contours(disk))


ELLIPSES = [
    (7, 7, 0, (0.1, 0.3)), (9, 6, 30, (0.2, 0.1)), (9, 6, 60, (0.3, 0.2)), (12, 10, 15, (0, 0)),
    (15, 9, 80, (0.2, 0.4)),
    (20, 20, 0, (0.4, 0.1)), (24, 15, 45, (0, 0)), (40, 25, 10, (0.1, 0.1)), (40, 25, 70, (0.3, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("long", "short", "degrees", "center"), ELLIPSES)
def test_axes_of_ellipses_within_half_a_pixel(long, short, degrees, center):
    contours = find_contours(mark_ellipse(long, short, degrees, center))
    longest = find_longest(contours)
    assert length(longest) == pytest.approx(long, abs=0.5)
    assert length(find_longest_across(contours, longest)) == pytest.approx(short, abs=0.5)


def test_axes_of_random_ellipses_have_no_bias():
    """A few of the single diameters are off by more than half a pixel, their means by less."""
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(100):
        long = rng.uniform(6, 25)
        short = long * rng.uniform(0.6, 1)
        contours = find_contours(mark_ellipse(long, short, rng.uniform(0, 180), rng.uniform(-0.5, 0.5, 2)))
        longest = find_longest(contours)
        errors.append((length(longest) - long, length(find_longest_across(contours, longest)) - short))
    assert np.abs(np.mean(errors, axis=0)).max() < 0.1
    assert (np.abs(errors) < 0.5).mean() > 0.95
    assert np.abs(np.mean(errors, axis=1)).max() < 0.5


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 2), (2, 2), (3, 1), (3, 3)])
def test_a_few_pixels(rows, cols):
    """A block of pixels has no contour that is right; its diameters are those of its area within half a pixel."""
    contours = find_contours(np.ones((rows, cols), dtype=bool))
    longest = find_longest(contours)
    assert max(rows, cols) - 0.5 < length(longest) < math.hypot(rows, cols) + 0.5
    assert length(find_longest_across(contours, longest)) == pytest.approx(min(rows, cols), abs=0.75)
