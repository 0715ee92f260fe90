"""Acquisitions and phases of one series that show the same part of the patient: each is a volume of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from p2ch13.volumes.dicom.slices import DicomSlice

Slices = list[DicomSlice]
SAME_PLACE_MM = 1e-3


def split_phases(slices: Sequence[DicomSlice], normal: NDArray[np.float64]) -> list[Slices]:
    """Split a series into volumes, the largest first; of those as large as others, the earlier acquisition.

    Acquisitions that lie end to end, as those of a scan in steps, are one volume. Those that overlap are not, nor are
    slices that differ in contrast agent, kernel, thickness, tube voltage or phase of the heart then. Where nothing of
    this tells slices at one place apart, their numbers may: each phase has the next number at every place, whether
    all places of a phase follow each other or all phases of a place.

    Args: normal: (3,), the direction that slices are stacked along.
    """
    volumes: list[Slices] = [list(slices)]
    groups = group_by_phase(slices)
    if any(overlap(one, other, normal) for ndx, one in enumerate(groups) for other in groups[:ndx]):
        volumes = chain_groups(groups, normal)
    volumes = [run for volume in volumes for run in split_runs(volume, normal)]
    return sorted(volumes, key=len, reverse=True)


def group_by_phase(slices: Sequence[DicomSlice]) -> list[Slices]:
    """Group slices of one acquisition and phase, sorted by acquisition and number."""
    groups: dict[object, Slices] = defaultdict(list)
    for one in sorted(slices, key=lambda each: (each.acquisition or 0, each.number or 0)):
        groups[one.acquisition, one.phase].append(one)
    return list(groups.values())


def overlap(one: Slices, other: Slices, normal: NDArray[np.float64]) -> bool:
    """Tell whether two groups show the same part of the patient."""
    (low, high), (other_low, other_high) = (ends(each, normal) for each in (one, other))
    return low <= other_high + SAME_PLACE_MM and other_low <= high + SAME_PLACE_MM


def ends(slices: Slices, normal: NDArray[np.float64]) -> tuple[float, float]:
    along = places(slices, normal)
    return float(along.min()), float(along.max())


def places(slices: Sequence[DicomSlice], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where slices lie along the normal, in mm."""
    along: NDArray[np.float64] = np.array([one.position_xyz for one in slices]) @ normal
    return along


def chain_groups(groups: Sequence[Slices], normal: NDArray[np.float64]) -> list[Slices]:
    """Put groups of one phase end to end as long as they do not overlap."""
    chains: list[list[Slices]] = []
    for group in groups:
        for chain in chains:
            is_same_phase = chain[0][0].phase == group[0].phase
            if is_same_phase and not any(overlap(group, link, normal) for link in chain):
                chain.append(group)
                break
        else:
            chains.append([group])
    return [[one for link in chain for one in link] for chain in chains]


def split_runs(slices: Slices, normal: NDArray[np.float64]) -> list[Slices]:
    """Split slices by the order of their numbers at each place, if all places have as many; else return them all."""
    if len({one.number for one in slices} - {None}) < len(slices):
        return [slices]
    at_places: dict[float, Slices] = defaultdict(list)
    in_order = sorted(slices, key=lambda each: each.number or 0)
    for one, place in zip(in_order, places(in_order, normal).round(2).tolist(), strict=True):
        at_places[place].append(one)
    if len({len(each) for each in at_places.values()}) > 1:
        return [slices]
    return [list(run) for run in zip(*at_places.values(), strict=True)]
