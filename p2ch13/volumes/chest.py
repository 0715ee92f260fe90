"""The check that each scan passes before anything is made of it: can its voxels be HU of a chest?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2ch13.util.errors import InputError
from p2ch13.volumes.headers import ScanHeader, format_mm, warn_once

CHEST_IN_CM = (20.0, 60.0)  # a chest's width and depth, read as mm
SLICES_LOOKED_AT = 5  # spread over the scan; if they do not suffice, all of it
LOWEST_HU, AIR_HU = -1400, -500  # air, with noise, and lung lie between
LEAST_AIR = 1e-3  # of the voxels in the scanned field of view
LEAST_SCANNED = 0.1  # of all voxels, for their share of air to tell anything
MOST_BELOW = 0.05  # of all voxels: below the lowest, and of other values than the two most frequent ones there
LEAST_SHIFTED_HU = -100  # with noise
PICTURE_VALUES = 255
MASK_VALUES = 20  # a mask has few, and small ones


def check_scan(header: ScanHeader, voxels: NDArray[np.int16]) -> None:
    """Check what a scan's header cannot tell by itself, once its voxels are used.

    Args: voxels: (index, row, col), of any order of axes.
    Raises: InputError, see `check_chest`.
    """
    check_chest(header.path, voxels)
    extent = header.vx_size_xyz * header.shape_irc[::-1]
    low, high = CHEST_IN_CM
    if low <= np.sort(extent)[1] <= high:
        warn_once(f"{header.path}: only {format_mm(extent)} mm. Is its voxel size in cm, not in mm?")


def check_chest(path: Path, voxels: NDArray[np.int16]) -> None:
    """Refuse voxels that are no HU of a chest.

    Each slice of a chest shows air or lung, and nothing is less dense than air but padding outside of the field of
    view, of one value or two. Voxels, of any order of axes, are read on until they are found right.
    Raises: InputError, which says what the values look like.
    """
    step = max(1, len(voxels) // SLICES_LOOKED_AT)
    if find_fault(voxels[step // 2 :: step]) and (fault := find_fault(voxels)):
        raise InputError(fault, path=path)


def find_fault(voxels: NDArray[np.int16]) -> str | None:
    """Say what is wrong with voxels, at least one, and what helps; None if they can be HU of a chest."""
    counts = np.zeros(2**16, dtype=np.int64)  # of -32768, -32767, ...
    for plane in voxels:  # a scan is never copied to a larger type
        counts += np.bincount(plane.ravel().astype(np.int32) + 2**15, minlength=2**16)
    below, scanned = counts[: LOWEST_HU + 2**15], counts[LOWEST_HU + 2**15 :]
    if below.sum() - np.sort(below)[-2:].sum() > MOST_BELOW * voxels.size:
        share = f"{below.sum() / voxels.size:.0%} of its voxels are below {LOWEST_HU} HU"
        return f"{share}, so it is no CT scan, or was rescaled twice; convert it again, from its source"
    air_count = scanned[: AIR_HU - LOWEST_HU].sum()
    if scanned.sum() < LEAST_SCANNED * voxels.size or air_count >= LEAST_AIR * scanned.sum():
        return None
    values = np.flatnonzero(scanned) + LOWEST_HU
    low, high = int(values[0]), int(values[-1])
    if low >= 0 and len(values) <= MASK_VALUES and high <= PICTURE_VALUES:
        return f"its values are {', '.join(map(str, values))}, so it is a mask or a label map; give the scan itself"
    if low >= 0 and high <= PICTURE_VALUES:
        return f"values of {low} to {high}, as of a picture that was windowed; convert the scan again, to HU"
    more = ", as of HU + 1024 or another unit" if low >= LEAST_SHIFTED_HU else ""
    return f"values of {low} to {high}, none of air or lung (below {AIR_HU} HU){more}; convert it again, to HU"
