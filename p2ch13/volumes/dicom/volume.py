"""Put the slices of a series in order and check that they make up one volume."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from p2ch13.util.errors import InputError
from p2ch13.volumes.dicom.phases import places, split_phases
from p2ch13.volumes.dicom.series import Series
from p2ch13.volumes.dicom.slices import DicomSlice
from p2ch13.volumes.headers import ScanHeader

log = logging.getLogger(__name__)

COSINE_TOLERANCE = 2e-3  # a pixel at the far edge of 512; rounding and noise of a thousandth or so are common
PIXEL_SIZE_TOLERANCE_MM = 1e-3
SAME_PLACE = 0.1  # of the slice spacing
MISSING = 1.5  # slice spacings: a gap where a slice is missing, rather than uneven spacing
UNEVEN = 0.1  # slice spacings, from where a slice would lie if all were evenly spaced
ROUNDED = 0.501  # units of the positions' last digit: how far rounding moves them
DRIFT_PIXELS = 0.5  # within the plane of the slices
THIN = 1.5  # slice spacing in slice thicknesses, from which on slices between seem to be missing
THICK = 6.0  # slice thickness in slice spacings, from which on positions seem to be in another unit
TILT_DEGREES = 0.5
LEAST_NUMBERED = 4  # slices, for a step of their numbers to be no accident

# What all slices of a volume have in common, and how much it may differ.
COMMON: dict[str, tuple[Any, float]] = {
    "rows and columns": (lambda one: one.shape, 0.0),
    "pixel spacing": (lambda one: one.pixel_size_xy, PIXEL_SIZE_TOLERANCE_MM),
    "orientation": (lambda one: one.cosines, COSINE_TOLERANCE),
}

Vector = NDArray[np.float64]


def read_series(series: Series) -> ScanHeader:
    """Sort a series' slices by position along their normal and check that they make up one scan.

    What most slices have in common is the yardstick for the others. Of acquisitions that overlap the largest is taken.
    A tilted gantry is refused: its volume is sheared, and resampling it would invent values that the network and
    measures then take for the scan's; dcm2niix does it for who wants that.

    `highdicom.spatial.get_series_volume_positions` finds some of the same faults but not the file at fault.

    Raises: InputError, naming the file if there is one, if a slice cannot be read, differs from the others in
        orientation, size or pixel spacing, is at the position of another, or is missing, if slices are unevenly spaced,
        and if they are shifted within their plane.
    Source: DICOM PS3.3, C.7.6.2, image plane module.
    """
    if series.fault:
        raise series.fault
    normal = find_axes(most_common([one.cosines for one in series.slices], COSINE_TOLERANCE))[2]
    volumes = split_phases(series.slices, normal)
    try:
        header = stack(series, volumes[0])
    except InputError:
        if len(volumes) == 1:
            raise
        try:  # attributes that vary within one acquisition, or are missing in a slice, say nothing of phases
            header, volumes = stack(series, series.slices), [list(series.slices)]
        except InputError:
            header = stack(series, volumes[0])
    if len(volumes) > 1 and len(volumes[0]) == 1:
        message = f"{len(volumes)} images of one place, as of a contrast agent's arrival, are no scan"
        raise InputError(f"{message}; choose another series", path=series.folder)
    warn_of_phases(series, volumes)
    warn_of_missing(series, header.dicom_slices, header.vx_size_xyz[2])
    return header


def stack(series: Series, volume: Sequence[DicomSlice]) -> ScanHeader:
    """Check and sort the slices of one volume. Raises: see `read_series`."""
    usual = {name: most_common([get(one) for one in volume], tolerance) for name, (get, tolerance) in COMMON.items()}
    for one in volume:
        check_like_most(one, usual, volume)
    axes = find_axes(usual["orientation"])
    slices = sorted(volume, key=lambda each: float(np.dot(each.position_xyz, axes[2])))
    spacing_mm = find_spacing(slices, axes[2])
    check_drift(series, slices, axes)
    return ScanHeader(
        series.folder,
        series.name,
        (len(slices), *slices[0].shape),
        origin_xyz=np.array(slices[0].position_xyz),
        vx_size_xyz=np.array([*usual["pixel spacing"], spacing_mm]),
        direction=axes.T,
        dicom_slices=tuple(slices),
    )


def most_common(values: Sequence[tuple[float, ...]], tolerance: float) -> tuple[float, ...]:
    """Return the value that most of the others are like, the first of several."""
    counts = Counter(values)
    different = np.array(list(counts))
    weights = np.array(list(counts.values()))
    likes = [weights[(abs(different - value) <= tolerance).all(axis=1)].sum() for value in different]
    return list(counts)[int(np.argmax(likes))]


def check_like_most(one: DicomSlice, usual: dict[str, tuple[float, ...]], volume: Sequence[DicomSlice]) -> None:
    for name, (get, tolerance) in COMMON.items():
        if not np.allclose(get(one), usual[name], rtol=0, atol=tolerance):
            other = next(each for each in volume if get(each) == usual[name])
            raise InputError(
                f"its {name} {np.round(get(one), 4).tolist()} differ from {np.round(usual[name], 4).tolist()} in "
                f"{other.file.name} and most slices; keep the slices of each scan in a folder of their own",
                path=one.file,
            )


def find_axes(cosines: ArrayLike) -> Vector:
    """Return the directions of columns, rows and slices as the rows of a matrix: unit vectors at right angles."""
    across, down = np.reshape(cosines, (2, 3))
    across = across / np.linalg.norm(across)
    down = down - (down @ across) * across
    down /= np.linalg.norm(down)
    return np.array([across, down, np.cross(across, down)])


def find_spacing(slices: Sequence[DicomSlice], normal: Vector) -> float:
    """Find the slice spacing in mm of slices in order. Raises: InputError if they are unevenly spaced.

    Positions that are rounded vary by the last digit, and if that is as large as the spacing, gaps do by a whole slice.
    A slice is missing then unless the slices' own numbers go on.
    """
    if len(slices) == 1:
        thickness = slices[0].thickness_mm or slices[0].spacing_mm
        if thickness is None:
            raise InputError("a single slice without SliceThickness; export the whole series", path=slices[0].file)
        return thickness
    along = places(slices, normal)
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    last_digit = min(one.position_digits[int(abs(normal).argmax())] for one in slices)
    for gap, before, after in zip(gaps.tolist(), slices, slices[1:], strict=False):
        if gap <= SAME_PLACE * usual:
            raise InputError(
                f"same position as {before.file.name}; keep the slices of each scan in a folder of their own",
                path=after.file,
            )
        if gap > MISSING * usual and not (gap <= usual + 1.01 * last_digit and are_neighbors(before, after)):
            raise InputError(
                f"a slice is missing: {gap:.2f} mm from {before.file.name} instead of {usual:.2f} mm; export the "
                "series again",
                path=after.file,
            )
    check_even(slices, along, last_digit)
    return float(gaps.mean())


def are_neighbors(one: DicomSlice, other: DicomSlice) -> bool:
    """Tell whether two slices' own numbers follow each other."""
    return one.number is not None and other.number is not None and abs(one.number - other.number) == 1


def check_even(slices: Sequence[DicomSlice], along: Vector, last_digit: float) -> None:
    """Raises: InputError if a slice does not lie on an even grid, and none that was rounded explains it.

    The grid is that of least squares.
    """
    order = np.arange(len(slices))
    spacing_mm, start_mm = np.polyfit(order, along, 1)
    off_mm = abs(along - start_mm - spacing_mm * order)
    worst = int(off_mm.argmax())
    if off_mm[worst] > UNEVEN * spacing_mm and least_distance(along) > ROUNDED * last_digit:
        raise InputError(
            f"uneven slice spacing: {off_mm[worst]:.2f} mm from its place, if all slices were {spacing_mm:.2f} mm "
            "apart; export the series again",
            path=slices[worst].file,
        )


def least_distance(along: Vector) -> float:
    """Return how far the places lie from an even grid at most, for the grid where that is least."""
    from scipy.optimize import linprog  # takes longer to import than most series to read, and is rarely needed

    order, ones = np.arange(len(along)), np.ones(len(along))
    # Variables: distance, start and spacing; each place is at most the distance above and below its grid point.
    above, below = np.column_stack([-ones, -ones, -order]), np.column_stack([-ones, ones, order])
    places_mm = along - along[0]  # small numbers: the solver's tolerance is absolute
    limits = np.concatenate([-places_mm, places_mm])
    found = linprog([1, 0, 0], np.vstack([above, below]), limits, bounds=[(0, None), (None, None), (None, None)])
    return float(found.fun) if found.success else math.inf


def check_drift(series: Series, slices: Sequence[DicomSlice], axes: Vector) -> None:
    """Raises: InputError if slices are shifted within their plane by more than half a pixel, all or one of them."""
    offsets = np.array([one.position_xyz for one in slices]) @ axes.T  # (slice, 3): along columns, rows, slices, mm
    shifts, along = offsets[:, :2], offsets[:, 2]
    limit = DRIFT_PIXELS * np.array(slices[0].pixel_size_xy)
    if (abs(shifts - shifts[0]) <= limit).all():
        return
    slope = np.median(np.diff(shifts, axis=0) / np.diff(along)[:, None], axis=0)
    if (abs(slope) * (along[-1] - along[0]) > limit).any():
        degrees = math.degrees(math.atan(float(np.linalg.norm(slope))))
        raise InputError(
            f"scanned with a gantry tilted by {degrees:.1f} degrees; correct the tilt, with dcm2niix",
            path=series.folder,
        )
    away = abs(shifts - np.median(shifts, axis=0)).max(axis=1)
    worst = int(away.argmax())
    raise InputError(
        f"shifted by {away[worst]:.2f} mm within its plane, from where most slices are; export the series again",
        path=slices[worst].file,
    )


def warn_of_phases(series: Series, volumes: Sequence[Sequence[DicomSlice]]) -> None:
    """Name the choice of a volume, and what is joined."""
    acquisitions, phases = {one.acquisition for one in volumes[0]}, {one.phase for one in volumes[0]}
    if len(acquisitions) > 1:
        log.log(
            logging.WARNING if len(phases) > 1 else logging.INFO,
            f"{series.folder}: series {series.name}: {len(acquisitions)} acquisitions end to end are read as one scan.",
        )
    if len(volumes) > 1:
        counts = ", ".join(str(len(volume)) for volume in volumes)
        first, last = volumes[0][0].file.name, volumes[0][-1].file.name
        log.warning(
            f"{series.folder}: series {series.name} holds {len(volumes)} acquisitions or phases of one place, of "
            f"{counts} slices; using that of {first} to {last}. For another, put its files in a folder of their own."
        )


def find_number_step(slices: Sequence[DicomSlice]) -> int:
    """Return the step from each slice's InstanceNumber to the next one's, 1 unless it is the same everywhere."""
    numbers = [one.number for one in slices if one.number is not None]
    steps = {abs(after - before) for before, after in pairwise(numbers)}
    return steps.pop() if len(steps) == 1 and len(numbers) == len(slices) >= LEAST_NUMBERED else 1


def warn_of_missing(series: Series, slices: Sequence[DicomSlice], spacing_mm: float) -> None:
    """Warn of a scan that seems to have lost slices at its ends or every other one, or to be tilted."""
    here = Counter(one.acquisition for one in series.slices)
    expected = {one.acquisition: one.expected_count for one in slices}
    there_count = sum(here[acquisition] for acquisition in expected)
    total = sum(max(count, here[acquisition]) for acquisition, count in expected.items())
    thickness_mm = float(np.median([one.thickness_mm or spacing_mm for one in slices]))
    step = find_number_step(slices) if len(slices) == len(series.slices) else 1
    scales = {(one.scale.slope, one.scale.intercept) for one in slices}
    tilt_degrees = max((one.tilt_degrees for one in slices), key=abs)
    warnings = {
        f"{there_count} of {total} slices are there, by their ImagesInAcquisition": there_count < total,
        f"InstanceNumbers go by steps of {step}, as if slices between were missing": step > 1,
        f"slices {spacing_mm:.2f} mm apart are {thickness_mm:.2f} mm thick": spacing_mm > THIN * thickness_mm
        or thickness_mm > THICK * spacing_mm,
        f"slices have {len(scales)} different rescalings to HU": len(scales) > 1,
        f"GantryDetectorTilt is {tilt_degrees} degrees, but slices lie straight": abs(tilt_degrees) > TILT_DEGREES,
    }
    for warning, applies in warnings.items():
        if applies:
            log.warning(f"{series.folder}: {warning}; is series {series.name} as it was scanned?")
