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
# Of different values, from which on they are measured ones: a drawn scan without noise may lack any kind of tissue.
MEASURED_VALUES = 60
LEAST_WIDTH_HU = 200  # of the values of a whole chest, whatever their unit; those of one tissue are closer together
TISSUE_HU = (-200, 200)  # soft tissue
LEAST_PADDED_HU = -300  # of HU + 1024 with noise, beside padding that is as thin as air


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
    if lacks_tissue(sample(voxels)) and lacks_tissue(voxels):
        warn_once(
            f"{header.path}: no soft tissue ({TISSUE_HU[0]} to {TISSUE_HU[1]} HU), as in a picture whose values were "
            "shifted. Is it in HU?"
        )
    if blank := find_blank_slices(voxels):
        numbers = f"{blank[0]} to {blank[-1]}" if len(blank) > 1 else str(blank[0])
        warn_once(
            f"{header.path}: {len(blank)} of {len(voxels)} slices, from {numbers}, hold one value each, and no air. "
            "Was it copied completely?"
        )


def find_blank_slices(voxels: NDArray[np.int16]) -> list[int]:
    """List the slices whose voxels are all alike and no air, as of a file that was not filled to its end."""
    middle = voxels.shape[1] // 2
    suspects = (ndx for ndx, plane in enumerate(voxels) if plane[middle, 0] > AIR_HU and is_constant(plane[middle]))
    return [ndx for ndx in suspects if is_constant(voxels[ndx])]


def is_constant(values: NDArray[np.int16]) -> bool:
    return bool((values == values.flat[0]).all())


def check_chest(path: Path, voxels: NDArray[np.int16]) -> None:
    """Refuse voxels that are no HU of a chest.

    Each slice of a chest shows air or lung, and nothing is less dense than air but padding outside of the field of
    view, of one value or two. Voxels, of any order of axes, are read on until they are found right.
    Raises: InputError, which says what the values look like.
    """
    if find_fault(sample(voxels)) and (fault := find_fault(voxels)):
        raise InputError(fault, path=path)


def sample(voxels: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return a few slices, spread over a scan."""
    step = max(1, len(voxels) // SLICES_LOOKED_AT)
    return voxels[step // 2 :: step]


def find_fault(voxels: NDArray[np.int16]) -> str | None:
    """Say what is wrong with voxels, at least one, and what helps; None if they can be HU of a chest."""
    counts = count_values(voxels)
    below, scanned = counts[: LOWEST_HU + 2**15], counts[LOWEST_HU + 2**15 :]
    if below.sum() - np.sort(below)[-2:].sum() > MOST_BELOW * voxels.size:
        share = f"{below.sum() / voxels.size:.0%} of its voxels are below {LOWEST_HU} HU"
        return f"{share}, so it is no CT scan, or was rescaled twice; convert it again, from its source"
    if scanned.sum() < LEAST_SCANNED * voxels.size:
        return None
    air = scanned[: AIR_HU - LOWEST_HU]
    if air.sum() < LEAST_AIR * scanned.sum():
        return describe_lack_of_air(scanned, LEAST_SHIFTED_HU)
    return find_false_air(scanned)


def count_values(voxels: NDArray[np.int16]) -> NDArray[np.int64]:
    """Count the voxels of each value, from -32768 on."""
    counts = np.zeros(2**16, dtype=np.int64)
    for plane in voxels:  # a scan is never copied to a larger type
        counts += np.bincount(plane.ravel().astype(np.int32) + 2**15, minlength=2**16)
    return counts


def find_false_air(counts: NDArray[np.int64]) -> str | None:
    """Say what is wrong if all air is padding, of one value or two, of a scan that is not in HU; else None."""
    air = counts[: AIR_HU - LOWEST_HU]
    padding = np.argsort(air)[-2:]
    rest = counts.copy()
    rest[padding] = 0
    if rest.sum() < LEAST_SCANNED * counts.sum() or np.count_nonzero(rest) < MEASURED_VALUES:
        return None
    low, high = find_range(rest)
    if low < LEAST_PADDED_HU or high - low < LEAST_WIDTH_HU:
        return None
    return describe_lack_of_air(rest, LEAST_PADDED_HU, ", beside padding")


def lacks_tissue(voxels: NDArray[np.int16]) -> bool:
    """Tell whether voxels are of many values, of which none is soft tissue's, as of a picture minus 1024."""
    counts = count_values(voxels)[LOWEST_HU + 2**15 :]
    low, high = (limit - LOWEST_HU for limit in TISSUE_HU)
    is_measured = bool(np.count_nonzero(counts) >= MEASURED_VALUES)
    return is_measured and bool(counts[low:high].sum() < LEAST_AIR * counts.sum())


def find_range(counts: NDArray[np.int64]) -> tuple[int, int]:
    """Find the range of values but for the rarest at both ends. Args: counts: of values from `LOWEST_HU` on."""
    shares = counts.cumsum() / counts.sum()
    low, high = np.searchsorted(shares, (LEAST_AIR, 1 - LEAST_AIR)) + LOWEST_HU
    return int(low), int(high)


def describe_lack_of_air(counts: NDArray[np.int64], lowest: int, beside: str = "") -> str:
    """Say what values without air or lung look like. Args: counts: of values from `LOWEST_HU` on."""
    values = np.flatnonzero(counts) + LOWEST_HU
    low, high = int(values[0]), int(values[-1])
    if low >= 0 and len(values) <= MASK_VALUES and high <= PICTURE_VALUES:
        names = ", ".join(map(str, values))
        return f"its values are {names}, so it is a mask, a label map or was normalized; give the scan itself, in HU"
    if low >= 0 and high <= PICTURE_VALUES:
        return f"values of {low} to {high}{beside}, as of a picture that was windowed; convert the scan again, to HU"
    more = ", as of HU + 1024 or another unit" if low >= lowest else ""
    return f"values of {low} to {high}{beside}, none of air or lung (below {AIR_HU} HU){more}; convert it again, to HU"
