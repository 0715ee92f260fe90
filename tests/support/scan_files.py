"""Tiny scans in the LUNA16 layout: lung at -900 HU with balls of tissue at 0 HU in it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.util.coordinates import XyzTuple, irc2xyz

LUNG_HU, TISSUE_HU = -900, 0
SHAPE_IRC = (16, 100, 104)
VX_SIZE_XYZ = (0.7, 0.7, 1.5)
ORIGIN_XYZ = (-30.0, -40.0, 200.0)
IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)
POSITION = ("seriesuid", "coordX", "coordY", "coordZ")  # columns of all CSV files


class Ball(NamedTuple):
    """A nodule of a tiny scan: its center and radius in voxels."""

    center_irc: tuple[int, int, int]
    radius: int

    @property
    def diameter_mm(self) -> float:
        return 2 * self.radius * VX_SIZE_XYZ[0]


def ball_mask(ball: Ball, shape_irc: Sequence[int] = SHAPE_IRC) -> np.ndarray:
    grid = np.ogrid[tuple(slice(0, size) for size in shape_irc)]
    index, row, col = ((axis - center) ** 2 for axis, center in zip(grid, ball.center_irc, strict=True))
    is_ball: np.ndarray = index + row + col <= ball.radius**2
    return is_ball


def make_hu(balls: Iterable[Ball], shape_irc: Sequence[int] = SHAPE_IRC) -> np.ndarray:
    hu = np.full(shape_irc, LUNG_HU, dtype=np.int16)
    for ball in balls:
        hu[ball_mask(ball, shape_irc)] = TISSUE_HU
    return hu


def make_chest(shape_irc: Sequence[int] = (8, 96, 128), vx_size_mm: float = 3.0) -> np.ndarray:
    """A body with two lungs, a trachea between them, on a table of foam in a shell; all of it goes through all slices.

    Rows go to the back. With voxels of 3 mm, the lungs are ellipses of 72 x 120 mm around row 40, cols 42 and 86.
    """
    _, rows, cols = shape_irc
    row, col = (axis * vx_size_mm for axis in np.ogrid[:rows, :cols])

    def ellipse(center_row: float, center_col: float, height: float, width: float) -> np.ndarray:
        return ((row - center_row) / (height / 2)) ** 2 + ((col - center_col) / (width / 2)) ** 2 <= 1

    hu = np.full((rows, cols), -1000, dtype=np.int16)  # the room
    hu[ellipse(120, 192, 180, 300)] = 40
    for center_col in (126, 258):
        hu[ellipse(120, center_col, 120, 72)] = -860
    hu[ellipse(90, 192, 18, 18)] = -1000  # trachea
    table = (row > 222) & (row < 258) & (col > 30) & (col < 354)
    hu[np.broadcast_to(table, hu.shape)] = 100
    hu[np.broadcast_to(table & (row > 225) & (row < 255) & (col > 33) & (col < 351), hu.shape)] = -880  # foam
    return np.repeat(hu[np.newaxis], shape_irc[0], axis=0)


def write_scan(
    path: Path,
    hu: np.ndarray,
    direction: Sequence[float] = IDENTITY,
    compress: bool = False,
    vx_size_xyz: Sequence[float] = VX_SIZE_XYZ,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(vx_size_xyz)
    image.SetOrigin(ORIGIN_XYZ)
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path), useCompression=compress)
    return path


def write_turned(path: Path, orientation: str, scan_path: Path) -> Path:
    """Write a scan again in another order of axes, each voxel where it was.

    Args: orientation: where col, row and index run to, such as LPS: left, posterior, superior.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(scan_path)), orientation), str(path))
    return path


# Axial as in LUNA16, its turned scans, from head to feet, rows mirrored, sagittal, coronal, and mirrored ones of these.
ORIENTATIONS = ("LPS", "RAS", "LPI", "LAS", "PIR", "RSA", "ASL", "LIP")


def to_xyz(center_irc: Sequence[int], direction: Sequence[float] = IDENTITY) -> XyzTuple:
    return irc2xyz(center_irc, ORIGIN_XYZ, VX_SIZE_XYZ, np.reshape(direction, (3, 3)))


def as_nodule(series_uid: str, ball: Ball, direction: Sequence[float] = IDENTITY) -> CandidateInfoTuple:
    center_xyz = to_xyz(ball.center_irc, direction)
    return CandidateInfoTuple(True, True, False, ball.diameter_mm, series_uid, center_xyz)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_luna(data_dir: Path, scans: dict[str, list[Ball]], shape_irc: Sequence[int] = SHAPE_IRC) -> Path:
    """Scans, annotations and candidates; the CSV files also name scans that are not there."""
    for series_uid, balls in scans.items():
        write_scan(data_dir / "subset0" / f"{series_uid}.mhd", make_hu(balls, shape_irc))
    nodules = [(uid, *to_xyz(ball.center_irc), ball.diameter_mm) for uid, balls in scans.items() for ball in balls]
    nodules.append(("1.9.9", 0.0, 0.0, 0.0, 5.0))
    write_csv(data_dir / "annotations.csv", [*POSITION, "diameter_mm"], nodules)
    write_csv(
        data_dir / "annotations_with_malignancy.csv",
        [*POSITION, "diameter_mm", "mal_bool", "mal_details"],
        [(*nodule, ndx % 2 == 0, "[3, 3, 3]") for ndx, nodule in enumerate(nodules)],
    )
    centers = [(*to_xyz((8, 20 + ndx, 90)), is_nodule) for ndx, is_nodule in enumerate([0, 1, 0])]
    rows = [(uid, *center) for uid in [*scans, "1.9.9"] for center in centers]
    write_csv(data_dir / "candidates.csv", [*POSITION, "class"], rows)
    return data_dir


# Four series, 1.2.0 to 1.2.3; with a stride of 2, 1.2.0 and 1.2.2 are for validation.
TINY_SCANS = {
    "1.2.0": [Ball((8, 50, 52), 5), Ball((4, 20, 30), 3)],
    "1.2.1": [Ball((7, 40, 60), 6)],
    "1.2.2": [Ball((9, 60, 40), 4)],
    "1.2.3": [Ball((8, 55, 50), 5), Ball((1, 30, 70), 3)],
}


def write_subsets(data_dir: Path, scans: dict[str, list[Ball]], count: int, shape_irc: Sequence[int]) -> Path:
    """Write scans in LUNA16's layout, one after the other into so many subsets."""
    write_luna(data_dir, scans, shape_irc)
    for ndx, series_uid in enumerate(scans):
        folder = data_dir / f"subset{ndx % count}"
        folder.mkdir(exist_ok=True)
        for path in (data_dir / "subset0").glob(f"{series_uid}.*"):
            path.rename(folder / path.name)
    return data_dir
