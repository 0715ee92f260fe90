"""Whole scans with painted nodules: for the second stage, and as a data set to look at and to score."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2ch13.commands import spell
from p2ch13.config import PaintOptions
from p2ch13.data.ct import Ct
from p2ch13.detection.outputs import write_image
from p2ch13.labels.candidates import ANNOTATIONS_FILE, EXCLUDED_FILE, CandidateInfoTuple
from p2ch13.labels.patients import PATIENT_COLUMNS, PATIENTS_FILE
from p2ch13.labels.tables import POSITION_COLUMNS
from p2ch13.training.backgrounds import Background, read_backgrounds
from p2ch13.training.painter import Painter, is_visible, measure_axes
from p2ch13.training.painting import draw_nodule, paint_nodule
from p2ch13.training.shapes import find_shapes
from p2ch13.util.boxes import box_of, pad_box, starts_of
from p2ch13.util.errors import InputError
from p2ch13.util.files import write_csv
from p2ch13.util.outcome import Outcome
from p2ch13.util.progress import progress_bar

log = logging.getLogger(__name__)

ML_PER_NODULE = 120.0  # of lung
APART_MM = 6.0  # between the surfaces of two nodules
TRIES = 30  # for each nodule
IMAGES, MASKS = "images", "masks"
SIZE_COLUMN = "diameter_mm"


def paint(options: PaintOptions) -> Outcome:
    """Paint the scans of a folder, see `write_painted_scans`, and say what to do with them.

    Raises: InputError for backgrounds, shapes or an output folder that cannot be used.
    """
    check_empty(options.output)
    backgrounds = read_backgrounds(options.backgrounds, options.output, slice_spacing_mm=0)
    painter = Painter(find_shapes(options.nodule_shapes, options.held_out))
    range_mm = options.smallest, options.largest
    count = write_painted_scans(backgrounds, painter, options.output, options.copies, range_mm, options.seed)
    scan_count = len(backgrounds) * options.copies
    next_command = spell("evaluate", "--data-dir", str(options.output), "--labels", "mask", "--all")
    lines = [
        f"Painted {count} nodules into {scan_count} scans.",
        f"Scans, masks and lists of nodules: {options.output}",
        f"Next: {next_command}",
    ]
    return Outcome(lines, {"folder": options.output, "scans": scan_count, "nodules": count})


class PaintedScan(NamedTuple):
    """A background with new nodules."""

    hu: NDArray[np.int16]  # (index, row, col)
    mask: NDArray[np.bool_]
    nodules: list[CandidateInfoTuple]  # the mean of each one's voxels, and the diameter of what the wall does not hide


def paint_scan(
    background: Background, painter: Painter, rng: np.random.Generator, sizes_mm: Sequence[float]
) -> PaintedScan:
    """Paint a nodule of each size into a lung; those that find no place where they can be seen are left out."""
    hu, mask = background.hu.copy(), np.zeros(background.hu.shape, dtype=bool)
    places: list[tuple[NDArray[np.float64], float]] = []
    nodules = []
    for diameter_mm in sorted(sizes_mm, reverse=True):
        for _ in range(TRIES):
            center = background.draw_center(rng, diameter_mm)
            if center is None or not is_apart(center, diameter_mm, places, background.vx_size_irc):
                continue
            nodule = draw_nodule(rng, painter.choose_shape(rng, diameter_mm), diameter_mm)
            reach = np.ceil(nodule.reach_mm / background.vx_size_irc).astype(int) + 1
            box = pad_box(box_of(center.round().astype(int).tolist()), reach, hu.shape)
            voxels = [np.arange(part.start, part.stop) for part in box]
            axes_mm = measure_axes(voxels, center, background.vx_size_irc)
            before = hu[box].copy()
            painted = paint_nodule(
                hu[box], axes_mm, nodule, background.look, background.wall[box], background.vx_size_irc, rng
            )
            if not is_visible(before, hu[box], painted, background):
                hu[box] = before
                continue
            mask[box] |= painted.mask
            places.append((center, diameter_mm))
            middle = starts_of(box) + [ndxs.mean() for ndxs in np.nonzero(painted.mask)]
            center_xyz = background.volume.to_xyz(middle.tolist())
            nodules.append(CandidateInfoTuple(True, True, None, painted.diameter_mm, background.series_uid, center_xyz))
            break
    return PaintedScan(hu, mask, nodules)


def is_apart(
    center: NDArray[np.float64],
    diameter_mm: float,
    places: Sequence[tuple[NDArray[np.float64], float]],
    vx_size_irc: NDArray[np.float64],
) -> bool:
    """Whether a nodule keeps its distance from others, given by center (voxels) and diameter."""
    return all(
        np.linalg.norm((center - other) * vx_size_irc) > (diameter_mm + other_mm) / 2 + APART_MM
        for other, other_mm in places
    )


def count_nodules(background: Background) -> int:
    """Return how many nodules a lung has room for."""
    lung_ml = np.count_nonzero(~background.wall) * np.prod(background.vx_size_irc) / 1000
    return max(1, round(float(lung_ml) / ML_PER_NODULE))


def write_painted_scans(
    backgrounds: Sequence[Background],
    painter: Painter,
    output: Path,
    copies: int,
    range_mm: tuple[float, float],
    seed: int,
) -> int:
    """Write painted scans as a data folder: images/, masks/, annotations.csv, annotations_excluded.csv, patients.csv.

    Sizes are spread evenly over the logarithm of their range. Known lesions become excluded findings. Copies of a
    background are of one patient, so that a split keeps them together.

    Args: copies: of each background, with other nodules.
    Returns: the number of nodules.
    Raises: InputError if the folder holds anything.
    """
    check_empty(output)
    for folder in (IMAGES, MASKS):
        (output / folder).mkdir(parents=True, exist_ok=True)
    rows: list[list[object]] = []
    excluded: list[list[object]] = []
    patients: list[list[object]] = []
    with progress_bar(copies * len(backgrounds), "Painting", "scan") as bar:
        for (ndx, background), copy in itertools.product(enumerate(backgrounds), range(copies)):
            rng = np.random.default_rng([seed, copy, ndx])
            painted = paint_scan(background, painter, rng, draw_sizes(rng, range_mm, count_nodules(background)))
            name = f"{background.series_uid}_{copy}"
            ct = Ct(background.path, series_uid=background.series_uid)
            write_image(output / IMAGES / f"{name}.nii", painted.hu, ct)
            write_image(output / MASKS / f"{name}.nii.gz", painted.mask.astype(np.uint8), ct)
            rows += [as_row(name, nodule) for nodule in painted.nodules]
            excluded += [as_row(name, lesion) for lesion in background.lesions]
            patients.append([name, ndx])
            bar.update()
    write_csv(output / PATIENTS_FILE, PATIENT_COLUMNS, patients)
    write_csv(output / EXCLUDED_FILE, (*POSITION_COLUMNS, SIZE_COLUMN), excluded)
    write_csv(output / ANNOTATIONS_FILE, (*POSITION_COLUMNS, SIZE_COLUMN), rows)
    return len(rows)


def draw_sizes(rng: np.random.Generator, range_mm: tuple[float, float], count: int) -> list[float]:
    """Draw diameters evenly over the logarithm of their range."""
    low, high = map(math.log, range_mm)
    sizes: list[float] = np.exp(rng.uniform(low, high, count)).tolist()
    return sizes


def check_empty(folder: Path) -> None:
    """Raises: InputError for a folder that holds anything, or a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("there is something already; choose a new folder", path=folder)


def as_row(name: str, finding: CandidateInfoTuple) -> list[object]:
    return [name, *(f"{value:.3f}" for value in finding.center_xyz), f"{finding.diameter_mm:.2f}"]
