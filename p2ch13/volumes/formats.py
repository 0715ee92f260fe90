"""File formats of scans and masks, by suffix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2ch13.util.errors import InputError
from p2ch13.volumes.headers import ScanHeader, describe_other
from p2ch13.volumes.metaimage import find_metaimage_voxels, read_metaimage
from p2ch13.volumes.nifti import read_nifti
from p2ch13.volumes.nrrd import read_nrrd
from p2ch13.volumes.voxels import VoxelFile


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        read_header: reads a file's header, with this series UID; raises InputError.
        find_voxels: finds the file with the voxels; raises InputError.
    """

    read_header: Callable[[Path, str], ScanHeader]
    find_voxels: Callable[[Path], VoxelFile] = VoxelFile


NIFTI_SUFFIXES = (".nii.gz", ".nii")
FORMATS = {
    **dict.fromkeys((".mhd", ".mha"), Format(read_metaimage, find_metaimage_voxels)),
    **dict.fromkeys(NIFTI_SUFFIXES, Format(read_nifti)),
    ".nrrd": Format(read_nrrd),
}


def find_suffix(path: Path) -> str:
    """Return the suffix of a scan's file as it is written, in small letters or large; "" of another file."""
    suffix = next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), "")
    return path.name[len(path.name) - len(suffix) :]


def find_format(path: Path) -> Format:
    """Raises: InputError if the file's name has none of the known suffixes."""
    suffix = find_suffix(path).lower()
    if not suffix:
        kind = describe_other(path) if path.is_file() else None
        cure = kind if kind and ";" in kind else f"{kind or 'unknown format'}; convert it to {', '.join(FORMATS)}"
        raise InputError(f"no scan of a format that is read, but {cure}", path=path)
    return FORMATS[suffix]


def find_voxel_file(path: Path) -> VoxelFile:
    """Find the file with a scan's voxels. Raises: InputError if the header is invalid or leads out of its folder."""
    return find_format(path).find_voxels(path)
