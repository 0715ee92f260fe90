"""Layouts of a data folder: where its scans, masks and annotations lie, told by what is there."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from p2ch13.labels.candidates import (
    ANNOTATIONS_FILE,
    CANDIDATES_FILES,
    MALIGNANCY_FILE,
    CandidateInfoTuple,
    get_nodule_info_list,
    sort_candidates,
)
from p2ch13.labels.luna25 import LUNA25_FILE, read_luna25
from p2ch13.labels.mask import DATASET_FILE, MaskFolder
from p2ch13.util.errors import InputError
from p2ch13.volumes.files import find_scans, list_scan_files, name_files, scan_name

NNUNET_IMAGES, NNUNET_LABELS = "imagesTr", "labelsTr"  # the Medical Segmentation Decathlon's as well
MASK_FOLDERS = {"images": "masks", NNUNET_IMAGES: NNUNET_LABELS, "luna25_images": "masks"}  # by folder of images
CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's names of images
FIRST_CHANNEL = "0000"


@dataclass(frozen=True)
class Layout:
    """The parts of a data folder.

    Attributes: `scans`, series UID -> path, sorted; `masks`, the folder of masks, which may be missing; `is_luna16`,
        whether scans lie in the folder itself and its subset*/, where CSV files are required.
    """

    data_dir: Path
    scans: dict[str, Path]
    masks: MaskFolder
    is_luna16: bool

    @property
    def has_annotations(self) -> bool:
        """Whether nodules are in a CSV file."""
        return has_luna16_annotations(self.data_dir) or (self.data_dir / LUNA25_FILE).is_file()

    @property
    def luna25_file(self) -> Path | None:
        return find_luna25_file(self.data_dir)

    @property
    def has_candidates(self) -> bool:
        """Whether there are, or have to be, candidates that are not nodules."""
        is_required = self.is_luna16 and has_luna16_annotations(self.data_dir)
        return is_required or any((self.data_dir / name).is_file() for name in CANDIDATES_FILES)


def has_images(data_dir: Path) -> bool:
    """Whether a data folder's scans lie in a folder of images, not in the folder itself or its subset*/."""
    return any(list_scan_files(data_dir / name) for name in MASK_FOLDERS)


def find_layout(data_dir: Path) -> Layout:
    """Find the scans and masks of a data folder: LUNA16's, or a folder of images beside one of masks.

    Raises: InputError for a folder without scans, with scans in several of these places, or with two of one series.
    """
    folders = [data_dir / name for name in MASK_FOLDERS if list_scan_files(data_dir / name)]
    in_itself = [data_dir] if list_scan_files(data_dir) else []
    places = [*in_itself, *folders]
    if len(places) > 1:
        raise InputError(f"scans in both {places[0]} and {places[1].name}/; move one of them", path=data_dir)
    if not folders:
        return Layout(data_dir, find_scans(data_dir), MaskFolder(data_dir / "masks"), is_luna16=True)
    images = folders[0]
    masks = MaskFolder(data_dir / MASK_FOLDERS[images.name])
    if images.name == NNUNET_IMAGES:
        dataset_file = data_dir / DATASET_FILE
        masks = MaskFolder(masks.path, dataset_file if dataset_file.is_file() else None)
        return Layout(data_dir, find_cases(images, masks), masks, is_luna16=False)
    return Layout(data_dir, name_files(list_scan_files(images)), masks, is_luna16=False)


def find_cases(images: Path, masks: MaskFolder) -> dict[str, Path]:
    """Return case -> its image: nnU-Net's `<case>_0000.nii.gz`, or the Decathlon's `<case>.nii.gz`.

    Raises: InputError for a second channel of a case.
    """
    paths = list_scan_files(images)
    named, labeled = set(map(scan_name, paths)), masks.find()

    def name_case(path: Path) -> str:
        name = scan_name(path)
        numbered = CHANNEL.fullmatch(name)
        if numbered is None or name in labeled:
            return name  # a case may end in four digits
        case, channel = numbered.groups()
        if channel == FIRST_CHANNEL:
            return case
        if case in labeled or f"{case}_{FIRST_CHANNEL}" in named:
            raise InputError("a further channel of its case, and a CT scan has one; remove it", path=path)
        return name

    return name_files(paths, name_case)


def list_nodules(data_dir: Path, scans: Collection[str] | None) -> list[CandidateInfoTuple]:
    """List the nodules of a data folder's CSV files, LUNA16's or else LUNA25's, largest first.

    Args: scans: skip other series; None lists all.
    Raises: InputError for a missing file or column or an invalid row.
    """
    luna25_file = find_luna25_file(data_dir)
    if luna25_file is not None:
        return sort_candidates(read_luna25(luna25_file, scans))
    return get_nodule_info_list(data_dir, require_on_disk=scans is not None, scans=scans)


def has_luna16_annotations(data_dir: Path) -> bool:
    return (data_dir / ANNOTATIONS_FILE).is_file() or (data_dir / MALIGNANCY_FILE).is_file()


def find_luna25_file(data_dir: Path) -> Path | None:
    """Return LUNA25's CSV file, if nodules come from it."""
    path = data_dir / LUNA25_FILE
    return path if path.is_file() and not has_luna16_annotations(data_dir) else None
