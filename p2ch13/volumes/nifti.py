"""Read the header of a NIfTI file, version 1 or 2: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h

ITK prints lines of its own, takes the size of a voxel from `pixdim` although the sform says another, makes up an
orientation where there is none, and refuses axes that are off a right angle by rounding.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ch13.util.contents import HEAD_BYTES, describe_content
from p2ch13.util.errors import InputError
from p2ch13.volumes.headers import ScanHeader, format_mm, warn_once
from p2ch13.volumes.voxels import DEFLATED, GZIP_MAGIC, RAW, VoxelFile, naming_damage

FIELDS = {  # type and first byte in version 1, then in version 2
    "sizeof_hdr": ("i4", 0, "i4", 0),
    "dim": ("8i2", 40, "8i8", 16),
    "datatype": ("i2", 70, "i2", 12),
    "bitpix": ("i2", 72, "i2", 14),
    "pixdim": ("8f4", 76, "8f8", 104),
    "vox_offset": ("f4", 108, "i8", 168),
    "scl_slope": ("f4", 112, "f8", 176),
    "scl_inter": ("f4", 116, "f8", 184),
    "xyzt_units": ("u1", 123, "i4", 500),
    "qform_code": ("i2", 252, "i4", 344),
    "sform_code": ("i2", 254, "i4", 348),
    "quatern": ("3f4", 256, "3f8", 352),
    "qoffset": ("3f4", 268, "3f8", 376),
    "srow": ("(3,4)f4", 280, "(3,4)f8", 400),
    "magic": ("S4", 344, "S8", 4),
}
HEADER_BYTES = (348, 540)
MAGIC = (b"n+1", b"n+2\0\r\n\032\n")
PAIR_MAGIC = (b"ni1", b"ni2\0\r\n\032\n")  # the voxels are in an .img
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
MM_OF_CODES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}  # 0: unknown
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
QUATERNION_TOLERANCE = 1e-3  # of a sum of squares that should be at most 1
SIZE_TOLERANCE = 1e-2  # relative, of the voxel size in two fields


def read_nifti(path: Path, series_uid: str) -> ScanHeader:
    """Raises: InputError, naming the field that is invalid or contradicts another."""
    with naming_damage(path):
        with path.open("rb") as file:
            encoding = DEFLATED if file.read(2) == GZIP_MAGIC else RAW
        with VoxelFile(path, encoding=encoding).open() as file:
            header, order = parse_header(path, file.read(max(HEADER_BYTES)))
    shape_irc, dtype, offset = read_shape(path, header), order + read_type(path, header), read_offset(path, header)
    start, skip = (offset, 0) if encoding == RAW else (0, offset)
    voxel_file = VoxelFile(path, dtype, encoding, start, skip, *read_scaling(path, header))
    scale, qform, sform = read_unit(path, header), read_qform(path, header), read_sform(path, header)
    affine = sform if sform is not None else qform if qform is not None else assume_affine(path, header)
    steps = RAS_TO_LPS[:, None] * affine * scale
    scan = ScanHeader.of_matrix(path, series_uid, shape_irc, steps[:, :3], steps[:, 3], voxel_file)
    if sform is not None:  # after shear has been refused: it lengthens an axis, and a qform cannot hold it
        check_pixdim(path, header, sform)
        shift_mm = 0.0 if qform is None else scale * largest_shift(sform - qform, shape_irc)
        if shift_mm > scan.vx_size_xyz.min() / 2:
            message = f"qform and sform contradict each other, by {shift_mm:.1f} mm; set the code of the wrong one to 0"
            raise InputError(message, path=path)
    return scan


def invalid(path: Path, field: str, value: object, cure: str = "repair the header") -> InputError:
    return InputError(f"{field} is {value}; {cure}", path=path)


def parse_header(path: Path, data: bytes) -> tuple[Any, str]:
    """Returns: a record of the header's fields, and the byte order."""
    found = [
        (version, order)
        for version, size in enumerate(HEADER_BYTES)
        for order, name in (("<", "little"), (">", "big"))
        if len(data) >= size and data[:4] == size.to_bytes(4, name)  # type: ignore[arg-type]
    ]
    if not found:
        kind = describe_content(data[:HEAD_BYTES]) or "another format's, or cut short; convert it again"
        raise InputError(f"no NIfTI header; it is {kind}", path=path)
    version, order = found[0]
    types, offsets = zip(*((field[2 * version], field[2 * version + 1]) for field in FIELDS.values()), strict=True)
    layout = {"names": [*FIELDS], "formats": [*types], "offsets": [*offsets], "itemsize": HEADER_BYTES[version]}
    header = np.frombuffer(data, np.dtype(layout).newbyteorder(order), 1)[0]  # type: ignore[call-overload]
    magic = bytes(header["magic"])
    if magic in PAIR_MAGIC:
        raise InputError("its voxels are in an .img; save it as one file, .nii.gz", path=path)
    if magic != MAGIC[version]:
        raise InputError(f"its magic is {magic!r}, not NIfTI's; convert it again, from its source", path=path)
    return header, order


def read_shape(path: Path, header: Any) -> tuple[int, int, int]:
    dim = header["dim"].tolist()
    if not 3 <= dim[0] <= 7:
        raise invalid(path, "dim[0]", dim[0], "a CT scan has 3 dimensions")
    if min(dim[1:4]) < 1 or min(dim[1 : dim[0] + 1]) < 0:
        raise invalid(path, "dim", dim[: dim[0] + 1])
    if any(size > 1 for size in dim[4 : dim[0] + 1]):  # 0 counts as 1
        raise invalid(path, "dim", dim[: dim[0] + 1], "a CT scan has one volume of single values: split it")
    return dim[3], dim[2], dim[1]


def read_type(path: Path, header: Any) -> str:
    code, bits = int(header["datatype"]), int(header["bitpix"])
    if code not in TYPES:
        raise invalid(path, "datatype", code, "a CT scan has integers or floats")
    if bits not in (0, 8 * np.dtype(TYPES[code]).itemsize):
        raise InputError(f"datatype {code} and bitpix {bits} contradict each other; repair the header", path=path)
    return TYPES[code]


def read_offset(path: Path, header: Any) -> int:
    offset = float(header["vox_offset"])
    if not (header.dtype.itemsize <= offset < 2**62 and offset.is_integer()):
        raise invalid(path, "vox_offset", offset)
    return int(offset)


def read_scaling(path: Path, header: Any) -> tuple[float, float]:
    """Returns: slope and intercept. As in NIfTI's own library, there is no scaling if the slope is 0 or NaN."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    for field, value in (("scl_slope", slope), ("scl_inter", intercept)):
        if not np.isfinite(value):
            raise invalid(path, field, value)
    return slope, intercept


def read_unit(path: Path, header: Any) -> float:
    """Returns: the mm of a length of 1."""
    unit = int(header["xyzt_units"]) & 7
    if unit not in MM_OF_CODES:
        raise invalid(path, "xyzt_units", unit, "it has to be m, mm or micrometers")
    return MM_OF_CODES[unit]


def assume_affine(path: Path, header: Any) -> NDArray[np.float64]:
    """Take a file without an orientation as the standard's method 1 does."""
    pixdim = read_pixdim(path, header)
    if int(header["xyzt_units"]) & 7 == 0 and (pixdim == 1).all():
        raise InputError("it has neither voxel size nor orientation; convert it again, from its source", path=path)
    warn_once(
        f"{path}: its orientation is unknown (qform_code and sform_code are 0); taken as NIfTI says, columns to the "
        "right and rows to the front. If that is wrong, left is right."
    )
    return np.column_stack([np.diag(pixdim), np.zeros(3)])


def read_sform(path: Path, header: Any) -> NDArray[np.float64] | None:
    """Returns: the affine, (3, 4), RAS; None if there is none."""
    if not is_given(path, header, "sform_code"):
        return None
    sform: NDArray[np.float64] = header["srow"].astype(np.float64)
    if not np.isfinite(sform).all():
        raise invalid(path, "srow", sform.tolist())
    return sform


def check_pixdim(path: Path, header: Any, sform: NDArray[np.float64]) -> None:
    """Raises: InputError if `pixdim` contradicts the sform; 1, 0 and NaN are what stands there if nobody sets it.

    Its sign tells nothing: older programs wrote the direction of an axis into it, which is the sform's to tell.
    """
    pixdim, sizes = abs(header["pixdim"][1:4].astype(np.float64)), np.linalg.norm(sform[:, :3], axis=0)
    is_set = not (np.isnan(pixdim) | (pixdim == 0) | (pixdim == 1)).all()
    if is_set and not np.allclose(pixdim, sizes, rtol=SIZE_TOLERANCE, atol=0):
        message = f"voxels of {format_mm(pixdim)} in pixdim, of {format_mm(sizes)} in the sform; repair the header"
        raise InputError(message, path=path)


def largest_shift(difference: NDArray[np.float64], shape_irc: tuple[int, int, int]) -> float:
    """Find how far two affines, (3, 4), are apart at a corner of the scan, from their difference."""
    corners = np.array([*product(*((0, size - 1) for size in reversed(shape_irc)), [1])])
    return float(np.linalg.norm(corners @ difference.T, axis=1).max())


def is_given(path: Path, header: Any, field: str) -> bool:
    code = int(header[field])
    if code < 0:
        raise invalid(path, field, code)
    return code > 0


def read_pixdim(path: Path, header: Any) -> NDArray[np.float64]:
    pixdim: NDArray[np.float64] = header["pixdim"][1:4].astype(np.float64)
    if not (np.isfinite(pixdim) & (pixdim > 0)).all():
        raise invalid(path, "pixdim", pixdim.tolist())
    return pixdim


def read_qform(path: Path, header: Any) -> NDArray[np.float64] | None:
    """Compute the affine, (3, 4), RAS, of the quaternion; None if there is none. Source: nifti1.h, method 2."""
    if not is_given(path, header, "qform_code"):
        return None
    quaternion, offset = header["quatern"].astype(np.float64), header["qoffset"].astype(np.float64)
    sizes, handedness = read_pixdim(path, header), float(header["pixdim"][0])
    if not np.isfinite([*quaternion, *offset, handedness]).all():
        raise invalid(path, "quatern, qoffset or pixdim[0]", [*quaternion.tolist(), *offset.tolist(), handedness])
    rest = 1 - float(quaternion @ quaternion)
    if rest < -QUATERNION_TOLERANCE:
        raise invalid(path, "quatern", quaternion.tolist())
    b, c, d = quaternion / max(1.0, float(np.linalg.norm(quaternion)))
    a = max(0.0, rest) ** 0.5
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    signs = [1, 1, -1 if handedness < 0 else 1]
    return np.column_stack([rotation * sizes * signs, offset])
