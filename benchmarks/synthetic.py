"""Synthetic scans and crops: any number, of any size, without anatomy."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ch13.config import CROP_WIDTH_IRC, HU_MIN
from p2ch13.data.cache import CtCache
from p2ch13.phantom.dataset import ANNOTATION_COLUMNS, CANDIDATE_COLUMNS
from p2ch13.util.coordinates import IrcTuple
from p2ch13.util.files import write_csv

LUNA16_SERIES, LUNA16_NODULES = 888, 1186
START_COUNT = 512  # columns at which crops of noise begin
SMOKE_NOTE = "A smoke test on tiny data: the figures mean nothing."


def write_synthetic_scans(
    data_dir: Path,
    series_list: list[str],
    shape_irc: tuple[int, int, int],
    centers: Sequence[tuple[int, int, int]],
    candidate_count: int = 0,
) -> None:
    """Write scans of lung with a cube of tissue around each center, and their CSV files; voxels of 1 mm.

    All scans link to the voxels of one, so that many take no more space.
    """
    hu = np.full(shape_irc, -900, dtype="<i2")
    for index, row, col in centers:
        hu[max(index - 3, 0) : index + 4, row - 3 : row + 4, col - 3 : col + 4] = 0
    folder = data_dir / "subset0"
    folder.mkdir(parents=True)
    first_path = folder / f"{series_list[0]}.raw"
    first_path.write_bytes(hu.tobytes())
    for series_uid in series_list:
        path = folder / f"{series_uid}.raw"
        if path != first_path:
            path.hardlink_to(first_path)
        (folder / f"{series_uid}.mhd").write_text(
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
            "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
            f"DimSize = {shape_irc[2]} {shape_irc[1]} {shape_irc[0]}\nElementType = MET_SHORT\n"
            f"ElementDataFile = {series_uid}.raw\n"
        )
    nodules = [(uid, col, row, index, 7) for uid in series_list for index, row, col in centers]
    write_csv(data_dir / "annotations.csv", ANNOTATION_COLUMNS, nodules)
    places = np.random.default_rng(0).integers(0, shape_irc, size=(candidate_count, 3)).tolist()
    candidates = [(uid, col, row, index, 0) for uid in series_list for index, row, col in places]
    write_csv(data_dir / "candidates.csv", CANDIDATE_COLUMNS, candidates)


def write_many_nodules(data_dir: Path, series_list: list[str], nodule_count: int) -> None:
    """Write tiny scans with any number of nodules between them, for `SyntheticCache`."""
    per_series = math.ceil(nodule_count / len(series_list))
    write_synthetic_scans(data_dir, series_list, shape_irc=(8, 16, max(16, per_series)), centers=[])
    nodules = [(series_list[ndx % len(series_list)], ndx // len(series_list), 8, 4, 5) for ndx in range(nodule_count)]
    write_csv(data_dir / "annotations.csv", ANNOTATION_COLUMNS, nodules)


class SyntheticCache(CtCache):
    """Crops of noise, cut out of one block at a column that depends on series and center; all else is `CtCache`."""

    @cached_property
    def noise(self) -> NDArray[np.int16]:
        """HU, (7, 96, 96 + START_COUNT)."""
        shape = (*CROP_WIDTH_IRC[:2], CROP_WIDTH_IRC[2] + START_COUNT)
        return np.random.default_rng(0).integers(HU_MIN, 0, size=shape, dtype=np.int16)

    def get_ct_raw_candidate(
        self, series_uid: str, center_xyz: Sequence[float], *args: Any, **kwargs: Any
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_], IrcTuple]:
        start = zlib.crc32(repr((series_uid, tuple(center_xyz))).encode()) % START_COUNT
        ct_chunk = self.noise[:, :, start : start + CROP_WIDTH_IRC[2]]
        return ct_chunk, ct_chunk > -100, IrcTuple(*(width // 2 for width in CROP_WIDTH_IRC))

    def is_complete(self, *args: Any, **kwargs: Any) -> bool:
        return True
