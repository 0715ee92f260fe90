"""Candidates for candidates.csv: on nodules, and at structures that resemble one."""

from __future__ import annotations

import numpy as np

from p2ch13.phantom.anatomy import Chest
from p2ch13.phantom.fields import Floats
from p2ch13.phantom.nodules import Nodule
from p2ch13.phantom.painting import Grid
from p2ch13.phantom.vessels import Branches

CLEARANCE_MM = 4.0  # between a negative and the surface of the nearest nodule


def draw_positives(rng: np.random.Generator, nodules: list[Nodule]) -> Floats:
    """Draw one to three points (n, 3) on each nodule; LUNA16 lists some nodules several times, off center."""
    spots = []
    for nodule in nodules:
        for _ in range(int(rng.integers(1, 4))):
            spots.append(nodule.center_xyz + rng.uniform(-1, 1, 3) * nodule.diameter_mm / 8)
    return np.array(spots)


def draw_hard_negatives(
    rng: np.random.Generator, chest: Chest, grid: Grid, vessels: Branches, nodules: list[Nodule]
) -> Floats:
    """Draw points (n, 3) away from nodules: at vessels and their branches, at the pleura, at the hilum, in lung."""
    anywhere = grid.sample_negatives(rng, 20000)
    depth = chest.lung_depth(*anywhere.T)
    tips = vessels.end[grid.contains(vessels.end)]
    radius = vessels.radius[grid.contains(vessels.end)]
    kinds = (
        (tips[(radius > 0.6) & (radius < 2)], rng.integers(14, 60)),  # branch points
        (tips[radius > 2.5], rng.integers(4, 15)),  # around the hilum
        (anywhere[(depth > -1) & (depth < 1.5)], rng.integers(6, 35)),  # pleura, rib ends
        (anywhere[depth > 5], rng.integers(6, 30)),  # plain lung
    )
    spots = np.concatenate([pool[rng.permutation(len(pool))[:count]] for pool, count in kinds])
    for nodule in nodules:
        away = np.linalg.norm(spots - nodule.center_xyz, axis=1)
        spots = spots[away > nodule.diameter_mm / 2 + CLEARANCE_MM]
    return spots
