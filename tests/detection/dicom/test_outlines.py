"""Outlines of masks, filled by matplotlib: the centers of the mask's pixels lie in them, and no others."""

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image as PillowImage
from PIL import ImageDraw
from scipy import ndimage

from p2ch13.detection.dicom.outlines import find_outlines
from tests.support.scan_files import Ball, ball_mask

RING = [[1, 1, 1], [1, 0, 1], [1, 1, 1]]


def fill(outlines, shape):
    centers = np.argwhere(np.ones(shape))
    inside = [Polygon(outline).contains_points(centers).reshape(shape) for outline in outlines]
    return np.any(inside, axis=0) if outlines else np.zeros(shape, dtype=bool)


OUTLINES_BY_HAND = {  # just short of halfway to the next pixel
    "pixel": ([[1]], [[(-0.49, 0), (0, -0.49), (0.49, 0), (0, 0.49)]]),
    "row": ([[1, 1, 1]], [[(-0.49, 0), (0, -0.49), (0.49, 0), (0.49, 2), (0, 2.49), (-0.49, 2)]]),
    "corner": ([[1, 0], [1, 1]], [[(-0.49, 0), (0, -0.49), (1, -0.49), (1.49, 0), (1.49, 1), (1, 1.49)]]),
    "nothing": ([[0, 0]], []),
}


@pytest.mark.parametrize("case", OUTLINES_BY_HAND)
def test_points(case):
    mask, expected = OUTLINES_BY_HAND[case]
    found = find_outlines(np.array(mask, dtype=bool))
    assert [set(map(tuple, outline.round(6).tolist())) for outline in found] == [set(outline) for outline in expected]
    assert [len(outline) for outline in found] == [len(outline) for outline in expected]


def masks():
    random = np.random.default_rng(3)
    noise = random.random((6, 40, 41))
    smooth = ndimage.gaussian_filter(noise[0], 2)
    return {
        "ring": np.array(RING),
        "ring in a ring": np.pad(RING, 2) + np.pad(np.zeros((5, 5)), 1, constant_values=1),
        "two holes": np.array([[1] * 7, [1, 0, 1, 1, 1, 0, 1], [1] * 7]),
        "hole at a corner of the outside": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]]),
        "pieces that touch by a corner": np.eye(5),
        "ball": ball_mask(Ball((4, 9, 9), 8), (9, 20, 20))[4],
        "blobs": smooth > np.median(smooth),
        **{f"noise {share}": noise[ndx] < share for ndx, share in enumerate((0.05, 0.3, 0.5, 0.7, 0.95), 1)},
        "all": np.ones((7, 9)),
    }


@pytest.mark.parametrize("case", masks())
def test_filled(case):
    mask = masks()[case].astype(bool)
    np.testing.assert_array_equal(fill(find_outlines(mask), mask.shape), mask)


def test_components_are_polygons_of_their_own():
    """Those that share an edge; a hole belongs to the one around it."""
    mask = masks()["two holes"].astype(bool)
    assert len(find_outlines(mask)) == 1
    assert len(find_outlines(np.pad(np.hstack([mask, np.zeros((3, 2), bool), mask]), 3))) == 2


@pytest.mark.parametrize("case", ["ball", "pieces that touch by a corner", "hole at a corner of the outside", "all"])
def test_points_rounded_to_pixels(case):
    """As programs do that draw with whole pixels: Pillow here, which marks those on the line as well."""
    mask = masks()[case].astype(bool)
    image = PillowImage.new("1", mask.shape[::-1])
    for outline in find_outlines(mask):
        points = np.rint(outline[:, ::-1]).astype(int).ravel().tolist()
        ImageDraw.Draw(image).polygon(points, fill=1, outline=1)
    np.testing.assert_array_equal(np.array(image), mask)


@pytest.mark.parametrize("radius", [3, 6, 12])
def test_the_area_is_half_a_pixel_less(radius):
    """Each corner takes an eighth of a pixel from the area or gives it, and there are four more of the first kind."""
    mask = ball_mask(Ball((0, 15, 15), radius), (1, 31, 31))[0]
    (outline,) = find_outlines(mask)
    row, col = outline.T
    area = abs(np.sum(row * np.roll(col, -1) - col * np.roll(row, -1))) / 2
    assert mask.sum() - 0.5 - 0.01 * len(mask) * 2.5 < area < mask.sum() - 0.5
