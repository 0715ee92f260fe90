"""Examples for the second stage: the first stage's candidates in scans whose nodules are known, as cubes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from p2ch13.config import MIN_CANDIDATE_MM
from p2ch13.data.ct import Ct
from p2ch13.detection.candidates import Candidate, find_candidates
from p2ch13.detection.cubes import cut_cubes
from p2ch13.evaluation.froc import lie_within
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.util.memory import MemoryMappedTensor, PeriodicRelease, RowWriter

JITTER_MM = 1.0  # deviation of the centers of further cubes of a candidate
LEAST_OVERLAP = 0.3  # share of a candidate's voxels that lie in a nodule's mask


@dataclass(frozen=True)
class FindingExamples:
    """Candidates of one scan, without their cubes.

    Attributes:
        features: (candidate, 2): the first stage's logit, and the logarithm of the diameter in mm.
        is_nodule: (candidate,).
        hits: for each nodule that is hit, its candidates; missed_count: nodules that no candidate hits.
    """

    features: NDArray[np.float64]
    is_nodule: NDArray[np.bool_]
    hits: list[list[int]]
    missed_count: int

    def __len__(self) -> int:
        return len(self.is_nodule)


class Examples:
    """Candidates of all scans, in the order in which they are added.

    Their cubes, 0.5 MB for each candidate with two views, are memory-mapped: all scans must be added before the first
    `take`.

    Args: folder: for the memory map's file.
    Attributes: `scans`; `scan_groups`, of each scan: scans of one patient or lung share one.
    Raises: InputError, naming the folder, if its disk has too little space.
    """

    def __init__(self, folder: Path) -> None:
        self.scans: list[FindingExamples] = []
        self.scan_groups: list[int] = []
        self._writer = RowWriter(folder)
        self._releasing = PeriodicRelease(lambda: self._cubes.release())

    def add(self, scan: FindingExamples, cubes: NDArray[np.float16], group: int) -> None:
        """Add a scan. Args: cubes: (candidate, view, scale, channel, 32, 32, 32). Raises: as the constructor."""
        self._writer.write(torch.from_numpy(cubes))
        self.scans.append(scan)
        self.scan_groups.append(group)

    def __len__(self) -> int:
        return sum(map(len, self.scans))

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """(example, 2), see `FindingExamples`."""
        return np.concatenate([scan.features for scan in self.scans])

    @cached_property
    def is_nodule(self) -> NDArray[np.bool_]:
        """(example,)."""
        return np.concatenate([scan.is_nodule for scan in self.scans])

    def spread(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give each example the value of its scan: (scan,) -> (example,)."""
        return np.repeat(values, [len(scan) for scan in self.scans])

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """Of each example's scan: (example,)."""
        return self.spread(np.array(self.scan_groups))

    @cached_property
    def _cubes(self) -> MemoryMappedTensor:
        return self._writer.map()

    @property
    def view_count(self) -> int:
        return self._cubes.tensor.shape[1]

    def take(self, ndxs: NDArray[np.int64], views: NDArray[np.int64] | int = 0) -> torch.Tensor:
        """Copy a view of each of these examples: float32 (ndx, scale, channel, 32, 32, 32). View 0 is centered."""
        cubes = self._cubes.tensor[torch.from_numpy(ndxs), torch.as_tensor(views)].float()
        self._releasing.count(len(ndxs))
        return cubes


def collect_examples(
    ct: Ct,
    logits: NDArray[np.float32],
    nodules: Sequence[CandidateInfoTuple],
    mask: NDArray[np.bool_],
    ignored: Sequence[CandidateInfoTuple],
    threshold: float,
    view_count: int,
    rng: np.random.Generator,
) -> tuple[FindingExamples, NDArray[np.float16]]:
    """Find a scan's candidates, and cut their cubes.

    A candidate is a nodule if its center hits one by LUNA16's rule, or enough of it lies in the mask. One that touches
    a nodule otherwise, or hits what is neither nodule nor lung alone, is left out.

    Args:
        logits: of the first stage; mask: of the nodules, both (index, row, col).
        ignored: excluded findings and known lesions.
        threshold: see `find_candidates`; view_count: cubes of each candidate, all but the first off its center.
    Returns: the candidates, and their cubes, see `Examples.add`.
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
    examples = FindingExamples(
        np.array([[each.first_stage_logit, np.log(each.diameter_mm)] for each in chosen]).reshape(-1, 2),
        is_nodule[kept],
        [hit for hit in hits if hit],
        sum(not hit for hit in hits),
    )
    return examples, cut_views(ct, logits, chosen, view_count, rng)


def find_hits(centers: Sequence[Sequence[float]], findings: Sequence[CandidateInfoTuple]) -> NDArray[np.bool_]:
    """Tell which centers lie in which findings, by LUNA16's rule: (center, finding)."""
    return lie_within(centers, [each.center_xyz for each in findings], [each.diameter_mm for each in findings])


def cut_views(
    ct: Ct, logits: NDArray[np.float32], candidates: Sequence[Candidate], view_count: int, rng: np.random.Generator
) -> NDArray[np.float16]:
    """Cut each candidate's cubes: the first view centered, the others off by `JITTER_MM` or so along each axis."""
    vx_size_irc = ct.vx_size_xyz[::-1]
    centers = np.array([each.center_irc for each in candidates]).reshape(-1, 1, 3).repeat(view_count, axis=1)
    centers[:, 1:] += rng.normal(0, JITTER_MM, centers[:, 1:].shape) / vx_size_irc
    cubes = cut_cubes(ct.hu, logits, vx_size_irc, centers.reshape(-1, 3)).astype(np.float16)
    return cubes.reshape(len(candidates), view_count, *cubes.shape[1:])
