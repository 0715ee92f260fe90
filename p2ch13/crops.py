"""Where training cuts its crops, beyond the one through each nodule's centre: its other slices, and where none is."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2ch13.candidates import CandidateInfoTuple
from p2ch13.config import NEGATIVES_PER_SCAN, SLICES_PER_NODULE
from p2ch13.ct import Ct
from p2ch13.lungs import find_lungs
from util.coordinates import XyzTuple, axial_vx_size, irc2xyz, to_axial

TISSUE_HU = -500  # chest wall, mediastinum, ribs; not the air around the patient
CLEARANCE_MM = 4.0  # between the place of a negative and the surface of the nearest nodule
PATIENCE = 50  # places that are drawn for each one that is wanted


class CropPlaces(NamedTuple):
    """The crops of a scan; places are in mm, patient coordinates."""

    of_nodules: list[list[XyzTuple]]  # of each nodule, from its first slice to its last
    negatives: list[XyzTuple]


def choose_crop_places(
    ct: Ct, nodules: Sequence[CandidateInfoTuple], non_nodules: Sequence[CandidateInfoTuple]
) -> CropPlaces:
    """Slices of each nodule, and places without one.

    Half of the negatives are candidates that are none: vessels, scars, the pleura. The others lie anywhere between the
    lungs, on vessels in them, in the tissue around them and in the rest of the lung, since a network that has never
    seen the aorta or a rib marks them. The same scan always gives the same places.

    Args: nodules, non_nodules: the scan's.
    Raises: InputError if the scan cannot be read.
    """
    rng = np.random.default_rng(zlib.crc32(ct.series_uid.encode()))
    clear = [xyz for xyz in (c.center_xyz for c in non_nodules) if is_clear(xyz, nodules)]
    chosen = [clear[ndx] for ndx in rng.permutation(len(clear))[: NEGATIVES_PER_SCAN // 2]]
    of_nodules = [spread_over_slices(ct, nodule) for nodule in nodules]
    return CropPlaces(of_nodules, chosen + draw_places(ct, nodules, NEGATIVES_PER_SCAN - len(chosen), rng))


def spread_over_slices(ct: Ct, nodule: CandidateInfoTuple) -> list[XyzTuple]:
    """Places on the nodule's axis from foot to head, evenly from its first slice to its last."""
    center = ct.locate(nodule.center_xyz)
    reach = int(nodule.diameter_mm / 2 / ct.vx_size_xyz[2])
    first, last = max(center.index - reach, 0), min(center.index + reach, ct.shape_irc[0] - 1)
    indexes = np.unique(np.linspace(first, last, SLICES_PER_NODULE).round().astype(int)).tolist()
    return [to_xyz(ct, (index, center.row, center.col)) for index in indexes]


def draw_places(ct: Ct, nodules: Sequence[CandidateInfoTuple], count: int, rng: np.random.Generator) -> list[XyzTuple]:
    """Random places of four kinds, taking turns; fewer than `count` if there is little of all.

    Tissue between the lungs, with some of them to the left and to the right: heart, aorta, spine. What is dense in the
    lung, vessels for the most part. Tissue elsewhere. The rest of the lung.
    """
    irc = rng.integers(0, ct.shape_irc, size=(PATIENCE * count, 3))
    lung_field = find_lung_field(ct)
    is_lung, is_dense = lung_field[tuple(irc.T)], ct.hu[tuple(irc.T)] > TISSUE_HU
    is_between = np.array([is_between_lungs(lung_field, voxel) for voxel in irc.tolist()])
    kinds = [
        clear_places(ct, nodules, irc[which])
        for which in (
            ~is_lung & is_dense & is_between,
            is_lung & is_dense,
            ~is_lung & is_dense & ~is_between,
            is_lung & ~is_dense,
        )
    ]
    return [place for turn in zip_longest(*kinds) for place in turn if place is not None][:count]


def is_between_lungs(lung_field: NDArray[np.bool_], irc: Sequence[int]) -> bool:
    """Whether there is lung on both sides of a voxel, in its row."""
    index, row, col = irc
    return bool(lung_field[index, row, :col].any() and lung_field[index, row, col:].any())


def find_lung_field(ct: Ct) -> NDArray[np.bool_]:
    """(index, row, col), like `ct.hu`; nothing where no lungs are found."""
    lung_field = np.zeros(ct.shape_irc, dtype=bool)
    lungs = find_lungs(to_axial(ct.hu, ct.direction), axial_vx_size(ct.vx_size_xyz, ct.direction))
    if lungs is not None:
        to_axial(lung_field, ct.direction)[...] = lungs
    return lung_field


def clear_places(ct: Ct, nodules: Sequence[CandidateInfoTuple], irc: NDArray[np.int64]) -> list[XyzTuple]:
    places = (to_xyz(ct, voxel) for voxel in irc.tolist())
    return [xyz for xyz in places if is_clear(xyz, nodules)]


def is_clear(xyz: XyzTuple, nodules: Sequence[CandidateInfoTuple]) -> bool:
    """Whether a place is on no nodule, nor right beside one."""
    return all(
        float(np.linalg.norm(np.subtract(xyz, nodule.center_xyz))) > nodule.diameter_mm / 2 + CLEARANCE_MM
        for nodule in nodules
    )


def to_xyz(ct: Ct, irc: Sequence[float]) -> XyzTuple:
    return irc2xyz(irc, ct.origin_xyz, ct.vx_size_xyz, ct.direction)
