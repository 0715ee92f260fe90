"""Made-up scans and crops: any number, of any size, with nothing to see in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from p2ch13.cache import CtCache
from p2ch13.candidates import CandidateInfoTuple
from p2ch13.config import CROP_WIDTH_IRC, Folders
from util.coordinates import IrcTuple, XyzTuple

LUNA16_SERIES, LUNA16_NODULES = 888, 1186


def write_made_up_scans(
    data_dir: Path,
    series_list: list[str],
    shape_irc: tuple[int, int, int],
    centers: list[tuple[int, int, int]],
    candidate_count: int = 0,
) -> None:
    """Scans of lung with a cube of tissue around each centre, and their CSV files; voxels are cubes of a millimetre.

    All are links to the voxels of one, so that many of them take no more room.
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
    rows = [f"{uid},{col},{row},{index},7" for uid in series_list for index, row, col in centers]
    (data_dir / "annotations.csv").write_text("\n".join(["seriesuid,coordX,coordY,coordZ,diameter_mm", *rows]) + "\n")
    places = np.random.default_rng(0).integers(0, shape_irc, size=(candidate_count, 3))
    rows = [f"{uid},{col},{row},{index},0" for uid in series_list for index, row, col in places]
    (data_dir / "candidates.csv").write_text("\n".join(["seriesuid,coordX,coordY,coordZ,class", *rows]) + "\n")


class MadeUpCache(CtCache):
    """The crops of any number of nodules, without scans: noise, cut out of one block at places that depend on them."""

    nodule_count = LUNA16_NODULES

    def __init__(self, folders: Folders) -> None:
        self.folder = folders.cache_dir
        self.series_list = [f"1.2.{ndx}" for ndx in range(LUNA16_SERIES)]
        self.nodules = {uid: [] for uid in self.series_list}
        for ndx in range(self.nodule_count):
            series_uid = self.series_list[ndx % LUNA16_SERIES]
            self.nodules[series_uid].append(
                CandidateInfoTuple(True, True, None, 5.0, series_uid, XyzTuple(float(ndx), 0.0, 0.0))
            )
        rng = np.random.default_rng(0)
        self.noise = rng.integers(-1000, 0, size=(CROP_WIDTH_IRC[0], 96, 96 + 512), dtype=np.int16)

    def get_ct_raw_candidate(self, series_uid: str, center_xyz: Any, width_irc: tuple[int, int, int]) -> Any:
        start = int(center_xyz[0]) % 512
        ct_chunk = self.noise[:, :, start : start + 96]
        return ct_chunk, ct_chunk > -100, IrcTuple(3, 48, 48)
