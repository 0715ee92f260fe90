"""Choosing the centers of crops: other slices of each nodule than its middle one, and negatives."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2ch13.config import NEGATIVES_PER_SCAN, SLICES_PER_NODULE
from p2ch13.data.ct import Ct
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.regions import MaskRegion, ball_in
from p2ch13.util.boxes import intersect, make_box, starts_of
from p2ch13.util.coordinates import XyzTuple
from p2ch13.volumes.lungs import find_lungs

TISSUE_HU = -500  # chest wall, mediastinum, ribs; not the air around the patient
CLEARANCE_MM = 4.0  # from a negative's center to the surface of the nearest nodule or excluded finding
PATIENCE = 50  # random voxels drawn for each negative


class CropCenters(NamedTuple):
    """Centers of the crops of a scan, in mm, patient coordinates."""

    of_nodules: list[list[XyzTuple]]  # of each nodule, from its first slice to its last
    negatives: list[XyzTuple]


def choose_crop_centers(
    ct: Ct,
    nodules: Sequence[CandidateInfoTuple],
    non_nodules: Sequence[CandidateInfoTuple],
    excluded: Sequence[CandidateInfoTuple] = (),
) -> CropCenters:
    """Choose slices of each nodule, and negatives.

    Half of the negatives are candidates that are not nodules: vessels, scars, pleura. The others are random voxels
    between the lungs, on vessels in them, in the tissue around them and in the rest of the lung: a network that has
    never seen the aorta or a rib marks them. No negative lies on a possible nodule, see `find_clear`. The choice
    depends on the scan alone.

    Args: nodules, non_nodules, excluded: of this scan; excluded findings are neither nodule nor negative.
    Raises: InputError if the scan cannot be read.
    """
    rng = np.random.default_rng(zlib.crc32(ct.series_uid.encode(errors="surrogateescape")))
    findings = [*nodules, *excluded]
    clear = find_clear(ct, [candidate.center_xyz for candidate in non_nodules], findings)
    chosen = [clear[ndx] for ndx in rng.permutation(len(clear))[: NEGATIVES_PER_SCAN // 2]]
    of_nodules = [spread_over_slices(ct, nodule) for nodule in nodules]
    return CropCenters(of_nodules, chosen + sample_negatives(ct, findings, NEGATIVES_PER_SCAN - len(chosen), rng))


def spread_over_slices(ct: Ct, nodule: CandidateInfoTuple) -> list[XyzTuple]:
    """Choose centers in a nodule's mask, evenly from its first slice to its last.

    The center in each slice is the voxel nearest to the nodule's center, so that every window of the crop holds nodule.
    If the label rule marks nothing, the nodule's center is the only one.
    """
    center = ct.locate(nodule.center_xyz)
    voxels = find_voxels(ct, nodule)
    if not len(voxels):
        return [nodule.center_xyz]
    slices = np.unique(voxels[:, 0])
    places = []
    for ndx in np.unique(np.linspace(0, len(slices) - 1, SLICES_PER_NODULE).round().astype(int)):
        in_slice = voxels[voxels[:, 0] == slices[ndx]]
        away_mm = np.linalg.norm((in_slice - center)[:, 1:] * ct.vx_size_xyz[1::-1], axis=1)
        places.append(ct.to_xyz(in_slice[away_mm.argmin()].tolist()))
    return places


def find_voxels(ct: Ct, nodule: CandidateInfoTuple) -> NDArray[np.int64]:
    """Find the voxels of a nodule's mask within its radius and a voxel, or all if there are none: (voxel, 3).

    The book's box extends into the chest wall, slices away from a nodule that touches it.
    """
    parts = ct.rule.mark_nodules(ct, [nodule])
    voxels = np.concatenate(
        [np.argwhere(part.mark(part.box)) + starts_of(part.box) for part in parts] or [np.empty((0, 3), dtype=np.int64)]
    )
    vx_size_irc = ct.vx_size_xyz[::-1]
    away_mm = np.linalg.norm((voxels - ct.locate(nodule.center_xyz)) * vx_size_irc, axis=1)
    is_near = away_mm <= nodule.diameter_mm / 2 + vx_size_irc.max()
    near: NDArray[np.int64] = voxels[is_near] if is_near.any() else voxels
    return near


def sample_negatives(
    ct: Ct, findings: Sequence[CandidateInfoTuple], count: int, rng: np.random.Generator
) -> list[XyzTuple]:
    """Draw negatives of four kinds in turn; fewer than `count` if voxels of all kinds are rare.

    The kinds: tissue between the lungs (heart, aorta, spine); dense voxels in the lung (mostly vessels); other tissue;
    the rest of the lung.

    Args: findings: nodules and excluded findings to keep clear of, see `find_clear`.
    """
    irc = rng.integers(0, ct.shape_irc, size=(PATIENCE * count, 3))
    lung_mask = find_lung_mask(ct)
    is_lung, is_dense = lung_mask[tuple(irc.T)], ct.hu[tuple(irc.T)] > TISSUE_HU
    is_between = np.array([is_between_lungs(lung_mask, voxel) for voxel in irc.tolist()])
    kinds = [
        find_clear(ct, [ct.to_xyz(voxel) for voxel in irc[which].tolist()], findings)
        for which in (
            ~is_lung & is_dense & is_between,
            is_lung & is_dense,
            ~is_lung & is_dense & ~is_between,
            is_lung & ~is_dense,
        )
    ]
    return [place for turn in zip_longest(*kinds) for place in turn if place is not None][:count]


def is_between_lungs(lung_mask: NDArray[np.bool_], irc: Sequence[int]) -> bool:
    """Whether a voxel has lung on both sides in its row."""
    index, row, col = irc
    return bool(lung_mask[index, row, :col].any() and lung_mask[index, row, col:].any())


def find_lung_mask(ct: Ct) -> NDArray[np.bool_]:
    """Compute the lung mask, (index, row, col), shaped like `ct.hu`; empty if no lungs are found."""
    lungs = find_lungs(ct.hu, ct.vx_size_xyz)
    return np.zeros(ct.shape_irc, dtype=bool) if lungs is None else lungs


def find_clear(ct: Ct, places: Sequence[XyzTuple], findings: Sequence[CandidateInfoTuple]) -> list[XyzTuple]:
    """Keep the places at a clearance from all findings and from the scan's mask.

    The mask includes readers' contours that LUNA16 does not list, see `LabelRule.mark_seen`.
    """
    centers = np.array([finding.center_xyz for finding in findings]).reshape(-1, 3)
    reach_mm = np.array([finding.diameter_mm / 2 + CLEARANCE_MM for finding in findings])
    away_mm = np.linalg.norm(np.reshape(places, (-1, 1, 3)) - centers, axis=2)  # (place, finding)
    is_far = (away_mm > reach_mm).all(axis=1)
    parts = ct.rule.mark_seen(ct)
    return [xyz for xyz, far in zip(places, is_far, strict=True) if far and not is_beside(ct, parts, xyz)]


def is_beside(ct: Ct, parts: Sequence[MaskRegion], xyz: XyzTuple) -> bool:
    """Whether a voxel of the mask lies within the clearance of a place, which may be outside the scan."""
    vx_size_irc = ct.vx_size_xyz[::-1]
    center = ct.to_irc(xyz)
    margin = np.floor(CLEARANCE_MM / vx_size_irc).astype(int)
    around = make_box(np.array(center) - margin, np.array(center) + margin + 1)
    return any(
        (part.mark(common) & ball_in(common, center, CLEARANCE_MM, vx_size_irc)).any()
        for part in parts
        if (common := intersect(around, part.box))
    )
