"""Tiny scans with masks, in folders of images beside folders of masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tests.support.scan_files import (
    POSITION,
    SHAPE_IRC,
    TINY_SCANS,
    Ball,
    ball_mask,
    make_hu,
    to_xyz,
    write_csv,
    write_scan,
)


def label_balls(balls: Sequence[Ball], values: Sequence[int] = ()) -> np.ndarray:
    """Return a mask, uint8 (index, row, col): each ball with its value, by default 1."""
    mask = np.zeros(SHAPE_IRC, dtype=np.uint8)
    for ndx, ball in enumerate(balls):
        mask[ball_mask(ball)] = values[ndx] if values else 1
    return mask


def write_image_and_mask(
    image: Path,
    mask: Path,
    balls: Sequence[Ball],
    orientations: Sequence[str] = ("LPS", "LPS"),
    values: Sequence[int] = (),
) -> None:
    """Write a scan and its mask, each in its order of axes, see `write_turned`."""
    for path, voxels, orientation in zip(
        (image, mask), (make_hu(balls), label_balls(balls, values)), orientations, strict=True
    ):
        write_scan(path, voxels)
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), orientation), str(path))


def write_images(
    data_dir: Path,
    images: str = "images/{}.mha",
    masks: str = "masks/{}.nii.gz",
    scans: dict[str, list[Ball]] = TINY_SCANS,
    orientations: Sequence[tuple[str, str]] = (("LPS", "LPS"),),
) -> Path:
    """Write scans with masks under these names, in these orders of axes in turn."""
    for ndx, (series_uid, balls) in enumerate(scans.items()):
        image, mask = (data_dir / name.format(series_uid) for name in (images, masks))
        write_image_and_mask(image, mask, balls, orientations[ndx % len(orientations)])
    return data_dir


def write_candidates(data_dir: Path) -> None:
    """Write a candidate of each tiny scan: they have no chest in which training could find negatives of its own."""
    rows = [(series_uid, *to_xyz((8, 20, 90)), 0) for series_uid in TINY_SCANS]
    write_csv(data_dir / "candidates.csv", [*POSITION, "class"], rows)


LUNA25_COLUMNS = (
    "PatientID", "SeriesInstanceUID", "StudyDate", "CoordX", "CoordY", "CoordZ", "LesionID", "AnnotationID",
    "NoduleID", "label", "Age_at_StudyDate", "Gender",
)  # fmt: skip


def luna25_row(series_uid: str, center_xyz: Sequence[object], label: object, patient: int = 100001) -> list[object]:
    """Make a row of LUNA25's CSV file."""
    nodule = f"{patient}_1"
    return [patient, series_uid, 19990102, *center_xyz, 1, f"{nodule}_19990102", nodule, label, 63, "Female"]
