"""One phantom scan: draw a patient and a protocol, paint the chest, simulate the scanner, list the annotations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p2ch13.phantom.anatomy import Chest, draw_chest
from p2ch13.phantom.candidates import draw_hard_negatives, draw_positives
from p2ch13.phantom.distractors import paint_lymph_nodes, paint_scars, paint_specks
from p2ch13.phantom.fields import Floats
from p2ch13.phantom.nodules import (
    Nodule,
    center_on_tissue,
    choose_sites,
    draw_diameter,
    draw_nodule,
    mark_nodule,
    paint_nodule,
)
from p2ch13.phantom.painting import Grid
from p2ch13.phantom.scanner import Protocol, Scanner, draw_protocol
from p2ch13.phantom.tissue import AIR_HU, Look, SlicePainter, draw_look, mix
from p2ch13.phantom.vessels import Branches, airways_along, grow_vessels, join, paint_branches

THICKEST_LINE_PIXELS = 1.3  # vessels with a larger radius are painted as rods
SHIFT_MM = 150.0  # of patients on the table
NODULE_COUNTS, NODULE_COUNT_ODDS = (2, 3, 4, 5, 6, 7, 8), (0.12, 0.2, 0.22, 0.19, 0.13, 0.09, 0.05)
SOFT_HU = -100  # airway walls, scars, specks


@dataclass(frozen=True)
class Phantom:
    """A finished scan, in patient coordinates (mm)."""

    hu: np.ndarray  # int16 (slice, row, col)
    mask: npt.NDArray[np.bool_]  # (slice, row, col), all nodules, see `mark_nodule`
    origin_xyz: Floats  # (3,) center of the first voxel
    spacing_xyz: Floats  # (3,)
    direction_xy: int  # 1, or -1 if x and y are reversed
    nodules: list[Nodule]
    nodule_xyz: Floats  # (nodule, 3)
    positive_xyz: Floats  # (n, 3) on a nodule
    negative_xyz: Floats  # (n, 3) elsewhere


def make_phantom(seed: int, index: int, pixels: int | None = None, slice_count: int | None = None) -> Phantom:
    """Build scan number `index`; it depends on the arguments alone.

    Args:
        seed: the same for all scans of a data set.
        index: number of the scan, from 0.
        pixels: rows and cols; None draws them as in LUNA16.
        slice_count: None draws it.
    """
    patient_rng, vessel_rng, nodule_rng, noise_rng = np.random.default_rng([seed, index]).spawn(4)
    chest, look = draw_chest(patient_rng), draw_look(patient_rng)
    drawn_pixels = int(patient_rng.choice([512, 448, 384], p=[0.84, 0.08, 0.08]))
    drawn_count = int(patient_rng.integers(32, 73))
    body_mm = chest.half_width_mm(), chest.half_depth_mm()
    protocol = draw_protocol(patient_rng, pixels or drawn_pixels, slice_count or drawn_count, body_mm)
    shift_xyz = patient_rng.uniform(-SHIFT_MM, SHIFT_MM, 3).round(1)
    grid = protocol.grid()

    arteries, veins = grow_vessels(vessel_rng, chest, "artery"), grow_vessels(vessel_rng, chest, "vein")
    vessels = join([arteries, veins])
    nodule_count = int(nodule_rng.choice(NODULE_COUNTS, p=NODULE_COUNT_ODDS))
    diameters = [draw_diameter(nodule_rng) for _ in range(nodule_count)]
    centers = choose_sites(nodule_rng, chest, grid, vessels, diameters)
    nodules = [draw_nodule(nodule_rng, center, mm) for center, mm in zip(centers, diameters, strict=True)]

    hu, depth = _paint_chest(chest, look, grid, arteries, vessels, vessel_rng)
    paint_lymph_nodes(hu, grid, chest, vessel_rng)
    mask = np.zeros(grid.shape, bool)
    for nodule in nodules:
        box, filled = paint_nodule(hu, grid, nodule, nodule_rng)
        mask[box] |= mark_nodule(filled, grid.part(box), chest, nodule)
    stored = _take_picture(protocol, hu, depth, noise_rng)
    nodules = [center_on_tissue(stored, grid, nodule) for nodule in nodules]
    negatives = draw_hard_negatives(nodule_rng, chest, grid, vessels, nodules)
    turn = -1 if protocol.flipped else 1
    return Phantom(
        hu=stored[:, ::turn, ::turn],
        mask=mask[:, ::turn, ::turn],
        origin_xyz=np.array([grid.x[::turn][0], grid.y[::turn][0], grid.z[0]], np.float64) + shift_xyz,
        spacing_xyz=np.array([protocol.pixel_mm, protocol.pixel_mm, protocol.slice_mm]),
        direction_xy=turn,
        nodules=nodules,
        nodule_xyz=np.stack([nodule.center_xyz for nodule in nodules]) + shift_xyz,
        positive_xyz=draw_positives(nodule_rng, nodules) + shift_xyz,
        negative_xyz=negatives + shift_xyz,
    )


def _paint_chest(
    chest: Chest, look: Look, grid: Grid, arteries: Branches, vessels: Branches, rng: np.random.Generator
) -> tuple[Floats, list[Floats]]:
    """Compute true HU (slice, row, col) without nodules, and each slice's depth under the skin in mm."""
    painter = SlicePainter(chest, look, grid)
    line_mm = THICKEST_LINE_PIXELS * float(grid.spacing_xyz[0])
    blood, soft, lumen = (np.zeros(grid.shape, np.float32) for _ in range(3))
    paint_branches(blood, grid, vessels, line_mm)
    bronchi, air = airways_along(rng, arteries)
    paint_scars(soft, grid, chest, rng)
    paint_branches(soft, grid, bronchi, 0)
    paint_specks(soft, grid, chest, rng)
    paint_branches(lumen, grid, air, 0)
    depths = []
    for k, z in enumerate(grid.z):
        hu, lung, depth = painter.paint(float(z))
        mix(hu, soft[k] * lung, SOFT_HU)
        mix(hu, blood[k], look.blood_hu)
        mix(hu, lumen[k] * lung, AIR_HU)
        depths.append(depth.astype(np.float16))
        blood[k] = hu  # reuse the volume: this slice of vessels is not needed again
    return blood, depths


def _take_picture(protocol: Protocol, hu: Floats, depths: list[Floats], rng: np.random.Generator) -> np.ndarray:
    scanner = Scanner(protocol)
    stored = np.empty(hu.shape, np.int16)
    for k, depth in enumerate(depths):
        scanner.add_table(hu[k])
        stored[k] = scanner.image(hu[k], depth.astype(np.float32), rng)
    return stored
