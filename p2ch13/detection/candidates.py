"""Candidates: what the first stage may have found, and the second stage scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from p2ch13.config import NODULE_LOGIT
from p2ch13.data.ct import Ct
from p2ch13.detection.cubes import cut_cubes
from p2ch13.detection.findings import ScoredPart, find_largest_fragment, score_voxels, split_large
from p2ch13.labels.regions import sphere_diameter, sphere_volume, volume_mm3
from p2ch13.network.finding_scorer import FindingScorer
from p2ch13.network.second_stage import SCORED_AT_ONCE
from p2ch13.util.boxes import BoxMask, inside, make_box, split_components, starts_of, stops_of
from p2ch13.util.logits import to_logit

JOIN_MM = 2.5  # fragments of a lesion are joined by fainter voxels no farther than this, or a voxel, from one of them


@dataclass(frozen=True, eq=False)
class Candidate:
    """A region of the first stage's map at a low threshold.

    Attributes:
        part: its voxels, see `find_candidates`.
        center_irc: see `Finding.center_xyz`.
        diameter_mm: of the sphere of equal volume.
        first_stage_logit: see `score_voxels`.
    """

    part: BoxMask
    center_irc: tuple[float, float, float]
    diameter_mm: float
    first_stage_logit: float


def find_candidates(ct: Ct, logits: NDArray[np.float32], threshold: float, min_diameter_mm: float) -> list[Candidate]:
    """Find the 26-connected components of the map at a low threshold, see also `split_chain`.

    A candidate's voxels are those above 0.5, so that fragments of one lesion are one candidate without what lies
    between lesion and threshold; or all, if these would be smaller than a sphere of `min_diameter_mm`.

    Args: logits: (index, row, col), from `segment`; threshold: probability; min_diameter_mm: smaller components are
        dropped.
    """
    mask = logits > np.float32(to_logit(threshold))
    parts = [
        part
        for component in split_large(ct, mask, min_diameter_mm)
        for part in split_chain(component, logits, ct.vx_size_xyz[::-1])
    ]
    score, least_mm3 = score_voxels(ct, logits), sphere_volume(min_diameter_mm)
    return [
        as_candidate(ct, part, logits, least_mm3, score(part)) for part in parts if volume_mm3(part, ct) >= least_mm3
    ]


def as_candidate(ct: Ct, part: BoxMask, logits: NDArray[np.float32], least_mm3: float, logit: float) -> Candidate:
    """Choose a candidate's voxels, see `find_candidates`, and measure them. Args: logit: the first stage's."""
    core = BoxMask(part.box, part.mask & (logits[part.box] > np.float32(NODULE_LOGIT)))
    is_large = core.mask.any() and volume_mm3(core, ct) >= least_mm3
    own = shrink(core) if is_large else part
    fragment = find_largest_fragment(own)
    index, row, col = (starts_of(fragment.box) + [ndxs.mean() for ndxs in np.nonzero(fragment.mask)]).tolist()
    return Candidate(own, (index, row, col), sphere_diameter(volume_mm3(own, ct)), logit)


def split_chain(component: BoxMask, logits: NDArray[np.float32], vx_size_irc: NDArray[np.float64]) -> list[BoxMask]:
    """Split a component at a low threshold where it is far from voxels above 0.5.

    Along the pleura, components reach across a lung and join lesions with what is none: in a scan of LIDC-IDRI, five
    fragments over 124 mm. Fainter voxels farther than `JOIN_MM` from all voxels above 0.5 are dropped, but for
    components with a peak of their own, which may be faint nodules.
    """
    is_core = component.mask & (logits[component.box] > np.float32(NODULE_LOGIT))
    if not is_core.any():
        return [component]
    reach_mm = max(JOIN_MM, float(vx_size_irc.max()))
    is_near = ndimage.distance_transform_edt(~is_core, sampling=vx_size_irc) <= reach_mm
    near = BoxMask(component.box, component.mask & is_near)
    far = BoxMask(component.box, component.mask & ~is_near)
    border = BoxMask(component.box, ndimage.binary_dilation(near.mask, np.ones((3, 3, 3))))
    peaks = [part for part in split_components(far, fully_connected=True) if has_peak(part, border, logits)]
    return [*split_components(near, fully_connected=True), *peaks]


def has_peak(part: BoxMask, border: BoxMask, logits: NDArray[np.float32]) -> bool:
    """Tell whether a part's highest logit lies inside it, not at the border to what it was cut off."""
    values = logits[part.box]
    is_border = part.mask & border.mask[inside(part.box, border.box)]
    return bool(values[part.mask].max() > values[is_border].max(initial=-np.inf))


def shrink(part: BoxMask) -> BoxMask:
    """Reduce a mask that is not empty to its bounding box."""
    (inner,) = ndimage.find_objects(part.mask.astype(np.int8))
    first = starts_of(part.box)
    return BoxMask(make_box(first + starts_of(inner), first + stops_of(inner)), part.mask[inner])


def score_candidates(
    ct: Ct, logits: NDArray[np.floating[Any]], candidates: Sequence[Candidate], scorers: Sequence[FindingScorer]
) -> list[ScoredPart]:
    """Score candidates by second stages, whose logits are averaged.

    Args: logits: the first stage's, (index, row, col); scorers: at least one.
    """
    scored: list[ScoredPart] = []
    for start in range(0, len(candidates), SCORED_AT_ONCE):
        some = candidates[start : start + SCORED_AT_ONCE]  # the cubes of all would fill the memory of a crowded scan
        cubes = torch.from_numpy(cut_around(ct, logits, some))
        first_stage = [each.first_stage_logit for each in some]
        diameters = [each.diameter_mm for each in some]
        scores = [scorer.score(cubes, first_stage, diameters) for scorer in scorers]
        second_stage, calibrated = np.mean(scores, axis=0).round(6).tolist()
        scored += map(ScoredPart, calibrated, [each.part for each in some], first_stage, second_stage)
    return scored


def cut_around(ct: Ct, logits: NDArray[np.floating[Any]], candidates: Sequence[Candidate]) -> NDArray[np.float32]:
    """Cut the cubes around candidates, see `cut_cubes`."""
    return cut_cubes(ct.hu, logits, ct.vx_size_xyz[::-1], [each.center_irc for each in candidates])
