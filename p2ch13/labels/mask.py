"""Nodule masks in files beside the scans: which there are, which of their values are nodule, and their label rule."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ch13.labels.candidates import SAME_PLACE_MM, CandidateInfoTuple, sort_candidates
from p2ch13.labels.regions import (
    LabelRule,
    MaskRegion,
    Scan,
    as_region,
    center_of,
    find_component,
    sphere_diameter,
    split_mask,
    volume_mm3,
)
from p2ch13.util.boxes import BoxMask, box_of, intersect
from p2ch13.util.errors import InputError, one_line
from p2ch13.volumes.files import list_scan_files, name_files, read_header, read_voxels, scan_signature
from p2ch13.volumes.headers import warn_once
from p2ch13.volumes.volume import Volume

TOLERANCES = {  # attribute of a volume, mm or 1; NIfTI keeps float32
    "voxel size": ("vx_size_xyz", 0.001),
    "direction": ("direction", 0.001),
    "origin": ("origin_xyz", 0.01),
}
LARGEST_VALUE = int(np.iinfo(np.int16).max)  # of a voxel in memory: larger ones become this one
MOST_MARKED, MAX_LISTED = 0.5, 5  # of a scan's voxels, beyond which a warning; of the values in a message
MOST_NEGATIVE_VALUES = 50  # of a mask: resampling leaves some, and logits have a few after rounding
LEAST_MARKED = 0.5  # rounds to 1
DATASET_FILE = "dataset.json"
BACKGROUND, IGNORE = 0, "ignore"  # a value in every dataset.json; the name of nnU-Net's voxels that nobody labeled


@dataclass(frozen=True)
class MaskRule(LabelRule):
    """Mark the 26-connected components of a scan's mask file.

    An annotated nodule's region is the component nearest to its center, within its radius plus a voxel; without one it
    is not marked. A nodule that `find_nodules` made of a component has that one.

    Args: values: of the nodules' voxels; none: all values above 0.
    """

    mask_path: Path
    values: tuple[int, ...] = ()

    def key(self, nodules: Sequence[CandidateInfoTuple]) -> tuple[None, list[Any]]:
        return None, ["mask", scan_signature(self.mask_path), list(self.values)]

    def mark_nodule(self, scan: Scan, nodule: CandidateInfoTuple) -> MaskRegion:
        components = components_of(scan)
        at_center = box_of(scan.locate(nodule.center_xyz))
        around = [one for one in components if intersect(one.box, at_center)]
        own = [one for one in around if math.dist(center_of(one, scan), nodule.center_xyz) <= SAME_PLACE_MM]
        component = own[0] if own else find_component(components, scan, nodule)
        return as_region(component or BoxMask(at_center, np.zeros((1, 1, 1), dtype=bool)))

    def mark_scan(self, scan: Scan) -> list[MaskRegion]:
        return [*map(as_region, split_mask(read_mask(self.mask_path, scan, self.values)))]


def components_of(scan: Scan) -> list[BoxMask]:
    return [BoxMask(part.box, part.mark(part.box)) for part in scan.parts]  # reads the mask once


def find_nodules(scan: Scan) -> list[CandidateInfoTuple]:
    """Make a nodule of each component of a scan's mask, largest first.

    Its center is the mean of its voxels, its diameter that of a sphere of its volume; its malignancy is unknown.
    Raises: InputError, naming the mask, if it cannot be read or is not the scan's.
    """
    return sort_candidates(
        [
            CandidateInfoTuple(
                is_nodule=True,
                has_annotation=True,
                is_mal=None,
                diameter_mm=sphere_diameter(volume_mm3(component, scan)),
                series_uid=scan.series_uid,
                center_xyz=center_of(component, scan),
            )
            for component in components_of(scan)
        ]
    )


def read_mask(path: Path, scan: Volume, values: Sequence[int] = ()) -> NDArray[np.bool_]:
    """Read a mask of this scan, (index, row, col), axial.

    The file may be stored in another order of axes than the scan's.

    Args: values: those that are marked, after rounding; none: all above 0.
    Raises: InputError, naming the file, if it cannot be read, its geometry is not the scan's, it marks all voxels, its
        values are those of a scan or all fractions below a half, or values are to be told apart that are not below
        `LARGEST_VALUE`.
    """
    mask = Volume(path)
    check_geometry(mask, scan)
    check_no_scan(mask)
    if values and mask.voxels.max() >= LARGEST_VALUE:
        raise InputError(f"it has values of {LARGEST_VALUE} or more; save it with smaller ones", path=path)
    marked = np.isin(mask.voxels, values) if values else np.asarray(mask.voxels > 0)
    share = np.count_nonzero(marked) / marked.size
    if share == 0:
        check_no_fractions(mask)
    if share == 1:
        present = ", ".join(map(str, np.unique(mask.voxels)[:MAX_LISTED]))
        message = f"it marks every voxel (values {present}): choose the nodules' value, or save others as 0"
        raise InputError(message, path=path, option="--mask-label")
    if share > MOST_MARKED:
        warn_once(f"{path}: it marks {share:.1%} of the voxels as nodule. Is it inverted?")
    return marked


def check_no_scan(mask: Volume) -> None:
    """Raises: InputError if a mask has as many different values below 0 as a scan in HU has, and no label map."""
    negative = mask.voxels[mask.voxels < 0] if mask.voxels.min() < 0 else mask.voxels[:0]
    if len(np.unique(negative)) > MOST_NEGATIVE_VALUES:
        message = f"values of {mask.voxels.min()} to {mask.voxels.max()}, as of a scan, not of a mask; name the mask"
        raise InputError(message, path=mask.header.path)


def check_no_fractions(mask: Volume) -> None:
    """Raises: InputError if a mask without a marked voxel has values between 0 and a half, which are rounded to 0."""
    voxel_file = mask.header.voxel_file
    if voxel_file is None or voxel_file.is_mappable:
        return
    path = mask.header.path
    highest = max(float(values.max()) for values in voxel_file.read_slices(mask.header.shape_irc, path))
    if 0 < highest < LEAST_MARKED:
        message = f"no value is above {highest:.3g}, and values from {LEAST_MARKED} on are marked; save it as 0 and 1"
        raise InputError(message, path=path)


def check_geometry(mask: Volume, scan: Volume) -> None:
    """Raises: InputError, naming the mask, if its geometry in axial order is not the scan's."""
    if mask.shape_irc != scan.shape_irc:
        raise unlike_scan(mask.header.path, "size", mask.shape_irc, scan.shape_irc)
    for name, (attribute, tolerance) in TOLERANCES.items():
        of_mask, of_scan = getattr(mask, attribute), getattr(scan, attribute)
        if not np.allclose(of_mask, of_scan, rtol=0, atol=tolerance):
            raise unlike_scan(mask.header.path, name, of_mask.tolist(), of_scan.tolist())


def list_values(path: Path) -> list[int]:
    """List the values above 0 of a mask's voxels, after rounding, sorted. Raises: InputError if it cannot be read."""
    voxels = read_voxels(read_header(path))
    values: list[int] = np.unique(voxels[voxels > 0]).tolist()
    return values


def unlike_scan(path: Path, name: str, of_mask: object, of_scan: object) -> InputError:
    return InputError(f"its {name} is {of_mask}, the scan's {of_scan}; save it with the scan's geometry", path=path)


@dataclass(frozen=True)
class MaskFolder:
    """The masks of a data folder. Attributes: `dataset_file`, which names the values of the voxels, if there is one."""

    path: Path
    dataset_file: Path | None = None

    def find(self) -> dict[str, Path]:
        """Return series UID -> mask, sorted; none without a folder. Raises: InputError for a series with two masks."""
        return name_files(list_scan_files(self.path))

    def choose_values(self, mask_label: int | None) -> tuple[int, ...]:
        """Choose the values of the nodules' voxels: the user's, or those of the dataset file; none: all above 0.

        Args: mask_label: the user's choice.
        Raises: InputError for a choice that the dataset file does not have, and without a choice, if it has several.
        """
        labels = {} if self.dataset_file is None else read_labels(self.dataset_file)
        labels.pop(IGNORE, None)
        nodule_values = tuple(sorted({value for values in labels.values() for value in values}))
        listed = ", ".join(f"{value} ({name})" for name, values in labels.items() for value in values)
        if mask_label is not None:
            if labels and mask_label not in nodule_values:
                message = f"no label {mask_label}; it has {listed}: choose one with --mask-label"
                raise InputError(message, path=self.dataset_file, option="--mask-label")
            return (mask_label,)
        if len(labels) > 1:
            message = f"several labels, {listed}: choose the nodules' with --mask-label"
            raise InputError(message, path=self.dataset_file, option="--mask-label")
        return nodule_values

    def no_nodules(self, series_uid: str, values: Sequence[int]) -> InputError:
        """Explain that masks have no nodule. Args: series_uid: of one of them; values: see `choose_values`."""
        wanted = f"of value {' or '.join(map(str, values))}" if values else "above 0"
        example = self.find()[series_uid]
        with suppress(InputError):  # its scan is skipped with this error
            present = ", ".join(map(str, list_values(example))) or "0 alone"
            wanted += f" ({example.name} has {present})"
        message = f"no mask that was read has voxels {wanted}; correct them, --mask-label or {DATASET_FILE}"
        return InputError(message, path=self.path, option="--mask-label")


def read_labels(dataset_file: Path) -> dict[str, tuple[int, ...]]:
    """Read the labels of a dataset.json but for the background: name -> values.

    nnU-Net has a value, or the list of a region's, by name; the Medical Segmentation Decathlon a name by value.
    Raises: InputError for another content.
    """
    try:
        content = json.loads(dataset_file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"no JSON file ({one_line(error)}); correct or remove it", path=dataset_file) from None
    try:
        labels = content.get("labels", {})
        named = read_decathlon(labels) if isinstance(next(iter(labels.values()), 0), str) else read_nnunet(labels)
    except (AttributeError, TypeError, ValueError, OverflowError):  # another type, or no whole number
        examples = '{"nodule": 1}, or the Decathlon\'s, such as {"1": "nodule"}'
        message = f'"labels" has to be nnU-Net\'s, such as {examples}; correct or remove it'
        raise InputError(message, path=dataset_file) from None
    foreground = {name: tuple(value for value in values if value != BACKGROUND) for name, values in named.items()}
    return {name: values for name, values in foreground.items() if values}


def read_nnunet(labels: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: list(map(int, value if isinstance(value, list) else [value])) for name, value in labels.items()}


def read_decathlon(labels: Mapping[str, str]) -> dict[str, list[int]]:
    values: defaultdict[str, list[int]] = defaultdict(list)
    for value, name in labels.items():
        values[name].append(int(value))
    return values
