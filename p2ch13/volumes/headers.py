"""A scan's header, which every format's reader makes: its shape, and a geometry that a CT scan can have."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from p2ch13.util.contents import HEAD_BYTES, describe_content
from p2ch13.util.errors import InputError, errors_naming
from p2ch13.volumes.voxels import VoxelFile

if TYPE_CHECKING:
    from p2ch13.volumes.dicom.slices import DicomSlice
    from p2ch13.volumes.images import ImageVoxels

log = logging.getLogger(__name__)

HEADER_BYTES = 2**20  # no header of text is longer
SPACING_LIMITS_MM = (0.01, 100.0)  # of a human's scan
EXTENT_LIMIT_MM = 5000.0
ORIGIN_LIMIT_MM = 1e5
ANGLE_TOLERANCE = 1e-2  # of direction vectors, which some programs round to two digits
SHIFT_TOLERANCE = 0.5  # of a pixel, of any voxel, by straightening axes that are not at right angles
MM_OF_UNITS = {
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1.0),
    **dict.fromkeys(
        ("um", "\N{MICRO SIGN}m", "\N{GREEK SMALL LETTER MU}m", "micron", "micrometer", "micrometre"), 1e-3
    ),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 10.0),
    **dict.fromkeys(("m", "meter", "metre"), 1000.0),
    **dict.fromkeys(("", "?", "???"), 1.0),  # unknown
}


@dataclass(frozen=True, eq=False)
class ScanHeader:
    """Shape and geometry of a scan, as used by `p2ch13.util.coordinates`.

    Axes that are a hair off a right angle, by rounding, become the nearest ones that are not.
    """

    path: Path
    series_uid: str
    shape_irc: tuple[int, int, int]  # slices, rows, cols
    origin_xyz: NDArray[np.float64]  # (3,) mm
    vx_size_xyz: NDArray[np.float64]  # (3,) mm
    direction: NDArray[np.float64]  # (3, 3)
    voxel_file: VoxelFile | None = None
    dicom_slices: tuple[DicomSlice, ...] = ()  # in order
    image: ImageVoxels | None = None  # of a scan in memory; `path` then says what it is

    def __post_init__(self) -> None:
        """Raises: InputError for a spacing, size, origin or direction that no scan has."""
        spacing, extent = self.vx_size_xyz, self.vx_size_xyz * self.shape_irc[::-1]
        low, high = SPACING_LIMITS_MM
        if not ((low <= spacing) & (spacing <= high)).all() or not (abs(self.origin_xyz) <= ORIGIN_LIMIT_MM).all():
            message = f"voxels of {spacing.tolist()} mm at {self.origin_xyz.tolist()}; repair the header"
            raise InputError(message, path=self.path)
        if not (extent <= EXTENT_LIMIT_MM).all():
            raise InputError(f"a scan of {format_mm(extent)} mm; repair the voxel size", path=self.path)
        object.__setattr__(self, "direction", self._straighten())

    @classmethod
    def of_matrix(
        cls,
        path: Path,
        series_uid: str,
        shape_irc: tuple[int, int, int],
        matrix: NDArray[np.float64],
        origin_xyz: NDArray[np.float64],
        voxel_file: VoxelFile | None = None,
        image: ImageVoxels | None = None,
    ) -> ScanHeader:
        """Make a header of the steps, in mm, LPS, to the next col, row and slice: the columns of `matrix`, (3, 3)."""
        if voxel_file is not None:
            voxel_file.check_size(shape_irc, path)
        vx_size_xyz = np.linalg.norm(matrix, axis=0)
        if not (np.isfinite(vx_size_xyz) & (vx_size_xyz > 0)).all():
            raise InputError(f"voxels of {vx_size_xyz.tolist()} mm; repair the header", path=path)
        direction = matrix / vx_size_xyz
        return cls(path, series_uid, shape_irc, origin_xyz, vx_size_xyz, direction, voxel_file, image=image)

    @property
    def mapped_file(self) -> Path | None:
        """The file whose voxels are read as a memory map."""
        return self.voxel_file.path if self.voxel_file is not None and self.voxel_file.is_mappable else None

    def _straighten(self) -> NDArray[np.float64]:
        """Find the nearest axes at right angles. Raises: InputError if a voxel would move by half a pixel."""
        lengths = np.linalg.norm(self.direction, axis=0)
        if not np.allclose(lengths, 1, rtol=0, atol=ANGLE_TOLERANCE):
            message = f"its direction matrix {self.direction.tolist()} is no rotation; repair the header"
            raise InputError(message, path=self.path)
        if np.allclose(self.direction.T @ self.direction, np.eye(3), rtol=0, atol=1e-9):
            return self.direction
        axes = self.direction / lengths
        left, _, right = np.linalg.svd(axes)
        straight: NDArray[np.float64] = left @ right
        corners = np.array(list(product((0, 1), repeat=3))) * (np.array(self.shape_irc[::-1]) - 1) * self.vx_size_xyz
        shift_mm = np.linalg.norm(corners @ (straight - axes).T, axis=1).max()
        if shift_mm > SHIFT_TOLERANCE * self.vx_size_xyz.min():
            cosines = (axes.T @ axes)[np.triu_indices(3, 1)]
            angle = math.degrees(math.asin(min(1.0, float(abs(cosines).max()))))
            message = f"its axes are {angle:.1f} degrees off a right angle, as of a tilted gantry; correct the tilt"
            raise InputError(f"{message}, with dcm2niix", path=self.path)
        return straight

    @property
    def dicom_files(self) -> tuple[Path, ...]:
        """The files of a DICOM series, in order; none for other formats."""
        return tuple(dict.fromkeys(one.file for one in self.dicom_slices))


def read_lines(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """Yield the lines at the start of a file: number, line without its end, and the byte after it."""
    with errors_naming(path), path.open("rb") as file:
        number = 0
        while file.tell() < HEADER_BYTES and (line := file.readline(HEADER_BYTES)):
            number += 1
            yield number, line.removesuffix(b"\n").removesuffix(b"\r"), file.tell()


def describe_other(path: Path) -> str | None:
    """Say what a file is that has no header of the format it is named after, see `describe_content`."""
    with errors_naming(path), path.open("rb") as file:
        return describe_content(file.read(HEAD_BYTES))


def decode_text(line: bytes) -> str:
    """Decode UTF-8, or else Latin-1, as older programs write."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def parse_numbers(words: Sequence[str], count: int) -> NDArray[np.float64]:
    """Raises: ValueError if there are not `count` finite numbers."""
    numbers = np.array([float(word.replace("_", " _")) for word in words])  # only Python reads 1_0 as 10
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(" ".join(words))
    return numbers


def format_mm(lengths: NDArray[np.float64]) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths)


@cache
def warn_once(message: str) -> None:
    """Log a warning once in a process, however often the file is opened."""
    log.warning(message)
