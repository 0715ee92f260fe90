"""Examples for the second stage: the first stage's candidates in scans whose nodules are known, as cubes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ch13.config import MIN_CANDIDATE_MM
from p2ch13.data.ct import Ct
from p2ch13.detection.candidates import Candidate, find_candidates
from p2ch13.detection.cubes import cut_cubes
from p2ch13.evaluation.froc import lie_within
from p2ch13.labels.candidates import CandidateInfoTuple

JITTER_MM = 1.0  # deviation of the centers of further cubes of a candidate
LEAST_OVERLAP = 0.3  # share of a candidate's voxels that lie in a nodule's mask


@dataclass(frozen=True)
class FindingExamples:
    """Candidates of one scan.

    Attributes:
        cubes: float16 (candidate, view, scale, channel, 32, 32, 32): of each the first view is centered.
        features: (candidate, 2): the first stage's logit, and the logarithm of the diameter in mm.
        is_nodule: (candidate,).
        missed_count: nodules that no candidate hits; hits: for each nodule that is hit, its candidates.
    """

    cubes: NDArray[np.float16]
    features: NDArray[np.float64]
    is_nodule: NDArray[np.bool_]
    hits: list[list[int]]
    missed_count: int

    def __len__(self) -> int:
        return len(self.is_nodule)


def collect_examples(
    ct: Ct,
    logits: NDArray[np.float32],
    nodules: Sequence[CandidateInfoTuple],
    mask: NDArray[np.bool_],
    ignored: Sequence[CandidateInfoTuple],
    threshold: float,
    view_count: int,
    rng: np.random.Generator,
) -> FindingExamples:
    """Cut the cubes of a scan's candidates.

    A candidate is a nodule if its center hits one by LUNA16's rule, or enough of it lies in the mask. One that touches
    a nodule otherwise, or hits what is neither nodule nor lung alone, is left out.

    Args:
        logits: of the first stage; mask: of the nodules, both (index, row, col).
        ignored: excluded findings and known lesions.
        threshold: see `find_candidates`; view_count: cubes of each candidate, all but the first off its center.
    """
    candidates = find_candidates(ct, logits, threshold, MIN_CANDIDATE_MM)
    centers = [ct.to_xyz(each.center_irc) for each in candidates]
    hits_nodule = find_hits(centers, nodules)
    overlaps = np.array([mask[each.part.box][each.part.mask].mean() for each in candidates])
    is_nodule = hits_nodule.any(axis=1) | (overlaps >= LEAST_OVERLAP)
    is_unclear = ~is_nodule & ((overlaps > 0) | find_hits(centers, ignored).any(axis=1))
    kept = np.flatnonzero(~is_unclear)
    hits = [np.flatnonzero(column).tolist() for column in hits_nodule[kept].T]
    chosen = [candidates[ndx] for ndx in kept]
    return FindingExamples(
        cut_views(ct, logits, chosen, view_count, rng),
        np.array([[each.first_stage_logit, np.log(each.diameter_mm)] for each in chosen]).reshape(-1, 2),
        is_nodule[kept],
        [hit for hit in hits if hit],
        sum(not hit for hit in hits),
    )


def find_hits(centers: Sequence[Sequence[float]], findings: Sequence[CandidateInfoTuple]) -> NDArray[np.bool_]:
    """Tell which centers lie in which findings, by LUNA16's rule: (center, finding)."""
    return lie_within(centers, [each.center_xyz for each in findings], [each.diameter_mm for each in findings])


def cut_views(
    ct: Ct, logits: NDArray[np.float32], candidates: Sequence[Candidate], view_count: int, rng: np.random.Generator
) -> NDArray[np.float16]:
    vx_size_irc = ct.vx_size_xyz[::-1]
    centers = np.array([each.center_irc for each in candidates]).reshape(-1, 1, 3).repeat(view_count, axis=1)
    centers[:, 1:] += rng.normal(0, JITTER_MM, centers[:, 1:].shape) / vx_size_irc
    cubes = cut_cubes(ct.hu, logits, vx_size_irc, centers.reshape(-1, 3)).astype(np.float16)
    return cubes.reshape(len(candidates), view_count, *cubes.shape[1:])
