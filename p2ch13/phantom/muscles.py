"""The muscles of the chest wall, with fat between them: sheets around the rib cage and thick bellies.

Coordinates are those of the standard chest. `turn` goes around the cage: 0 at the back, pi in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from p2ch13.phantom.anatomy import CAGE_Y
from p2ch13.phantom.fields import Coordinate, Floats, capsule_distance, ellipse_distance


@dataclass(frozen=True)
class Sheet:
    """A muscle around the rib cage, shaped like a curved lens."""

    turn: float  # of its middle
    half_turn: float  # from there to its edges
    inner_mm: float  # distance of its inner face from the pleura
    thickness_mm: float  # in the middle
    z: float  # of its middle
    half_height_mm: float


SHEETS = (
    Sheet(1.35, 0.75, 8.5, 7, -30, 105),  # serratus anterior
    Sheet(0.90, 0.62, 17, 11, -70, 120),  # latissimus dorsi
    Sheet(0.40, 0.42, 16, 8, 45, 110),  # trapezius and rhomboids
    Sheet(2.30, 0.42, 9, 8, 40, 50),  # pectoralis minor
    Sheet(2.42, 0.62, 19, 12, 30, 75),  # pectoralis major
    Sheet(1.95, 0.85, 9, 8, -150, 85),  # external oblique
    Sheet(2.85, 0.26, 9, 9, -170, 95),  # rectus abdominis
)
SHOULDER_Z = -35.0  # lower end of the shoulder blades
SHOULDER_BELLIES = (  # chains of (x, y, radius) along and behind the blade, and in the arm's root
    ((98, 94, 4), (122, 72, 9), (148, 44, 9)),  # subscapularis
    ((96, 108, 4), (134, 92, 10), (160, 58, 8)),  # infraspinatus, teres
)
UPPER_BELLIES = (((150, 20, 13), (185, 24, 17)), ((120, -30, 6), (165, -12, 11)))  # deltoid; pectorals' insertion
UPPER_Z = 30.0


def muscle_distance(cage: Floats, x: Coordinate, y: Coordinate, z: float) -> Floats:
    """Compute the distance to the nearest muscle in a slice; `cage` is that from the pleura, both (row, col)."""
    side = np.abs(x)
    turn = np.arctan2(side, y - CAGE_Y)
    nearest = ellipse_distance(side - 28, y - 109, 29, 18)  # erector spinae
    for sheet in SHEETS:
        rise = _lens((z - sheet.z) / sheet.half_height_mm)
        if rise > 0:
            thickness = (sheet.thickness_mm + 2) * rise * _lens((turn - sheet.turn) / sheet.half_turn) - 2
            away = np.abs(cage - sheet.inner_mm - sheet.thickness_mm / 2)
            nearest = np.minimum(nearest, away - thickness / 2)
    bellies = SHOULDER_BELLIES * (z > SHOULDER_Z) + UPPER_BELLIES * (z > UPPER_Z)
    growth = float(np.clip((z - SHOULDER_Z) / 40, 0, 1))
    for chain in bellies:
        for (x0, y0, r0), (x1, y1, r1) in pairwise(chain):
            belly = capsule_distance(side, y, 0, (x0, y0, 0, r0 * growth), (x1, y1, 0, r1 * growth))
            nearest = np.minimum(nearest, belly)
    return np.asarray(nearest, np.float32)


def _lens(position: Floats | float) -> Floats:
    """Fade from 1 in the middle to 0 at the edges, -1 and 1, and beyond."""
    return np.asarray(np.sqrt(np.clip(1 - np.square(position), 0, 1)), np.float32)
