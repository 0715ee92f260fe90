"""HU of the chest, slice by slice: air, fat, muscle, bone, blood, organs and lung."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2ch13.phantom.anatomy import AIRWAY_RODS, BLOOD_RODS, CAGE_Y, Chest
from p2ch13.phantom.fields import (
    Coordinate,
    Floats,
    WaveField,
    capsule_distance,
    coverage,
    draw_waves,
    ellipse_distance,
    smooth_union,
)
from p2ch13.phantom.muscles import muscle_distance
from p2ch13.phantom.painting import Grid

AIR_HU, FAT_HU, MUSCLE_HU, CORTEX_HU, SKIN_HU = -1000, -105, 55, 750, 10
COARSE_STEP = 4  # distances are smooth: every fourth pixel is enough, the rest is interpolated
RIB_PITCH_MM = 23.0  # from rib to rib, as from vertebra to vertebra
EDGE_MM = 0.7


@dataclass(frozen=True)
class Look:
    """The HU and textures of one patient's tissues in one scan."""

    blood_hu: float  # with or without contrast agent
    lung_hu: float
    lung_slope: float  # HU per mm from front to back
    dependent_hu: float  # added at the back, next to the pleura, for blood and collapse
    emphysema: float  # approximate share of destroyed lung
    muscle_mm: float  # added to the thinnest muscles
    marbling: float  # threshold for strands of fat in muscle, in deviations
    spongy_hu: float  # inside of bones
    rib_offset_mm: float
    fissure_hu: float
    coarse_lung: WaveField
    fine_lung: WaveField
    fat_strands: WaveField
    muscle_planes: WaveField
    bone_grain: WaveField
    holes: WaveField


def draw_look(rng: np.random.Generator) -> Look:
    """Draw a patient's tissues at random."""
    with_contrast = rng.random() < 0.55
    return Look(
        blood_hu=float(rng.uniform(110, 330)) if with_contrast else float(rng.uniform(35, 55)),
        lung_hu=float(rng.normal(-878, 16)),
        lung_slope=float(rng.uniform(0.1, 0.4)),
        dependent_hu=float(rng.choice([0, 60, 160]) * rng.uniform(0.5, 1.5)),
        emphysema=float(rng.choice([0.0, 0.0, 0.0, 0.5, 1.0])),
        muscle_mm=float(rng.uniform(0, 4)),
        marbling=float(rng.uniform(0.2, 1.8)),
        spongy_hu=float(rng.uniform(40, 190)),
        rib_offset_mm=float(rng.uniform(0, RIB_PITCH_MM)),
        fissure_hu=float(rng.uniform(60, 220)),
        coarse_lung=draw_waves(rng, 20, 80, 12.0, 24),
        fine_lung=draw_waves(rng, 2.5, 9, 17.0, 220),
        fat_strands=draw_waves(rng, 5, 30, 1.0, 48),
        muscle_planes=draw_waves(rng, 30, 90, 1.0, 32),
        bone_grain=draw_waves(rng, 2.5, 8, 1.0, 64),
        holes=draw_waves(rng, 9, 25, 1.0, 64),
    )


class SlicePainter:
    """Paints the slices of one scan, except branching vessels and nodules."""

    def __init__(self, chest: Chest, look: Look, grid: Grid) -> None:
        self.chest, self.look, self.grid = chest, look, grid
        self.x, self.y = grid.x[None, :], grid.y[:, None]
        _, rows, cols = grid.shape
        step = COARSE_STEP * grid.spacing_xyz
        self.coarse_x = (grid.x[0] + step[0] * np.arange(-(-cols // COARSE_STEP) + 1, dtype=np.float32))[None, :]
        self.coarse_y = (grid.y[0] + step[1] * np.arange(-(-rows // COARSE_STEP) + 1, dtype=np.float32))[:, None]

    def refine(self, coarse: Floats) -> Floats:
        """Interpolate a map on the coarse grid to every pixel (row, col)."""
        _, rows, cols = self.grid.shape
        pixels: Floats = _stretch(np.ascontiguousarray(_stretch(coarse, rows).T), cols).T
        return pixels

    def paint(self, z: float) -> tuple[Floats, Floats, Floats]:
        """Paint one slice.

        Returns: HU, share of lung and depth under the skin in mm, each (row, col).
        """
        place = (self.coarse_x, self.coarse_y, np.float32(z))
        body = self.refine(self.chest.body_distance(*place))
        cage = self.chest.cage_distance(*place)
        lung_depth = self.refine(self.chest.lung_depth(*place))
        hu = self._outside(body, z)
        self._paint_wall(hu, body, cage, place)
        self._paint_bones(hu, cage, place)
        self._paint_mediastinum(hu, cage, place)
        self._paint_abdomen(hu, cage, place)
        lung = coverage(-lung_depth, EDGE_MM)
        mix(hu, lung, self._lung(lung_depth, place))
        self._paint_airways(hu, place)
        return hu, lung, -body

    def _outside(self, body: Floats, z: float) -> Floats:
        hu = np.full(body.shape, AIR_HU, np.float32)
        clothes = self.refine(self.look.fat_strands(self.coarse_x * 0.2, self.coarse_y * 0.2, z * 0.2))
        mix(hu, 0.25 * coverage(np.abs(body - 6 - 5 * clothes) - 0.5, 1.0), FAT_HU)
        return hu

    def _paint_wall(self, hu: Floats, body: Floats, cage: Floats, place: tuple[Coordinate, ...]) -> None:
        """Paint skin, fat and the muscles of the chest wall."""
        look = self.look
        strands = look.fat_strands(self.x, self.y, place[2])
        planes = self.refine(look.muscle_planes(*place))
        mix(hu, coverage(body, 1.0), FAT_HU + 12 * strands)
        x, y, z = self.chest.standard(*place)
        muscle = self.refine(muscle_distance(cage, x, y, float(z.mean())))
        muscle = np.maximum(muscle + 1.5 * planes + 0.5 * strands + 2 - look.muscle_mm, body + 3)
        marbling = np.clip(strands - look.marbling, 0, 1.5)  # fat between the fibers
        mix(hu, coverage(muscle, 1.5), MUSCLE_HU + 6 * strands - 70 * marbling)
        if self.chest.breast_mm:
            glands = (muscle > 3) & (self.y < CAGE_Y - 40) & (body < -6)
            mix(hu, glands * coverage(1.1 - 0.3 * strands - 1.2 * planes, 0.6), 30)
        mix(hu, coverage(np.abs(body + 1) - 1, 0.8), SKIN_HU)

    def _paint_bones(self, hu: Floats, cage: Floats, place: tuple[Coordinate, ...]) -> None:
        """Paint ribs, spine, sternum, shoulder blades and clavicles: a hard shell around a spongy inside."""
        x, y, z = self.chest.standard(*place)
        grain = self.look.bone_grain(self.x, self.y, place[2])
        cage = self.refine(cage)
        mix(hu, coverage(np.abs(cage - 3.8) - 2.8 - 0.8 * grain, 1.5), MUSCLE_HU - 15)  # between the ribs
        rib, cartilage = self._ribs(cage, x, y, z)
        mix(hu, coverage(-rib, EDGE_MM), cartilage * 95 + (1 - cartilage) * self._bone_hu(rib, grain))
        for bone in (self.refine(self._girdle(x, y, z)), self.refine(self._spine(x, y, z))):
            mix(hu, coverage(bone, EDGE_MM), self._bone_hu(-bone, grain))
        canal = self.refine(ellipse_distance(x, y - 85, 9.5, 8))
        mix(hu, coverage(canal, EDGE_MM), 15)

    def _bone_hu(self, depth: Floats, grain: Floats) -> Floats:
        shell = np.clip(1.6 - depth, 0, 1)
        return np.asarray(self.look.spongy_hu + 35 * grain + (CORTEX_HU - self.look.spongy_hu) * shell, np.float32)

    def _ribs(self, cage: Floats, x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats]:
        """Compute the depth in mm inside the nearest rib, and its share of cartilage."""
        turn = np.arctan2(np.abs(x), y - CAGE_Y - 14 * (1 - self.chest.cage_profile(z)))  # 0 at the back, pi in front
        drop = 14 * turn + 55 * (1 - np.cos(0.88 * turn))  # ribs slope down to the front
        along = self.refine(z + drop + self.look.rib_offset_mm)
        across = np.abs(np.mod(along, RIB_PITCH_MM) - RIB_PITCH_MM / 2)
        depth = 3.3 * (1 - np.sqrt((across / 6) ** 2 + ((cage - 4.8) / 3.3) ** 2))
        return depth, self.refine(np.clip((turn - 2.3) / 0.15, 0, 1).astype(np.float32))

    def _spine(self, x: Floats, y: Floats, z: Floats) -> Floats:
        height = (
            np.mod(float(z.mean()) + self.look.rib_offset_mm, RIB_PITCH_MM) / RIB_PITCH_MM
        )  # 0..1 within a vertebra
        waist = 1.5 * float(np.cos(2 * np.pi * height))
        body = ellipse_distance(x, y - 63, 17 + waist, 14 + waist)
        if height < 0.16:
            body = body + 40  # a disc
        arch = np.abs(ellipse_distance(x, y - 85, 12, 10.5)) - 2.5
        process = capsule_distance(x, y, 0, (0, 96, 0, 4), (0, 104 + 18 * height, 0, 2.5))
        wings = capsule_distance(np.abs(x), y, 0, (13, 86, 0, 4), (16 + 26 * float(0.25 < height < 0.75), 95, 0, 4))
        return smooth_union(smooth_union(body, arch, 3), np.minimum(process, wings), 3)

    def _girdle(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Compute the distance to sternum, shoulder blades and clavicles."""
        level = float(z.mean())
        profile = self.chest.cage_profile(level)
        front = CAGE_Y + 14 * (1 - profile) - 77 * self.chest.depth * profile
        nearest = ellipse_distance(x, y - front + 7, 16 + 6 * float(level > 35), 6)
        if level < -85 or level > 80:
            nearest = nearest + 40
        if level > -35:
            tip, bend, neck = (88 + 0.15 * level, 97, 0, 2.0), (122, 80 - 0.1 * level, 0, 1.8), (150, 46, 0, 5.0)
            blade = np.minimum(
                capsule_distance(np.abs(x), y, 0, tip, bend), capsule_distance(np.abs(x), y, 0, bend, neck)
            )
            ridge_start, ridge_end = (126, 72, 0, 2.0), (142, 88, 0, 3.0)
            nearest = np.minimum(nearest, blade)
            if level > 25:
                nearest = np.minimum(nearest, capsule_distance(np.abs(x), y, 0, ridge_start, ridge_end))
        if level > 60:
            collar_bone = capsule_distance(np.abs(x), y, z, (22, -52, 68, 7.0), (125, -10, 112, 6.5))
            nearest = np.minimum(nearest, collar_bone)
        return np.asarray(nearest, np.float32)

    def _paint_mediastinum(self, hu: Floats, cage: Floats, place: tuple[Coordinate, ...]) -> None:
        """Paint fat, heart, large vessels and esophagus between the lungs."""
        look, (x, y, z) = self.look, self.chest.standard(*place)
        inside = np.maximum(cage + 2, 8 - self.chest.spine_distance(x, y, z))
        strands = self.refine(look.fat_strands(*place))
        region = coverage(self.refine(inside), 3)
        mix(hu, region, FAT_HU + 15 + 18 * strands)
        mix(hu, region * coverage(1.3 - strands, 0.6), 40)  # lymph nodes and small vessels
        heart = self.refine(self.chest.heart_distance(x, y, z))
        mix(hu, coverage(heart, 1.5), 45 + 6 * strands)
        chambers = self.refine(look.muscle_planes(*(0.6 * axis for axis in place)))
        cavity = np.maximum(heart + 9, 9 * (0.22 - np.abs(chambers)))
        mix(hu, coverage(cavity, 6), look.blood_hu)
        gullet = self.refine(ellipse_distance(x - 4, y - 42, 8, 5))
        mix(hu, coverage(gullet, EDGE_MM), 40)
        blood = self.refine(self.chest.rod_distance(BLOOD_RODS, x, y, z))
        mix(hu, coverage(blood, EDGE_MM), look.blood_hu)

    def _paint_airways(self, hu: Floats, place: tuple[Coordinate, ...]) -> None:
        airway = self.refine(self.chest.rod_distance(AIRWAY_RODS, *self.chest.standard(*place)))
        mix(hu, coverage(airway - 1.3, EDGE_MM), 30)
        mix(hu, coverage(airway, EDGE_MM), AIR_HU + 10)

    def _paint_abdomen(self, hu: Floats, cage: Floats, place: tuple[Coordinate, ...]) -> None:
        """Paint liver, stomach and spleen under the diaphragm."""
        x, y, z = self.chest.standard(*place)
        below = np.minimum(self.chest.dome_height(x, y) - z, -cage - 1)
        if below.max() < 0:
            return
        contrast = 0.4 * max(self.look.blood_hu - 50, 0)
        under = coverage(-self.refine(np.minimum(below, self.chest.spine_distance(x, y, z) - 6)), 2)
        strands = self.refine(self.look.fat_strands(*place))
        mix(hu, under, FAT_HU + 15 * strands)
        for center_x, center_y, half_width, half_depth, organ_hu in (
            (-52, -8, 82, 84, 58 + contrast),
            (52, -22, 40, 50, 35),
            (88, 45, 30, 42, 52 + contrast),
        ):
            organ = self.refine(ellipse_distance(x - center_x, y - center_y, half_width, half_depth))
            mix(hu, under * coverage(organ + 2 * strands, 1.5), organ_hu)
        gas = self.refine(np.maximum(ellipse_distance(x - 52, y + 22, 34, 44), y + 32))
        mix(hu, under * coverage(gas, EDGE_MM), AIR_HU)

    def _lung(self, depth: Floats, place: tuple[Coordinate, ...]) -> Floats:
        """Paint lung: mottled, denser to the back, crossed by fissures, with emphysema."""
        look = self.look
        coarse = look.coarse_lung(*place) + look.lung_slope * (self.coarse_y - CAGE_Y)
        hu = self.refine(coarse.astype(np.float32)) + look.lung_hu + look.fine_lung(self.x, self.y, place[2])
        if look.dependent_hu:
            low = np.clip((self.y - 45) / 50, 0, 1)
            hu += look.dependent_hu * low * np.exp(-np.maximum(depth, 0) / 4)
        if look.emphysema:
            holes = self.refine(look.holes(*place))
            hu -= 85 * look.emphysema * np.clip(2 * holes - 1.5, 0, 1)
        x, _, _ = self.chest.standard(*place)
        oblique, horizontal = self.chest.fissure_distances(*place)
        only_right = np.where((x < 0) & (oblique < 0), horizontal, np.float32(40))
        for fissure, share in ((oblique, 1.0), (only_right, 0.4)):  # the slice meets the second at a flat angle
            distance = self.refine(np.clip(fissure, -40, 40))
            hu += share * look.fissure_hu * coverage(np.abs(distance) - 0.3, 1.0)
        return hu


def mix(hu: Floats, share: Floats, tissue: Floats | float) -> None:
    """Replace a share (0..1) of each voxel by a tissue."""
    rows = np.flatnonzero(share.any(axis=1))
    if len(rows):
        touched = slice(rows[0], rows[-1] + 1)
        here = tissue[touched] if isinstance(tissue, np.ndarray) else tissue
        hu[touched] += share[touched] * (here - hu[touched])


def _stretch(values: Floats, count: int) -> Floats:
    """Interpolate along the first axis to `count` points, COARSE_STEP per interval."""
    stretched = np.empty((COARSE_STEP * (len(values) - 1), *values.shape[1:]), np.float32)
    rise = np.diff(values, axis=0) / COARSE_STEP
    for step in range(COARSE_STEP):
        stretched[step::COARSE_STEP] = values[:-1] + step * rise
    return stretched[:count]
