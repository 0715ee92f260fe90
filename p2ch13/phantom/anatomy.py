"""The chest of a synthetic patient: body, rib cage, mediastinum, diaphragm, lungs and fissures as signed distances.

Coordinates are those of a standard chest: x to the patient's left, y to the back, z to the head, in mm,
with the carina at (0, 20, 0). A patient differs from it by a scale along each axis and by smooth random bending.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from p2ch13.phantom.fields import (
    Coordinate,
    Floats,
    WaveField,
    capsule_distance,
    draw_waves,
    ellipse_distance,
    smooth_union,
)

APEX_Z = 104.0
CAGE_WIDEST_Z = -60.0
CAGE_Y = 5.0  # the middle of the rib cage, front to back
DOME_X = (-58.0, 58.0)  # tops of the right and left half of the diaphragm

# Rods (x, y, z, radius) along the large vessels that carry blood.
BLOOD_RODS = (
    ((-10, -20, -60, 15), (-14, -24, 8, 16), (-4, -12, 32, 15), (12, 16, 38, 13), (22, 42, 26, 12.5)),  # aortic arch
    ((22, 42, 26, 12.5), (21, 54, -40, 12), (10, 50, -140, 11)),  # descending aorta
    ((-30, -14, 95, 6), (-27, -19, 58, 8), (-29, -15, -40, 9)),  # superior vena cava
    ((30, -20, 90, 5), (22, -28, 66, 6), (-26, -20, 50, 7)),  # left brachiocephalic vein
    ((-2, -10, 36, 6), (-16, -4, 110, 5)),
    ((8, 6, 40, 4), (18, 2, 110, 4)),
    ((15, 22, 38, 5), (30, 22, 85, 5), (60, 10, 104, 4)),
    ((14, -34, -42, 15), (17, -12, -12, 14), (38, 18, -6, 10), (46, 32, -24, 8)),  # pulmonary trunk, left artery
    ((16, -10, -14, 12), (-18, -1, -14, 10), (-40, 12, -20, 8), (-44, 22, -40, 7)),  # right pulmonary artery
    ((-5, 18, -50, 9), (-42, 20, -52, 6)),  # pulmonary veins
    ((8, 18, -48, 9), (44, 20, -46, 6)),
    ((-24, 6, -80, 12), (-22, 16, -140, 12)),  # inferior vena cava
    ((-7, 44, 5, 4), (-8, 46, -140, 4)),  # azygos vein
)
AIRWAY_RODS = (
    ((-2, 6, 125, 8.5), (-1, 12, 60, 8.5), (0, 20, 0, 8.5)),  # trachea
    ((0, 20, 0, 7), (-30, 24, -22, 6.5), (-42, 26, -58, 4.5)),
    ((0, 20, 0, 6.5), (40, 28, -30, 5.5), (50, 36, -55, 4)),
    ((-30, 24, -22, 4.5), (-50, 18, -8, 3.5)),  # right upper lobe bronchus
    ((40, 28, -30, 4.5), (52, 14, -18, 3.5)),
)
HEART_ELLIPSOIDS = (  # (center xyz, half axes xyz)
    ((24, -26, -78), (52, 40, 50)),
    ((-20, -16, -72), (30, 30, 42)),
    ((4, 18, -52), (36, 17, 26)),
)


@dataclass(frozen=True)
class Chest:
    """The random parameters of one patient."""

    scale_xyz: tuple[float, float, float]  # patient mm per mm of the standard chest
    fat_mm: float  # thickness of the fat under the skin
    breast_mm: float  # extent of the breasts to the front; 0 for none
    dome_z: tuple[float, float]  # top of the right and left half of the diaphragm
    heart_size: float  # 1 is standard
    septum_mm: float  # half the distance between the lungs' front tips
    depth: float  # depth of the chest relative to the standard
    bend_x: WaveField
    bend_y: WaveField
    wall_waves: WaveField  # unevenness of the pleura
    body_waves: WaveField  # unevenness of the skin
    fissure_waves: WaveField
    plaques: WaveField  # the pleura is thickened where this is high

    def half_width_mm(self) -> float:
        """Half the largest width of the body below the shoulders, in patient mm."""
        return self.scale_xyz[0] * (159 + self.fat_mm)

    def half_depth_mm(self) -> float:
        """Half the depth of the body from front to back, in patient mm."""
        return self.scale_xyz[1] * (91 * self.depth + 24 + 0.7 * self.fat_mm)

    def cage_profile(self, z: Coordinate) -> Coordinate:
        """Compute the relative size of the rib cage at a height: 1 at its widest, 0 above the apex."""
        rise = np.clip((np.asarray(z, np.float32) - CAGE_WIDEST_Z) / (APEX_Z - CAGE_WIDEST_Z), 0, 1)
        return np.sqrt(np.maximum(1 - rise**2.6, 1e-4))

    def standard(self, x: Coordinate, y: Coordinate, z: Coordinate) -> tuple[Coordinate, Coordinate, Coordinate]:
        """Convert a patient's point to the standard chest."""
        bent_x = x / self.scale_xyz[0] + self.bend_x(x, y, z)
        bent_y = y / self.scale_xyz[1] + self.bend_y(x, y, z)
        return bent_x, bent_y, z / self.scale_xyz[2] + np.zeros_like(bent_x)

    def _cage_distance(self, x: Coordinate, y: Coordinate, z: Coordinate) -> Floats:
        """Compute the distance to the cage: two ovals side by side, which bulge beside the sternum and the spine."""
        profile = self.cage_profile(z)
        dy = y - CAGE_Y - 14 * (1 - profile)
        backward = dy / (90 * self.depth)
        middle = (40 + 12 * np.clip(backward, -1, 1)) * profile  # of either oval, from the midplane
        dx = np.abs(x) - middle
        outward = 132 * profile * (1 - 0.05 * np.clip(-backward, 0, 1) ** 2) - middle
        u = np.abs(dx) / np.where(dx > 0, outward, middle + (34 + 10 * np.clip(backward, -1, 1)) * profile)
        v = np.abs(dy) / (np.where(dy < 0, 92.0, 98.0).astype(np.float32) * self.depth * profile)
        level = np.sqrt(u * u + v * v)
        return np.asarray(np.sqrt(dx * dx + dy * dy) * (1 - 1 / np.maximum(level, 0.05)), np.float32)

    def rod_distance(
        self, rods: tuple[tuple[tuple[float, ...], ...], ...], x: Coordinate, y: Coordinate, z: Coordinate
    ) -> Floats:
        """Compute the distance to the nearest of several chains of rods."""
        nearest = np.full(np.broadcast_shapes(np.shape(x), np.shape(y), np.shape(z)), 60, np.float32)
        for chain in rods:
            for start, end in pairwise(chain):
                if np.min(z) - 60 < max(start[2], end[2]) and np.max(z) + 60 > min(start[2], end[2]):
                    nearest = np.minimum(nearest, capsule_distance(x, y, z, start, end))
        return nearest

    def heart_distance(self, x: Coordinate, y: Coordinate, z: Coordinate) -> Floats:
        """Compute the distance to the heart muscle and its chambers."""
        nearest = np.full(np.broadcast_shapes(np.shape(x), np.shape(y), np.shape(z)), 60, np.float32)
        for (center_x, center_y, center_z), half_axes in HEART_ELLIPSOIDS:
            a, b, c = (self.heart_size * half for half in half_axes)
            cut = np.sqrt(np.maximum(1 - ((z - center_z) / c) ** 2, 1e-4))  # this slice's share of the ellipsoid
            dx, dy = x - center_x, y - center_y
            along, across = 0.9 * dx + 0.44 * dy, 0.9 * dy - 0.44 * dx  # the heart's axis points left and forward
            beyond = np.maximum(np.abs(z - center_z) - c, 0)  # above and below it, an ellipse would shrink to a dot
            nearest = smooth_union(nearest, ellipse_distance(along, across, a * cut, b * cut) + beyond, 10)
        return nearest

    def spine_distance(self, x: Coordinate, y: Coordinate, z: Coordinate) -> Floats:
        """Compute the distance to the soft tissue around the vertebrae."""
        back = y + 6 * (1 - self.cage_profile(z))
        return smooth_union(ellipse_distance(x, back - 64, 20, 19), ellipse_distance(x, back - 108, 29, 24), 14)

    def mediastinum_distance(self, x: Coordinate, y: Coordinate, z: Coordinate) -> Floats:
        """Compute the distance to everything between the lungs: vessels, heart, spine and the fat around them."""
        apical = np.clip((z - 25) / 70, 0, 1)
        upper = apical * (9 + 24 * np.clip((20 - y) / 50, 0, 1))  # the great vessels are in front of the trachea
        band = np.abs(x + 2) - (self.septum_mm + 9 * np.clip((y + 60) / 60, 0, 1) + upper)
        organs = smooth_union(self.rod_distance(BLOOD_RODS, x, y, z), self.rod_distance(AIRWAY_RODS, x, y, z) - 2, 8)
        organs = smooth_union(organs, self.heart_distance(x, y, z) - 3, 12)
        organs = smooth_union(organs - 1.5, np.asarray(band, np.float32), 10)
        return smooth_union(organs, self.spine_distance(x, y, z), 8)

    def dome_height(self, x: Coordinate, y: Coordinate) -> Floats:
        """Compute the height z of the diaphragm; it falls off towards the ribs."""
        domes = []
        for top, center_x in zip(self.dome_z, DOME_X, strict=True):
            away = ((x - center_x) / 72) ** 2 + ((y - 4) / 85) ** 2
            domes.append(top - away * (32 + 42 * away))  # flat on top, steep at the ribs
        return np.asarray(np.maximum(*domes), np.float32)

    def cage_distance(self, x: Coordinate, y: Coordinate, z: Coordinate) -> Floats:
        """Compute the distance from the parietal pleura, negative inside the rib cage."""
        distance = self._cage_distance(*self.standard(x, y, z)) + self._unevenness(x, y, z)
        return np.asarray(distance, np.float32)

    def _unevenness(self, x: Coordinate, y: Coordinate, z: Coordinate) -> Floats:
        """Compute how many mm the pleura is further inside than a smooth one."""
        return np.asarray(self.wall_waves(x, y, z) + 3 * np.clip(self.plaques(x, y, z) - 1.7, 0, 1), np.float32)

    def lung_depth(self, x: Coordinate, y: Coordinate, z: Coordinate) -> Floats:
        """Compute the depth in the lung, in mm from its nearest border; negative outside the lungs."""
        waves = self._unevenness(x, y, z)
        x, y, z = self.standard(x, y, z)
        depth = smooth_union(-self._cage_distance(x, y, z), self.mediastinum_distance(x, y, z), 9) - waves
        return smooth_union(depth, 0.6 * (z - self.dome_height(x, y)), 8)

    def fissure_distances(self, x: Coordinate, y: Coordinate, z: Coordinate) -> tuple[Floats, Floats]:
        """Compute signed distances from the oblique fissure (positive: lower lobe) and the right horizontal one."""
        waves = self.fissure_waves(x, y, z)
        x, y, z = self.standard(x, y, z)
        oblique = (y - 58 + (42 - z) * 0.86) / 1.32 + waves + 0.002 * (np.abs(x) - 70) ** 2
        horizontal = z + 12 + 0.002 * ((x + 75) ** 2 + y**2) + waves
        return np.asarray(oblique, np.float32), np.asarray(horizontal, np.float32)

    def lobe(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Return the lobe: 0 upper, 1 lower, 2 middle (right only)."""
        oblique, horizontal = self.fissure_distances(x, y, z)
        return np.where(oblique > 0, 1, np.where((x < 0) & (horizontal < 0), 2, 0))

    def body_distance(self, x: Coordinate, y: Coordinate, z: Coordinate) -> Floats:
        """Compute the distance from the skin, negative inside the body."""
        waves = 1.5 * self.body_waves(x, y, z)
        x, y, z = self.standard(x, y, z)
        profile = self.cage_profile(z)
        shoulder = np.clip((z - 20) / 80, 0, 1)
        half_width = 132 * (0.6 + 0.4 * profile) + 27 + self.fat_mm + 62 * shoulder
        half_depth = 91 * self.depth * (0.7 + 0.3 * profile) + 24 + 0.7 * self.fat_mm
        u2, v2 = (x / half_width) ** 2, ((y - CAGE_Y - 10) / half_depth) ** 2
        level = np.sqrt(0.5 * np.sqrt(u2 * u2 + v2 * v2) + 0.5 * (u2 + v2))  # between an ellipse and a box
        trunk = np.sqrt(x * x + (y - CAGE_Y - 10) ** 2) * (1 - 1 / np.maximum(level, 0.05)) + waves
        if self.breast_mm == 0:
            return np.asarray(trunk, np.float32)
        size = np.sqrt(np.clip(1 - ((z + 50) / 60) ** 2, 0.01, 1))
        front = CAGE_Y + 10 - 0.88 * half_depth
        breasts = ellipse_distance(np.abs(x) - 75, y - front, 60 * size, (self.breast_mm + 14) * size)
        return smooth_union(trunk, breasts, 15)


def draw_chest(rng: np.random.Generator) -> Chest:
    """Draw a random patient."""
    size = rng.uniform(0.88, 1.1)
    female = rng.random() < 0.5
    right_dome = rng.uniform(-118, -88)
    return Chest(
        scale_xyz=(size * rng.uniform(0.95, 1.06), size * rng.uniform(0.95, 1.06), size * rng.uniform(0.92, 1.08)),
        fat_mm=float(rng.gamma(3, 4.5) + 4),
        breast_mm=float(rng.uniform(8, 30)) if female else 0.0,
        dome_z=(right_dome, right_dome - rng.uniform(3, 22)),
        heart_size=rng.uniform(0.82, 1.12),
        septum_mm=float(rng.uniform(0.5, 9)),
        depth=rng.uniform(0.92, 1.15),
        bend_x=draw_waves(rng, 70, 220, 3.0),
        bend_y=draw_waves(rng, 70, 220, 3.0),
        wall_waves=draw_waves(rng, 20, 90, 0.7, 32),
        body_waves=draw_waves(rng, 90, 300, 2.5),
        fissure_waves=draw_waves(rng, 60, 180, 4.0),
        plaques=draw_waves(rng, 25, 80, float(rng.choice([0, 1])), 24),
    )
