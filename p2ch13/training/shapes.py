"""Shapes of nodules to paint: synthetic ones, and those that LIDC-IDRI's readers outlined."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2ch13.labels.lidc_database import find_database
from p2ch13.labels.lidc_shapes import (
    MAX_DISTANCE,
    SHAPE_REACH,
    SHAPE_SIZE,
    UNITS_PER_RADIUS,
    NoduleShape,
    is_held_out,
    read_shapes,
)
from p2ch13.phantom.fields import capsule_distance
from p2ch13.phantom.nodules import TEXTURES, Nodule, draw_diameter, draw_nodule
from p2ch13.util.errors import InputError

SYNTHETIC_COUNT = 400
SYNTHETIC = "synthetic"  # in the place of a donor's series
TEXTURE_RATINGS = dict(zip(TEXTURES, (5.0, 3.0, 1.0), strict=True))  # by LIDC's scale
SPICULE_RADIUS_MM = 0.7


def find_shapes(kind: str, held_out: bool = False) -> list[NoduleShape]:
    """Return the shapes of `--nodule-shapes`, "synthetic", "lidc" or "both".

    Args: held_out: those that no training uses, see `is_held_out`; synthetic ones of other random numbers.
    Raises: InputError without the readers' outlines.
    """
    shapes: list[NoduleShape] = []
    if kind != "lidc":
        shapes += make_shapes(SYNTHETIC_COUNT, seed=int(held_out))
    if kind != "synthetic":
        shapes += [shape for shape in read_readers_shapes(find_outlines()) if is_held_out(shape.series_uid) == held_out]
    return shapes


def find_donors(shapes: Iterable[NoduleShape]) -> list[str]:
    """List the series whose readers' outlines are among the shapes, sorted."""
    return sorted({shape.series_uid for shape in shapes} - {SYNTHETIC})


def find_outlines() -> Path:
    """Find the database of the readers' outlines. Raises: InputError if it is not installed."""
    try:
        return find_database()
    except InputError:
        message = "lidc needs the readers' outlines: pip install 'p2ch13[lidc]', or use synthetic"
        raise InputError(message, option="--nodule-shapes") from None


@functools.cache
def read_readers_shapes(database: Path) -> tuple[NoduleShape, ...]:
    """Read all shapes of a database, once: that takes half a minute."""
    return tuple(read_shapes(database))


@functools.cache
def make_shapes(count: int, seed: int) -> tuple[NoduleShape, ...]:
    """Make shapes of the phantoms' nodules, once for each pair of arguments: 400 take 5 seconds."""
    rng = np.random.default_rng(seed)
    nodules = [draw_nodule(rng, np.zeros(3, np.float32), draw_diameter(rng)) for _ in range(count)]
    return tuple(
        NoduleShape(
            SYNTHETIC,
            nodule.diameter_mm,
            texture=TEXTURE_RATINGS[nodule.texture],
            margin=5.0,
            spiculation=5.0 if len(nodule.spikes) else 1.0,
            lobulation=1.0,
            calcification=6.0,
            distance=compute_distance(nodule),
        )
        for nodule in nodules
    )


def compute_distance(nodule: Nodule) -> NDArray[np.int8]:
    """Compute the signed distance to a nodule's outline, spicules included, on a shape's grid."""
    radius_mm = nodule.diameter_mm / 2
    axis = np.linspace(-SHAPE_REACH, SHAPE_REACH, SHAPE_SIZE, dtype=np.float32) * radius_mm
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    points = np.stack([x, y, z], axis=-1)
    on_sphere = points / np.maximum(np.linalg.norm(points, axis=-1, keepdims=True), 1e-3)
    lobes = nodule.outline(*on_sphere.reshape(-1, 3).T).reshape(x.shape)
    distance = np.linalg.norm(points / nodule.stretch_xyz, axis=-1) - radius_mm * (1 + lobes)
    for *direction, length in nodule.spikes:
        start, end = (np.array(direction) * reach for reach in (0.8 * radius_mm, radius_mm + length))
        spicule = capsule_distance(x, y, z, (*start, SPICULE_RADIUS_MM), (*end, 0.0))
        distance = np.minimum(distance, spicule)
    units: NDArray[np.float64] = (distance / radius_mm * UNITS_PER_RADIUS).round()
    return units.clip(-MAX_DISTANCE, MAX_DISTANCE).astype(np.int8)
