"""Scans in MetaImage, NIfTI and NRRD, made byte by byte: each field of a header can be changed or left out."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np

SHAPE_IRC = (6, 20, 24)
SPACING_XYZ = np.array([3.0, 4.0, 5.0])  # mm
ORIGIN_XYZ = np.array([-36.0, -40.0, 100.0])  # mm, LPS
# Air, lung and tissue; no slice, row or column is like another.
CHEST = np.random.default_rng(5).integers(-1000, 100, SHAPE_IRC).astype(np.int16)
GAP = None  # the value of a field that is left out


def join(numbers: Any) -> str:
    return " ".join(f"{number:g}" for number in np.ravel(numbers))


def write_metaimage(
    folder: Path, fields: dict[str, Any] | None = None, data: bytes | None = None, name: str = "scan"
) -> Path:
    """Write an .mhd and a .raw beside it; an .mha if `ElementDataFile` is LOCAL."""
    header: dict[str, Any] = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": join(ORIGIN_XYZ),
        "ElementSpacing": join(SPACING_XYZ),
        "DimSize": join(SHAPE_IRC[::-1]),
        "ElementType": "MET_SHORT",
        **(fields or {}),
    }
    data_file = header.pop("ElementDataFile", f"{name}.raw")
    text = "".join(f"{key} = {value}\n" for key, value in header.items() if value is not GAP)
    content = (text + f"ElementDataFile = {data_file}\n").encode()
    voxels = CHEST.astype("<i2").tobytes() if data is None else data
    folder.mkdir(parents=True, exist_ok=True)
    if data_file == "LOCAL":
        path = folder / f"{name}.mha"
        path.write_bytes(content + voxels)
        return path
    path = folder / f"{name}.mhd"
    path.write_bytes(content)
    (folder / f"{name}.raw").write_bytes(voxels)
    return path


def write_nrrd(path: Path, fields: dict[str, Any] | None = None, data: bytes | None = None) -> Path:
    x, y, z = SPACING_XYZ
    header: dict[str, Any] = {
        "type": "short",
        "dimension": 3,
        "space": "left-posterior-superior",
        "sizes": join(SHAPE_IRC[::-1]),
        "space directions": f"({x},0,0) (0,{y},0) (0,0,{z})",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "({},{},{})".format(*ORIGIN_XYZ),
        **(fields or {}),
    }
    text = "".join(f"{key}: {value}\n" for key, value in header.items() if value is not GAP)
    path.write_bytes(f"NRRD0005\n{text}\n".encode() + (CHEST.astype("<i2").tobytes() if data is None else data))
    return path


# Format and first byte of each field, in versions 1 and 2; see nifti1.h and nifti2.h.
NIFTI_FIELDS: dict[str, tuple[str, int, str, int]] = {
    "sizeof_hdr": ("i", 0, "i", 0),
    "dim_info": ("B", 39, "B", 524),
    "dim": ("8h", 40, "8q", 16),
    "intent_code": ("h", 68, "i", 504),
    "datatype": ("h", 70, "h", 12),
    "bitpix": ("h", 72, "h", 14),
    "slice_start": ("h", 74, "q", 224),
    "pixdim": ("8f", 76, "8d", 104),
    "vox_offset": ("f", 108, "q", 168),
    "scl_slope": ("f", 112, "d", 176),
    "scl_inter": ("f", 116, "d", 184),
    "slice_code": ("B", 122, "i", 496),
    "xyzt_units": ("B", 123, "i", 500),
    "cal_max": ("f", 124, "d", 192),
    "toffset": ("f", 136, "d", 216),
    "descrip": ("80s", 148, "80s", 240),
    "qform_code": ("h", 252, "i", 344),
    "sform_code": ("h", 254, "i", 348),
    "quatern": ("3f", 256, "3d", 352),
    "qoffset": ("3f", 268, "3d", 376),
    "srow": ("12f", 280, "12d", 400),
    "intent_name": ("16s", 328, "16s", 508),
    "magic": ("4s", 344, "8s", 4),
}


def write_nifti(
    path: Path, fields: dict[str, Any] | None = None, data: bytes | None = None, version: int = 1, order: str = "<"
) -> Path:
    """Write columns to the left, rows to the back: both run against NIfTI's axes."""
    x, y, z = SPACING_XYZ
    right, front, top = ORIGIN_XYZ * (-1, -1, 1)
    size = {1: 348, 2: 540}[version]
    values: dict[str, Any] = {
        "sizeof_hdr": size,
        "dim": [3, *SHAPE_IRC[::-1], 1, 1, 1, 1],
        "datatype": 4,
        "bitpix": 16,
        "pixdim": [1, x, y, z, 0, 0, 0, 0],
        "vox_offset": size + 4,
        "scl_slope": 1,
        "xyzt_units": 2,
        "qform_code": 1,
        "sform_code": 1,
        "quatern": [0, 0, 1],  # half a turn around z
        "qoffset": [right, front, top],
        "srow": [-x, 0, 0, right, 0, -y, 0, front, 0, 0, z, top],
        "magic": {1: b"n+1\0", 2: b"n+2\0\r\n\x1a\n"}[version],
        **(fields or {}),
    }
    content = bytearray(size + 4)
    for name, value in values.items():
        kind, start = NIFTI_FIELDS[name][:2] if version == 1 else NIFTI_FIELDS[name][2:]
        struct.pack_into(order + kind, content, start, *(value if isinstance(value, list) else [value]))
    content += CHEST.astype(order + "i2").tobytes() if data is None else data
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))
    return path
