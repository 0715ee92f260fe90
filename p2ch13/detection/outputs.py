"""Output files: masks and probabilities in the scan's geometry, nodules.csv."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from numpy.typing import NDArray

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.detection.measure import Measures
from p2ch13.detection.size_categories import fleischner, lung_rads, round_half_up
from p2ch13.labels.tables import POSITION, POSITION_COLUMNS, SERIES, parse_center, parse_rows
from p2ch13.util.errors import InputError
from p2ch13.util.files import as_text, atomic_path, utf8_path, write_csv
from p2ch13.util.tables import Column, Row
from p2ch13.volumes.files import check_whole

NODULES_FILE = "nodules.csv"
# LUNA16's submission columns, and further ones.
SIZE_COLUMNS = ("diameter_mm", "volume_mm3", "first_slice", "last_slice", "finding")
NODULE_COLUMNS = (*POSITION_COLUMNS, "probability", "logit", *SIZE_COLUMNS)
MEASURE_COLUMNS = (
    *("long_axis_mm", "short_axis_mm", "mean_axis_mm", "whole_mm3", "mean_hu", "kind", "at_pleura"),
    *("solid_long_axis_mm", "solid_mean_axis_mm", "solid_mm3", "lung_rads_v2022", "fleischner_2017"),
)
SIDE_COLUMN = "side"  # the patient's
ALL_COLUMNS = (*NODULE_COLUMNS, *MEASURE_COLUMNS, SIDE_COLUMN)

Rows = list[list[object]]


def as_image(voxels: NDArray[Any], ct: Ct) -> sitk.Image:
    """Make an image of (index, row, col), axial, in the order and geometry of the scan's file."""
    image, header = sitk.GetImageFromArray(ct.as_stored(voxels)), ct.header
    image.SetOrigin(header.origin_xyz.tolist())
    image.SetSpacing(header.vx_size_xyz.tolist())
    image.SetDirection(header.direction.ravel().tolist())
    return image


def write_image(path: Path, voxels: NDArray[Any], ct: Ct) -> None:
    """Write (index, row, col), axial, in the order and geometry of the scan's file, in the format of the path's suffix.

    Raises: InputError if the file cannot be written completely.
    """
    image = as_image(voxels, ct)
    with atomic_path(path) as unfinished, utf8_path(unfinished) as name:
        try:
            sitk.WriteImage(image, name, useCompression=True)
            check_whole(unfinished)  # SimpleITK silently truncates NIfTI on a full disk
        except (RuntimeError, InputError):
            raise InputError("cannot write all of it; is the disk full? Choose another --output", path=path) from None


def write_nodules(
    path: Path,
    findings: Iterable[Finding],
    measures: Iterable[Measures] | None = None,
    sides: Iterable[str | None] | None = None,
) -> None:
    """Write the list of nodules in LUNA16's submission format: centers in mm, patient coordinates (LPS).

    Centers and logits are not rounded further, so that the file scores as the findings do.

    Args:
        measures: of each finding, in their order; None: without `MEASURE_COLUMNS`.
        sides: see `find_sides`; None: without the last column.
    """
    columns: tuple[str, ...] = NODULE_COLUMNS
    if measures is not None:
        columns += MEASURE_COLUMNS
    if sides is not None:
        columns = (*columns, SIDE_COLUMN)
    write_csv(path, columns, list_rows(findings, measures, sides))


def list_rows(
    findings: Iterable[Finding],
    measures: Iterable[Measures] | None = None,
    sides: Iterable[str | None] | None = None,
) -> Rows:
    """Format the rows of the list of nodules, as plain values. Args: see `write_nodules`."""
    rows = list(map(nodule_row, findings))
    if measures is not None:
        rows = add_columns(rows, map(measure_row, measures))
    if sides is not None:
        rows = add_columns(rows, ([side or ""] for side in sides))
    return rows


def write_rows(path: Path, rows: Rows) -> None:
    """Write the list of nodules of rows that `list_rows` made, with measures and sides."""
    write_csv(path, ALL_COLUMNS, rows)


def add_columns(rows: Rows, others: Iterable[list[object]]) -> Rows:
    return [row + other for row, other in zip(rows, others, strict=True)]


def nodule_row(finding: Finding) -> list[object]:
    return [
        finding.series_uid,
        *(f"{value:.3f}" for value in finding.center_xyz),
        repr(finding.probability),  # all digits: many probabilities differ in the last ones alone
        repr(finding.logit),
        f"{finding.diameter_mm:.2f}",
        f"{finding.volume_mm3:.1f}",
        finding.first_slice,
        finding.last_slice,
        finding.number,
    ]


def read_nodules(path: Path, series_uid: str) -> list[Finding]:
    """Read a scan's findings of a list that `write_nodules` wrote, in its order; none if the list has none of it.

    Raises: InputError, naming file and line, for another list.
    """
    name, numbers = as_text(series_uid), ("probability", "logit", *SIZE_COLUMNS)

    def parse(row: Row) -> Finding:
        probability, logit, diameter_mm, volume_mm3, *counts = (row.number(column) for column in numbers)
        first_slice, last_slice, number = map(int, counts)
        sizes = diameter_mm, volume_mm3, first_slice, last_slice
        return Finding(row[SERIES.name], number, parse_center(row), logit, probability, *sizes)

    rows = parse_rows(path, (*POSITION, *map(Column, numbers)), parse, [name], keeps_others=True)
    return [replace(finding, series_uid=series_uid) for _, finding in rows if finding.series_uid == name]


def measure_row(measures: Measures) -> list[object]:
    """Format measures as reports round them: lengths to 0.1 mm, volumes and density to whole mm3 and HU."""
    axes, solid_axes = measures.axes, measures.solid_axes
    solid = ["", "", ""]
    if solid_axes is not None:
        solid = [
            *map(round_mm, (solid_axes.long.length_mm, solid_axes.mean_mm)),
            round_whole(measures.solid_volume_mm3),
        ]
    return [
        *map(round_mm, (axes.long.length_mm, axes.short.length_mm, axes.mean_mm)),
        round_whole(measures.volume_mm3),
        round_whole(measures.mean_hu),
        measures.kind,
        "" if measures.is_at_pleura is None else measures.is_at_pleura,
        *solid,
        lung_rads(measures).category,
        fleischner(measures).category,
    ]


def round_mm(length_mm: float) -> str:
    return str(round_half_up(length_mm, "0.1"))


def round_whole(value: float) -> str:
    return str(round_half_up(value, "1"))
