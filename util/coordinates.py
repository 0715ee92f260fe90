"""Between patient coordinates (x, y, z in mm) and voxels (index, row, col)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


class IrcTuple(NamedTuple):
    """A voxel: slice index, row, column."""

    index: int  # type: ignore[assignment]  # the field's word, though tuple has a method of that name
    row: int
    col: int


class XyzTuple(NamedTuple):
    """A point in patient coordinates, mm."""

    x: float
    y: float
    z: float


def irc2xyz(
    coord_irc: Sequence[float], origin_xyz: ArrayLike, vx_size_xyz: ArrayLike, direction: ArrayLike
) -> XyzTuple:
    """xyz = origin + direction @ (size * cri).

    Args:
        coord_irc: index, row, col; fractions are allowed.
        origin_xyz: the centre of voxel (0, 0, 0), mm.
        vx_size_xyz: the voxel's size, mm.
        direction: 3x3, its columns the directions of col, row and index in the patient.
    Source: the ITK Software Guide, image geometry.
    """
    coord_cri = np.asarray(coord_irc, dtype=float)[::-1]
    return XyzTuple(*(np.asarray(direction) @ (coord_cri * np.asarray(vx_size_xyz)) + np.asarray(origin_xyz)).tolist())


def xyz2irc(
    coord_xyz: Sequence[float], origin_xyz: ArrayLike, vx_size_xyz: ArrayLike, direction: ArrayLike
) -> IrcTuple:
    """The voxel that holds a point: the inverse of `irc2xyz`, rounded to whole voxels."""
    offset_xyz = np.asarray(coord_xyz, dtype=float) - np.asarray(origin_xyz)
    coord_cri = np.linalg.solve(np.asarray(direction, dtype=float), offset_xyz) / np.asarray(vx_size_xyz)
    return IrcTuple(*(round(value) for value in coord_cri[::-1].tolist()))


def to_axial(voxels: NDArray[Scalar], direction: ArrayLike) -> NDArray[Scalar]:
    """The same voxels, as a view, in the order of most CT scans: slices from feet to head, rows to the back, cols left.

    That order is LPS, the patient coordinates' own; a scan that is turned at an angle comes as near to it as it can.

    Args:
        voxels: (index, row, col).
        direction: 3x3, its columns the directions of col, row and index in the patient.
    """
    cosines = np.asarray(direction, dtype=float)
    axes = axial_axes(cosines)
    backwards = [cosines[2 - place, 2 - axis] < 0 for place, axis in enumerate(axes)]
    view: NDArray[Scalar] = voxels.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in backwards)]
    return view


def axial_axes(direction: NDArray[np.float64]) -> tuple[int, ...]:
    """Which axis of an array (index, row, col) runs along the patient's z, which along y, which along x."""

    def agreement(axes: tuple[int, ...]) -> Any:
        return sum(abs(direction[2 - place, 2 - axis]) for place, axis in enumerate(axes))

    return max(permutations(range(3)), key=agreement)
