"""A folder of backgrounds: chests with lungs of -860 HU, and lesions in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from p2ch13.training.backgrounds import Background, read_backgrounds
from p2ch13.util.coordinates import irc2xyz
from tests.support.scan_files import ORIGIN_XYZ, make_chest, write_csv, write_scan

VX_SIZE_XYZ = (3.0, 3.0, 3.0)
LUNG_IRC = (4, 40, 42)  # the middle of a lung, 36 mm from its left and right
LESION_COLUMNS = ("series", "coordX", "coordY", "coordZ", "diameter_mm")


def to_xyz(center_irc: Sequence[float]) -> tuple[float, float, float]:
    return irc2xyz(center_irc, ORIGIN_XYZ, VX_SIZE_XYZ, np.eye(3))


def write_backgrounds(folder: Path, names: Sequence[str] = ("a", "b")) -> Path:
    for name in names:
        noise = np.random.default_rng(ord(name[0])).normal(0, 20, make_chest().shape)
        write_scan(folder / f"{name}.nii.gz", (make_chest() + noise).astype(np.int16), vx_size_xyz=VX_SIZE_XYZ)
    return folder


def write_lesions(folder: Path, lesions: Sequence[tuple[str, Sequence[float], float]]) -> Path:
    """Args: lesions: scan, center in voxels, diameter in mm."""
    rows = [(name, *to_xyz(center_irc), diameter_mm) for name, center_irc, diameter_mm in lesions]
    return write_csv(folder / "known_lesions.csv", LESION_COLUMNS, rows)


def read_one(tmp_path: Path, lesions: Sequence[tuple[Sequence[float], float]] = ()) -> Background:
    folder = write_backgrounds(tmp_path / "lungs", ["a"])
    write_lesions(folder, [("a", center_irc, diameter_mm) for center_irc, diameter_mm in lesions])
    (background,) = read_backgrounds(folder, tmp_path / "maps", 0.0)
    return background
