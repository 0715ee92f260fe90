from itertools import combinations

import numpy as np
import pytest

from p2ch13.detection.colors import COMPARED, FALSE_POSITIVE, MARKED, MISSED, TRUE_POSITIVE, explain
from p2ch13.detection.pictures import COLOR_WEIGHT

COLORS = (MARKED, TRUE_POSITIVE, MISSED, FALSE_POSITIVE)
# How dichromats see linear RGB: Machado, Oliveira and Fernandes, 2009, severity 1.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
WHITE = [0.95047, 1, 1.08883]
GRAYS = (30, 100, 180, 235)  # lung to soft tissue in the lung window
CLEAR = 12.0  # CIE 1976 color difference; about 2 is just noticeable side by side


def as_lab(rgb, vision):
    """Convert sRGB, 0..255, as somebody sees it, to CIE L*a*b*."""
    share = np.asarray(rgb, dtype=float) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(np.clip(TO_XYZ @ np.clip(np.asarray(VISION[vision]) @ linear, 0, 1) / WHITE, 0.008856, 1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def seen_over(rgb, gray, vision):
    return as_lab(COLOR_WEIGHT * np.array(rgb) + (1 - COLOR_WEIGHT) * gray, vision)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("gray", GRAYS)
def test_colors_are_told_apart_over_any_gray(vision, gray):
    seen = [seen_over(color.rgb, gray, vision) for color in COLORS]
    without = as_lab((gray, gray, gray), vision)
    differences = [np.linalg.norm(one - other) for one, other in combinations([*seen, without], 2)]
    assert min(differences) > CLEAR


def test_explanation_and_css():
    assert explain(*COMPARED) == "green: true positive, pink: missed, blue: false positive"
    assert MARKED.css == "#ffc800"
