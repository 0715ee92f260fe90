"""Opening and dilation of masks. Erosion treats voxels beyond the array as part of the mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]  # (index, row, col)


def open_by_cross(mask: Mask, radii_irc: Sequence[int]) -> Mask:
    """Open a mask with a cross; each radius is 0 or 1 voxel. `ndimage.binary_opening` would erode at the border."""
    cross = make_cross(radii_irc)
    opened: Mask = ndimage.binary_dilation(ndimage.binary_erosion(mask, cross, border_value=1), cross)
    return opened


def dilate_by_cross(mask: Mask, radii_irc: Sequence[int]) -> Mask:
    """Add the voxels that share a face with the mask, along axes of radius 1 and not along those of radius 0."""
    dilated: Mask = ndimage.binary_dilation(mask, make_cross(radii_irc))
    return dilated


def make_cross(radii_irc: Sequence[int]) -> Mask:
    cross: Mask = ndimage.generate_binary_structure(3, 1)[tuple(slice(1 - radius, 2 + radius) for radius in radii_irc)]
    return cross


def open_by_ball(mask: Mask, radius_mm: float, vx_size_irc: ArrayLike) -> Mask:
    """Open a mask with a ball; the time does not depend on the radius."""
    centers = mask if mask.all() else distance_to(~mask, vx_size_irc) > radius_mm
    return distance_to(centers, vx_size_irc) <= radius_mm if centers.any() else centers


def distance_to(mask: Mask, vx_size_irc: ArrayLike) -> NDArray[np.float32]:
    """Compute the distance in mm from each voxel's center to that of the nearest voxel of a mask that is not empty.

    In a box of 40 x 100 x 100 voxels, `ndimage.distance_transform_edt` takes 1.3 times as long as SimpleITK.
    """
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(np.asarray(vx_size_irc, dtype=float)[::-1].tolist())
    signed = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return sitk.GetArrayFromImage(signed).clip(min=0)  # negative in the mask
