"""Output files: masks and probabilities in the scan's geometry, nodules.csv."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from numpy.typing import NDArray

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.labels.tables import POSITION_COLUMNS
from p2ch13.util.errors import InputError
from p2ch13.util.files import atomic_path, utf8_path, write_csv
from p2ch13.volumes.files import check_whole

NODULES_FILE = "nodules.csv"
# LUNA16's submission columns, and further ones.
SIZE_COLUMNS = ("diameter_mm", "volume_mm3", "first_slice", "last_slice", "finding")
NODULE_COLUMNS = (*POSITION_COLUMNS, "probability", "logit", *SIZE_COLUMNS)


def write_image(path: Path, voxels: NDArray[Any], ct: Ct) -> None:
    """Write (index, row, col), axial, in the order and geometry of the scan's file, in the format of the path's suffix.

    Raises: InputError if the file cannot be written completely.
    """
    image, header = sitk.GetImageFromArray(ct.as_stored(voxels)), ct.header
    image.SetOrigin(header.origin_xyz.tolist())
    image.SetSpacing(header.vx_size_xyz.tolist())
    image.SetDirection(header.direction.ravel().tolist())
    with atomic_path(path) as unfinished, utf8_path(unfinished) as name:
        try:
            sitk.WriteImage(image, name, useCompression=True)
            check_whole(unfinished)  # SimpleITK silently truncates NIfTI on a full disk
        except (RuntimeError, InputError):
            raise InputError("cannot write all of it; is the disk full? Choose another --output", path=path) from None


def write_nodules(path: Path, findings: Iterable[Finding]) -> None:
    """Write the list of nodules in LUNA16's submission format: centers in mm, patient coordinates.

    Centers and logits are not rounded further, so that the file scores as the findings do.
    """
    write_csv(path, NODULE_COLUMNS, map(nodule_row, findings))


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
