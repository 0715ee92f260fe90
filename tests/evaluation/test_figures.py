"""Figures of an evaluation, by the colors of their pixels."""

import io

import numpy as np
import pytest
from PIL import Image as PillowImage

from p2ch13.evaluation.figures import ON_DARK, ON_LIGHT, WHITE, draw_froc, draw_reliability
from p2ch13.evaluation.froc import compute_froc, match_findings

HIT, MISS = (
    match_findings([(x, 0, 0), (50, 0, 0)], [0.9, 0.5], [(0, 0, 0)], [6]) for x in (0, 20)
)  # each with a less probable false positive
BAND = (210, 227, 240)  # a fifth of matplotlib's blue, (31, 119, 180), on white
CURVE = [{"mean_probability": 0.05, "nodule_share": 0.0, "finding_count": 9}]
CALIBRATION = {"before": {"curve": CURVE, "ece": 0.05}, "after": {"curve": [], "ece": float("nan")}}


def read_pixels(png):
    """(row, col, 4), red, green, blue and opacity."""
    return np.asarray(PillowImage.open(io.BytesIO(png)).convert("RGBA"))


@pytest.mark.parametrize(("scans", "has_band"), [([HIT], False), ([HIT, MISS, HIT, MISS], True)])
def test_the_band_of_several_scans(scans, has_band):
    pixels = read_pixels(draw_froc(compute_froc(scans, bootstrap_count=50)))
    is_band = (pixels[..., :3] == BAND).all(axis=-1)
    assert (is_band.sum() > 1000) == has_band


@pytest.mark.parametrize(("style", "corner"), [(WHITE, (255, 255, 255, 255)), (ON_LIGHT, None), (ON_DARK, None)])
def test_figures_of_pages_have_the_background_of_the_page(style, corner):
    for png in (draw_froc(compute_froc([HIT, MISS], bootstrap_count=10), style), draw_reliability(CALIBRATION, style)):
        pixels = read_pixels(png)
        assert tuple(pixels[0, 0].tolist()) == corner if corner else pixels[0, 0, 3] == 0
        letters = pixels[pixels[..., 3] == 255].reshape(-1, 4)
        assert (letters[:, :3] == (255 if style is ON_DARK else 0)).all(axis=1).any()
