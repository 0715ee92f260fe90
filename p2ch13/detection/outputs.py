"""What prediction leaves on disk: masks and probabilities in the scan's geometry, the list of nodules."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from numpy.typing import NDArray

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.labels.candidates import POSITION_COLUMNS
from p2ch13.util.errors import InputError
from p2ch13.util.files import atomic_path, write_csv
from p2ch13.volumes.formats import check_nifti_length

# LUNA16's submission columns, and what else is known.
SIZE_COLUMNS = ("diameter_mm", "volume_mm3", "first_slice", "last_slice", "finding")
NODULE_COLUMNS = (*POSITION_COLUMNS, "probability", "logit", *SIZE_COLUMNS)


def write_image(path: Path, voxels: NDArray[Any], ct: Ct) -> None:
    """Write (index, row, col) with the scan's geometry, compressed, in the format of the path's suffix.

    Raises: InputError if it cannot be written whole.
    """
    image = sitk.GetImageFromArray(voxels)
    image.SetOrigin(ct.origin_xyz.tolist())
    image.SetSpacing(ct.vx_size_xyz.tolist())
    image.SetDirection(ct.direction.ravel().tolist())
    with atomic_path(path) as unfinished:
        try:
            sitk.WriteImage(image, str(unfinished), useCompression=True)
            if path.name.endswith((".nii", ".nii.gz")):
                check_nifti_length(unfinished)  # of which SimpleITK writes a part on a full disk, without a word
        except (RuntimeError, InputError):
            raise InputError(f"{path}: cannot be written whole; is the disk full? Choose another --output") from None


def write_nodules(path: Path, findings: Iterable[Finding]) -> None:
    """Write the list of nodules, in LUNA16's form for submissions: centers in mm, patient coordinates.

    Centers and logits are written as they are, so that the file is scored as the findings themselves would be.
    """
    write_csv(path, NODULE_COLUMNS, map(nodule_row, findings))


def nodule_row(finding: Finding) -> list[object]:
    return [
        finding.series_uid,
        *(f"{value:.3f}" for value in finding.center_xyz),
        repr(finding.probability),  # all digits: many differ in the last ones alone, and are ranked by them
        repr(finding.logit),
        f"{finding.diameter_mm:.2f}",
        f"{finding.volume_mm3:.1f}",
        finding.first_slice,
        finding.last_slice,
        finding.number,
    ]
