"""Opening and growing masks; what an array cuts off counts as going on beyond it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

Mask = NDArray[np.bool_]  # (index, row, col)


def open_by_cross(mask: Mask, radii_irc: Sequence[int]) -> Mask:
    """The mask without what is thinner than a cross of so many voxels to each side."""
    opened = sitk.BinaryMorphologicalOpening(as_image(mask), list(radii_irc[::-1]), sitk.sitkCross)
    return sitk.GetArrayFromImage(opened).astype(bool)


def grow_by_cross(mask: Mask, radii_irc: Sequence[int]) -> Mask:
    """The mask and its neighbours, over faces."""
    grown = sitk.BinaryDilate(as_image(mask), list(radii_irc[::-1]), sitk.sitkCross)
    return sitk.GetArrayFromImage(grown).astype(bool)


def open_by_ball(mask: Mask, radius_mm: float, vx_size_irc: ArrayLike) -> Mask:
    """Of the mask what balls of this radius fill that fit into it; a large radius takes no longer."""
    centers = mask if mask.all() else distance_to(~mask, vx_size_irc) > radius_mm
    return distance_to(centers, vx_size_irc) <= radius_mm if centers.any() else centers


def distance_to(mask: Mask, vx_size_irc: ArrayLike) -> NDArray[np.float32]:
    """Of each voxel to the nearest one of the mask, in mm, from centre to centre; the mask must not be empty."""
    image = as_image(mask)
    image.SetSpacing(np.asarray(vx_size_irc, dtype=float)[::-1].tolist())
    signed = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return sitk.GetArrayFromImage(signed).clip(min=0)  # negative in the mask


def as_image(mask: Mask) -> sitk.Image:
    return sitk.GetImageFromArray(mask.astype(np.uint8))
