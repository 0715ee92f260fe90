"""Real scans that `benchmarks.quality` scores, and that no part of the network in the package may be trained on.

    python -m benchmarks.held_out BACKGROUNDS

ends with an error if one of them is among the scans of a folder. `held_out.json` lists them. A scan is recognized by
its series UID, its file's name, and its voxels: whatever its name and format, and also if slices are missing, HU are
rounded to multiples of 4, or air around the body is overwritten. Cut or resampled slices are not recognized.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2ch13.config import HU_MAX, HU_MIN
from p2ch13.training.backgrounds import find_scans
from p2ch13.util.errors import InputError, run_command
from p2ch13.volumes.volume import Volume

LIST_FILE = Path(__file__).with_name("held_out.json")
BLOCKS, BLOCK_PIXELS = 3, 32  # along rows and cols, in the middle of a slice: inside of the body
LEAST_RANGE_HU = 200  # between the blocks of a slice that identifies a scan: soft tissue looks alike in all scans
TOLERANCE_HU = 3  # of a block's mean: rounding HU to multiples of 4 changes it by 2 at most


@dataclass(frozen=True)
class HeldOutScan:
    """A scan that is for measuring quality alone.

    Attributes: names: parts of series UIDs and file names, in lower case; slices: means of blocks, (slice, 9), in HU.
    """

    title: str
    names: tuple[str, ...]
    slices: NDArray[np.int64]


def main(sys_argv: Sequence[str] | None = None) -> None:
    """Raises: InputError for a scan that is held out, or a folder without scans."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.held_out", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backgrounds", type=Path, help="folder of scans to train on")
    refuse_test_series(parser.parse_args(sys_argv).backgrounds)


def refuse_test_series(backgrounds: Path, list_file: Path = LIST_FILE) -> None:
    """Raises: InputError, naming the file, if a scan of a folder is one of those that quality is measured on."""
    held_out = read_held_out(list_file)
    for each in find_scans(backgrounds).values():
        volume = Volume(each.path, each.series_uid)
        found = find_same(volume, each.name, held_out)
        if found is not None:
            raise InputError(
                f"it is {found.title}, which benchmarks.quality scores; remove it from the backgrounds", path=each.path
            )


def find_same(volume: Volume, name: str, held_out: Sequence[HeldOutScan]) -> HeldOutScan | None:
    """Find the held-out scan that a scan is, by its names or a slice; None: it is none of them."""
    names = (volume.series_uid.lower(), name.lower())
    for scan in held_out:
        if any(part in each for part in scan.names for each in names):
            return scan
    slices = describe_slices(volume)
    for scan in held_out:
        difference_hu = np.abs(slices[:, None] - scan.slices[None]).max(axis=2)  # (slice, held-out slice)
        if (difference_hu <= TOLERANCE_HU).any():
            return scan
    return None


def describe_slices(volume: Volume) -> NDArray[np.int64]:
    """Compute the means of the blocks in the middle of each slice, in HU: (slice, 9).

    Slices whose blocks are all alike are left out, and so are all slices with fewer pixels.
    """
    width = BLOCKS * BLOCK_PIXELS
    first_row, first_col = ((size - width) // 2 for size in volume.shape_irc[1:])
    if min(first_row, first_col) < 0:
        return np.empty((0, BLOCKS**2), dtype=np.int64)
    middle = volume.hu[:, first_row : first_row + width, first_col : first_col + width].clip(HU_MIN, HU_MAX)
    blocks = middle.reshape(-1, BLOCKS, BLOCK_PIXELS, BLOCKS, BLOCK_PIXELS)
    means = blocks.mean(axis=(2, 4), dtype=np.float64).reshape(-1, BLOCKS**2).round().astype(np.int64)
    described: NDArray[np.int64] = means[np.ptp(means, axis=1) >= LEAST_RANGE_HU]
    return described


def read_held_out(path: Path = LIST_FILE) -> list[HeldOutScan]:
    """Read the list of held-out scans."""
    return [
        HeldOutScan(title, tuple(values["names"]), np.array(values["slices"], dtype=np.int64).reshape(-1, BLOCKS**2))
        for title, values in json.loads(path.read_text(encoding="utf-8")).items()
    ]


if __name__ == "__main__":
    run_command(main)
