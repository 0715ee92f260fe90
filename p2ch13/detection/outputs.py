"""Output files: masks and probabilities in the scan's geometry, nodules.csv, DICOM Segmentation objects."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from p2ch13 import __version__
from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.detection.measure import Measures
from p2ch13.detection.size_categories import fleischner, lung_rads, round_half_up
from p2ch13.labels.tables import POSITION_COLUMNS
from p2ch13.util.errors import InputError
from p2ch13.util.files import atomic_path, utf8_path, write_csv
from p2ch13.volumes.files import check_whole

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

NODULES_FILE = "nodules.csv"
# LUNA16's submission columns, and further ones.
SIZE_COLUMNS = ("diameter_mm", "volume_mm3", "first_slice", "last_slice", "finding")
NODULE_COLUMNS = (*POSITION_COLUMNS, "probability", "logit", *SIZE_COLUMNS)
MEASURE_COLUMNS = (
    *("long_axis_mm", "short_axis_mm", "mean_axis_mm", "whole_mm3", "mean_hu", "kind", "at_pleura"),
    *("solid_long_axis_mm", "solid_mean_axis_mm", "solid_mm3", "lung_rads_v2022", "fleischner_2017"),
)
SIDE_COLUMN = "side"  # the patient's
SERIES_NUMBER_OFFSET = 1000  # from the scan's series number to its segmentation's


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
    rows = list(map(nodule_row, findings))
    if measures is not None:
        columns, rows = columns + MEASURE_COLUMNS, add_columns(rows, map(measure_row, measures))
    if sides is not None:
        columns, rows = (*columns, SIDE_COLUMN), add_columns(rows, ([side or ""] for side in sides))
    write_csv(path, columns, rows)


def add_columns(rows: Iterable[list[object]], others: Iterable[list[object]]) -> list[list[object]]:
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


def write_dicom_segmentation(path: Path, mask: NDArray[np.bool_], ct: Ct) -> None:
    """Write a mask as one binary segment that refers to the scan's files; an empty mask has all frames.

    Args: mask: (index, row, col), axial.
    Raises: InputError, naming the scan, if its files lack attributes that the object must repeat.
    Source: DICOM PS3.3, A.51, segmentation IOD.
    """
    from highdicom import UID
    from highdicom.seg import Segmentation, SegmentationTypeValues
    from pydicom import dcmread

    slices = [dcmread(file, stop_before_pixels=True) for file in ct.header.dicom_files]
    try:
        with warnings.catch_warnings():  # about the format of patients' names
            warnings.simplefilter("ignore", UserWarning)
            segmentation = Segmentation(
                source_images=slices,
                pixel_array=in_order_of_frames(ct.as_stored(mask), ct).astype(np.uint8),
                segmentation_type=SegmentationTypeValues.BINARY,
                segment_descriptions=[describe_segment()],
                series_instance_uid=UID(),
                series_number=int(slices[0].get("SeriesNumber") or 0) + SERIES_NUMBER_OFFSET,
                series_description="Lung nodules, for research only",
                sop_instance_uid=UID(),
                instance_number=1,
                manufacturer="p2ch13",
                manufacturer_model_name="p2ch13",
                software_versions=__version__,
                device_serial_number="0",
                omit_empty_frames=bool(mask.any()),
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"--dicom-seg cannot refer to it ({error}); omit it", path=ct.header.path) from None
    with atomic_path(path) as unfinished:
        segmentation.save_as(unfinished)


def in_order_of_frames(mask: NDArray[np.bool_], ct: Ct) -> NDArray[np.bool_]:
    """Order the slices of a mask, (index, row, col) as stored, as those of the scan's files.

    Raises: InputError if one of several files has several frames, or not all of them are of the scan.
    """
    slices = ct.header.dicom_slices
    counts = {one.pixels.frame_count for one in slices}
    if counts == {1}:
        return mask
    if len(ct.header.dicom_files) > 1 or counts != {len(slices)}:
        raise ValueError("frames of several files, or a part of one's")
    return mask[np.argsort([one.frame for one in slices])]


def describe_segment() -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    return SegmentDescription(
        segment_number=1,
        segment_label="Lung nodule",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Nodule,
        anatomic_regions=[codes.SCT.Lung],
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name="U-Net", version=__version__, family=codes.DCM.ArtificialIntelligence
        ),
    )
