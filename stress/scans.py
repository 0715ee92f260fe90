"""Thousands of small scans in the LUNA16 layout: lung with a ball of tissue."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from p2ch13.phantom.dataset import ANNOTATION_COLUMNS, CANDIDATE_COLUMNS
from p2ch13.util.files import write_csv

SHAPE_IRC = (12, 64, 64)
VX_SIZE_MM = 1.0
LUNG_HU, TISSUE_HU, NOISE_HU = -880, 20, 30
SUBSET_COUNT = 10
CANDIDATE_COUNT = 6  # candidates of each scan that are not nodules
HEADER = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = {spacing} {spacing} {spacing}
DimSize = {cols} {rows} {slices}
ElementType = MET_SHORT
ElementDataFile = {name}.raw
"""


def write_scans(data_dir: Path, count: int, rng: np.random.Generator) -> dict[str, Path]:
    """Write scans of one nodule each, and the CSV files. Returns: series UID -> header file, sorted."""
    slices, rows, cols = SHAPE_IRC
    scans: dict[str, Path] = {}
    nodules, candidates = [], []
    for subset in range(SUBSET_COUNT):
        (data_dir / f"subset{subset}").mkdir(parents=True)
    for ndx in range(count):
        uid = f"1.2.{100_000 + ndx}"  # all of one length, so that none contains another
        path = scans[uid] = data_dir / f"subset{ndx % SUBSET_COUNT}" / f"{uid}.mhd"
        radius = int(rng.integers(3, 6))
        center_irc = rng.integers(radius, np.array(SHAPE_IRC) - radius)
        path.with_suffix(".raw").write_bytes(make_hu(center_irc, radius, rng).astype("<i2").tobytes())
        path.write_text(HEADER.format(spacing=VX_SIZE_MM, cols=cols, rows=rows, slices=slices, name=uid))
        center_xyz = (center_irc[::-1] * VX_SIZE_MM).tolist()
        nodules.append((uid, *center_xyz, 2 * radius * VX_SIZE_MM))
        candidates.append((uid, *center_xyz, 1))
        others = rng.uniform(0, (np.array(SHAPE_IRC) - 1)[::-1] * VX_SIZE_MM, size=(CANDIDATE_COUNT, 3)).round(3)
        candidates += [(uid, *xyz, 0) for xyz in others.tolist()]
    write_csv(data_dir / "annotations.csv", ANNOTATION_COLUMNS, nodules)
    write_csv(data_dir / "candidates.csv", CANDIDATE_COLUMNS, candidates)
    return scans


def make_hu(center_irc: np.ndarray, radius: int, rng: np.random.Generator) -> np.ndarray:
    """(index, row, col) int16."""
    distances = (np.arange(size) - center for size, center in zip(SHAPE_IRC, center_irc, strict=True))
    index, row, col = np.ix_(*(distance**2 for distance in distances))
    hu = rng.integers(-NOISE_HU, NOISE_HU, SHAPE_IRC, dtype=np.int16)
    hu += np.where(index + row + col <= radius**2, TISSUE_HU, LUNG_HU).astype(np.int16)
    return hu
