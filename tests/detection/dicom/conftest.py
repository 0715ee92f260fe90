"""A scan with findings of all shapes, and the objects that are written of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from p2ch13.data.ct import Ct
from p2ch13.detection.dicom.objects import Nodule
from p2ch13.detection.dicom.writer import ENDINGS, DicomWriter
from p2ch13.detection.findings import find_marked
from p2ch13.detection.measure import Axes, Diameter, Measures
from tests.support.scan_files import LUNG_HU, TISSUE_HU, Ball, ball_mask, make_hu

SHAPE_IRC = (8, 22, 25)  # an odd number of pixels, so that frames share bytes
LINE = ((0.0, 0.0), (1.0, 1.0))


class Written(NamedTuple):
    """The objects of a series, by their options, and what they were written of; labels are as stored."""

    ct: Ct
    stored: np.ndarray
    nodules: list[Nodule]
    paths: dict[str, Path]


@pytest.fixture
def hu() -> np.ndarray:
    """A hollow ball, a ball, a ring as thin as a pixel at the last row and col, and a voxel in the first corner."""
    hu = make_hu([Ball((3, 8, 9), 4), Ball((4, 16, 18), 2)], SHAPE_IRC)
    hu[ball_mask(Ball((3, 8, 9), 2), SHAPE_IRC)] = LUNG_HU
    hu[6, -3:, -3:] = TISSUE_HU
    hu[6, -2, -2] = LUNG_HU
    hu[0, 0, 0] = TISSUE_HU
    return hu


def make_measures(number: int, volume_mm3: float) -> Measures:
    axes = Axes(3, Diameter(10.04 + number, LINE), Diameter(7.28 + number, LINE))
    return Measures(axes, volume_mm3, -123.4 - number, "solid", None, math.nan, False)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Written]:
    """Write the objects of a series: all of `ENDINGS`, of all voxels that are denser than lung."""

    def write(
        scan: Path,
        objects: Sequence[str] = tuple(ENDINGS),
        is_marked: Callable[[np.ndarray], np.ndarray] = lambda hu: hu > -700,
    ) -> Written:
        ct = Ct(scan)
        writer = DicomWriter.of(ct, objects, ["seg.best"])
        assert writer is not None
        labels, findings = find_marked(ct, is_marked(ct.hu))
        nodules = [
            Nodule(each, make_measures(each.number, each.volume_mm3), ("left", "right", None)[ndx % 3], f"2.25.7{ndx}")
            for ndx, each in enumerate(findings)
        ]
        writer.write(tmp_path / "found", ct.as_stored(labels), nodules)
        paths = {option: tmp_path / f"found{ENDINGS[option]}" for option in objects}
        assert sorted(tmp_path.glob("found*")) == sorted(paths.values())
        return Written(ct, np.array(ct.as_stored(labels)), nodules, paths)

    return write
