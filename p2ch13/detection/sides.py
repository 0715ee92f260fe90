"""In which lung a finding lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding

LEFT, RIGHT = "left", "right"
GRID_MM = 4.0  # spacing of the lung voxels that are looked at
MIDDLE = (0.2, 0.8)  # shares of the lungs' voxels, counted from the right, between which the mediastinum is looked for
DEEPEST = 0.6  # how much lung is left in the mediastinum, as a share of what is beside it


def find_sides(ct: Ct, findings: Sequence[Finding]) -> list[str | None]:
    """Tell for each finding whether the nearest lung is the patient's left or right one.

    Returns: None where that is not known: no lungs are found, or no mediastinum between two of them.
    """
    voxels = find_lung_voxels(ct)
    middle = None if voxels is None else find_middle(voxels[:, 0])
    if voxels is None or middle is None:
        return [None] * len(findings)
    nearest = [voxels[np.square(voxels - finding.center_xyz).sum(axis=1).argmin()] for finding in findings]
    return [LEFT if x > middle else RIGHT for x, _, _ in nearest]


def find_lung_voxels(ct: Ct) -> NDArray[np.float64] | None:
    """Return the position of lung voxels on a coarse grid in mm, patient coordinates: (voxel, 3)."""
    if ct.lungs is None:
        return None
    steps = [max(1, round(GRID_MM / size)) for size in ct.vx_size_xyz[::-1]]
    coarse = ct.lungs[tuple(slice(None, None, step) for step in steps)]
    if not coarse.any():
        return None
    cri = (np.argwhere(coarse) * steps)[:, ::-1]
    xyz: NDArray[np.float64] = cri * ct.vx_size_xyz @ ct.direction.T + ct.origin_xyz
    return xyz


def find_middle(x: NDArray[np.float64]) -> float | None:
    """Find the x between both lungs, where there is least lung; None if there is nowhere much less than beside it.

    Args: x: of the lungs' voxels.
    """
    first = x.min()
    counts = np.bincount(((x - first) / GRID_MM).round().astype(int))
    smooth = np.convolve(counts, np.ones(3) / 3, mode="same")
    low, high = np.searchsorted(np.cumsum(counts), np.array(MIDDLE) * counts.sum())
    place = int(low + smooth[low : high + 1].argmin())
    beside = min(smooth[: place + 1].max(), smooth[place:].max())
    return float(first + place * GRID_MM) if smooth[place] <= DEEPEST * beside else None
