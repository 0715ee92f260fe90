"""Scans in memory: images of SimpleITK and of nibabel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from p2ch13.util.errors import InputError, name_type
from p2ch13.volumes.formats import find_suffix
from p2ch13.volumes.headers import ScanHeader
from p2ch13.volumes.nifti import RAS_TO_LPS

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

Image: TypeAlias = "sitk.Image | SpatialImage"
SIMPLE_ITK, NIBABEL = Path("SimpleITK image"), Path("nibabel image")  # in the place of a file's path
NAME = "image"  # in the place of the series UID
TAKEN = "a path, a SimpleITK image or a nibabel image"


@dataclass(frozen=True, eq=False)
class ImageVoxels:
    """The voxels of an image.

    Attributes:
        stored: (index, row, col), values as they are stored.
        slope, intercept: from a stored value to HU.
        owner: the image, whose memory `stored` may be.
    """

    stored: NDArray[Any]
    slope: float = 1.0
    intercept: float = 0.0
    owner: object = None

    def read_slices(self) -> Iterator[NDArray[Any]]:
        """Yield slices (row, col), rescaled."""
        is_scaled = (self.slope, self.intercept) != (1.0, 0.0)
        for values in self.stored:
            yield values * self.slope + self.intercept if is_scaled else values


def read_image(image: Image, series_uid: str | None = None) -> ScanHeader:
    """Read the geometry of an image in memory.

    Args: series_uid: its name; None: that of its file, as far as it knows one.
    Raises: InputError if this is no image, or its voxels or its geometry are not those of a 3-D scan.
    """
    if isinstance(image, sitk.Image):
        return read_simple_itk(image, series_uid or NAME)
    nibabel = sys.modules.get("nibabel")  # not imported: without it, there is no image of it
    if nibabel is not None and isinstance(image, nibabel.spatialimages.SpatialImage):
        return read_nibabel(image, series_uid)
    cure = ", which has no geometry; make it a SimpleITK image" if isinstance(image, np.ndarray) else ""
    raise InputError(f"a scan is {TAKEN}, not {name_type(image)}{cure}")


def read_simple_itk(image: sitk.Image, series_uid: str) -> ScanHeader:
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        size = f"{image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} components"
        raise InputError(f"it has {size}; a CT scan has 3 and 1", path=SIMPLE_ITK)
    voxels = ImageVoxels(sitk.GetArrayViewFromImage(image), owner=image)
    check_voxels(voxels.stored, SIMPLE_ITK)
    origin_xyz, vx_size_xyz = np.array(image.GetOrigin()), np.array(image.GetSpacing())
    direction = np.reshape(image.GetDirection(), (3, 3))
    return ScanHeader(SIMPLE_ITK, series_uid, voxels.stored.shape, origin_xyz, vx_size_xyz, direction, image=voxels)


def read_nibabel(image: SpatialImage, series_uid: str | None) -> ScanHeader:
    """Nibabel's axes are (col, row, index), its affine is in RAS, and a file's scaling is of its voxels' proxy."""
    path = Path(image.get_filename() or NIBABEL)
    proxy: Any = image.dataobj
    is_stored = hasattr(proxy, "get_unscaled")
    stored = np.asanyarray(proxy.get_unscaled() if is_stored else proxy)
    scaling = (float(proxy.slope), float(proxy.inter)) if is_stored else (1.0, 0.0)
    cols, rows, slices, *more = (*stored.shape, 1, 1, 1)[: max(3, stored.ndim)]
    if stored.ndim < 3 or any(size != 1 for size in more):
        raise InputError(f"its shape is {stored.shape}; a CT scan has 3 dimensions", path=path)
    check_voxels(stored, path)
    check_orientation(image, path)
    voxels = ImageVoxels(stored.reshape(cols, rows, slices).T, *scaling, owner=image)
    steps = RAS_TO_LPS[:, None] * np.asarray(image.affine, dtype=float)[:3]
    name = NAME if path == NIBABEL else path.name.removesuffix(find_suffix(path))
    return ScanHeader.of_matrix(path, series_uid or name, voxels.stored.shape, steps[:, :3], steps[:, 3], image=voxels)


def check_voxels(stored: NDArray[Any], path: Path) -> None:
    if stored.dtype.kind not in "iuf":
        raise InputError(f"its voxels are {stored.dtype}; a CT scan has integers or floats", path=path)
    if not stored.size:
        raise InputError("it has no voxels", path=path)


def check_orientation(image: SpatialImage, path: Path) -> None:
    """Raises: InputError for NIfTI without an orientation, for which nibabel takes one of its own."""
    import nibabel  # loaded, since this is an image of it

    if image.affine is None:
        raise InputError("it has no affine; give it one", path=path)
    if isinstance(image, nibabel.Nifti1Pair) and not (image.header["sform_code"] or image.header["qform_code"]):
        cure = "set its affine with a code, `image.set_sform(affine, 1)`"
        raise InputError(f"its orientation is unknown (qform_code and sform_code are 0); {cure}", path=path)
