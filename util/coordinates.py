"""Conversion between patient coordinates (x, y, z in mm) and voxels (index, row, col)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


class IrcTuple(NamedTuple):
    """A voxel: slice index, row, column."""

    index: int  # type: ignore[assignment]  # the book's name, although tuple has a method `index`
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
    """Convert a voxel to patient coordinates: xyz = origin + direction @ (size * cri).

    Args:
        coord_irc: index, row, col; fractions are allowed.
        origin_xyz: the center of voxel (0, 0, 0), mm.
        vx_size_xyz: mm.
        direction: 3x3, its columns the directions of col, row and index in the patient.
    Source: the ITK Software Guide, image geometry.
    """
    coord_cri = np.asarray(coord_irc, dtype=float)[::-1]
    return XyzTuple(*(np.asarray(direction) @ (coord_cri * np.asarray(vx_size_xyz)) + np.asarray(origin_xyz)).tolist())


def xyz2irc(
    coord_xyz: Sequence[float], origin_xyz: ArrayLike, vx_size_xyz: ArrayLike, direction: ArrayLike
) -> IrcTuple:
    """Find the voxel that contains a point: the inverse of `irc2xyz`, rounded."""
    offset_xyz = np.asarray(coord_xyz, dtype=float) - np.asarray(origin_xyz)
    coord_cri = np.linalg.solve(np.asarray(direction, dtype=float), offset_xyz) / np.asarray(vx_size_xyz)
    return IrcTuple(*(round(value) for value in coord_cri[::-1].tolist()))


class AxialOrder(NamedTuple):
    """The turn of a stored array into axial order: slices from feet to head, rows to the back, columns to the left.

    That order is LPS, as in patient coordinates; for an oblique scan it is the nearest one.

    Attributes:
        axes: the stored axes that run along the patient's z, y and x.
        backwards: for each of them, whether it runs to the feet, the front or the right.
    """

    axes: tuple[int, ...]
    backwards: tuple[bool, ...]

    @classmethod
    def of(cls, direction: ArrayLike) -> AxialOrder:
        """Args: direction: 3x3, its columns the directions of col, row and index in the patient."""
        cosines = np.asarray(direction, dtype=float)

        def agreement(axes: tuple[int, ...]) -> Any:
            return sum(abs(cosines[2 - place, 2 - axis]) for place, axis in enumerate(axes))

        axes = max(permutations(range(3)), key=agreement)
        return cls(axes, tuple(bool(cosines[2 - place, 2 - axis] < 0) for place, axis in enumerate(axes)))

    @property
    def _flips(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.backwards)

    def to_axial(self, voxels: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return a view of a stored array (index, row, col) in axial order."""
        view: NDArray[Scalar] = voxels.transpose(self.axes)[self._flips]
        return view

    def to_stored(self, voxels: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return a view of an axial array in stored order: the inverse of `to_axial`."""
        view: NDArray[Scalar] = voxels[self._flips].transpose(np.argsort(self.axes))
        return view
