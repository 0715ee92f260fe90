"""A scan's header and the file with its voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from p2ch13.util.errors import InputError

if TYPE_CHECKING:
    from p2ch13.volumes.dicom.slices import DicomSlice

SPACING_LIMITS_MM = (1e-3, 1e3)  # of a human's scan
ORIGIN_LIMIT_MM = 1e5
ANGLE_TOLERANCE = 1e-2  # of direction cosines, which NIfTI stores as quaternions
DEFLATE_RATIO = 1032  # the highest possible compression; https://zlib.net/zlib_tech.html


@dataclass(frozen=True, eq=False)
class ScanHeader:
    """Shape and geometry of a scan, as used by `p2ch13.util.coordinates`."""

    path: Path
    series_uid: str
    shape_irc: tuple[int, int, int]  # slices, rows, cols
    origin_xyz: NDArray[np.float64]  # (3,) mm
    vx_size_xyz: NDArray[np.float64]  # (3,) mm
    direction: NDArray[np.float64]  # (3, 3)
    mapped_file: Path | None = None  # holds nothing but voxels, of `mapped_dtype`
    mapped_dtype: str | None = None
    byte_count: int = 0  # of all voxels, in the file's own type
    dicom_slices: tuple[DicomSlice, ...] = ()  # in order

    def __post_init__(self) -> None:
        """Raises: InputError for an implausible spacing, origin or direction."""
        spacing = self.vx_size_xyz
        low, high = SPACING_LIMITS_MM
        if not ((low <= spacing) & (spacing <= high)).all() or not (abs(self.origin_xyz) <= ORIGIN_LIMIT_MM).all():
            raise InputError(
                f"voxels of {spacing.tolist()} mm at {self.origin_xyz.tolist()}; repair the header", path=self.path
            )
        if not np.allclose(self.direction @ self.direction.T, np.eye(3), rtol=0, atol=ANGLE_TOLERANCE):
            raise InputError(
                f"its direction matrix {self.direction.tolist()} is no rotation; repair the header", path=self.path
            )

    @property
    def dicom_files(self) -> tuple[Path, ...]:
        """The files of a DICOM series, in order; none for other formats."""
        return tuple(dict.fromkeys(one.file for one in self.dicom_slices))


@dataclass(frozen=True)
class VoxelFile:
    """The file that holds a scan's voxels: the header's own, or another."""

    path: Path
    is_encoded: bool = False  # compressed, or as text
    mapped_dtype: str | None = None  # "<i2" or ">i2" if the file holds nothing but voxels of this type

    def check_size(self, byte_count: int, header_path: Path) -> None:
        """Raises: InputError if the file is too short for these bytes of voxels, or if it holds other bytes as well."""
        actual = self.path.stat().st_size
        most = actual * DEFLATE_RATIO if self.is_encoded else actual
        if byte_count > most or (self.mapped_dtype is not None and byte_count != actual):
            raise InputError(
                f"{actual:,} bytes, but {header_path.name} claims {byte_count:,}; unpack or download it again",
                path=self.path,
            )
