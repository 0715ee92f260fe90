"""Read the header of a NRRD file: https://teem.sourceforge.net/nrrd/format.html

ITK knows no unit but mm, and takes a voxel for 1 mm where its size is missing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2ch13.util.errors import InputError, errors_naming
from p2ch13.volumes.headers import (
    MM_OF_UNITS,
    ScanHeader,
    decode_text,
    describe_other,
    parse_numbers,
    read_lines,
    warn_once,
)
from p2ch13.volumes.voxels import DEFLATED, HEX, RAW, TEXT, VoxelFile

TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
ENCODINGS = {"raw": RAW, "gzip": DEFLATED, "gz": DEFLATED, "hex": HEX, **dict.fromkeys(("text", "txt", "ascii"), TEXT)}
TO_LPS = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
}
PATIENT_WORDS, PATIENT_LETTERS = ("anterior", "posterior", "superior", "inferior"), re.compile("[lrapsi]{3}t?")
USED = (
    *("dimension", "sizes", "type", "encoding", "endian", "lineskip", "byteskip"),
    *("space", "spacedimension", "spacedirections", "spaceorigin", "spaceunits", "spacings", "units"),
)
SIZE_TOLERANCE = 1e-2  # relative, of the voxel size in two fields


@dataclass(frozen=True)
class Fields:
    """The fields of a header by key, without blanks and in small letters. Attributes: `end`, the byte after it."""

    path: Path
    values: dict[str, str]
    end: int

    def get(self, key: str) -> str:
        return self.values.get(key, "")

    def invalid(self, key: str, cure: str = "repair the header") -> InputError:
        return InputError(f"its field {key!r} is {self.get(key)!r}; {cure}", path=self.path)

    def units(self, key: str, count: int) -> NDArray[np.float64]:
        """Returns: (count,) the mm of a length of 1; mm where there is no such field."""
        names = re.findall('"([^"]*)"', self.get(key)) or self.get(key).split() or [""]
        if len(names) == 1:
            names *= count
        if len(names) != count or not all(name.lower() in MM_OF_UNITS for name in names):
            raise self.invalid(key, "it has to be mm, um, cm or m")
        return np.array([MM_OF_UNITS[name.lower()] for name in names])

    def vectors(self, key: str) -> list[NDArray[np.float64] | None]:
        """Read vectors such as `(1,0,0) none`; each (3,), or None."""
        text = self.get(key)
        words = re.findall(r"\(([^()]*)\)|(none)", text)
        if not words or re.sub(r"\([^()]*\)|none|\s", "", text):
            raise self.invalid(key)
        try:
            return [None if none else parse_numbers(numbers.split(","), 3) for numbers, none in words]
        except ValueError:
            raise self.invalid(key) from None


def read_nrrd(path: Path, series_uid: str) -> ScanHeader:
    """Raises: InputError, naming the field that is invalid or contradicts another."""
    fields = read_fields(path)
    sizes = read_sizes(fields)
    axes, steps = read_steps(fields, sizes)
    cols, rows, slices = (sizes[axis] for axis in axes)
    origin = fields.vectors("spaceorigin")[0] if fields.get("spaceorigin") else None
    space = read_space(fields)
    if space and fields.get("spacedimension"):
        raise InputError("space and space dimension contradict each other; remove the latter", path=path)
    missing = [] if space in TO_LPS else ["space"]
    missing += ["space directions"] if not fields.get("spacedirections") else []
    missing += ["space origin"] if origin is None else []
    if missing:
        message = f"{path}: no {' and '.join(missing)} that tells where the patient is; taken as"
        warn_once(f"{message} left-posterior-superior from 0 on. Left and right are a guess.")
    to_lps = np.array(TO_LPS.get(space, (1.0, 1.0, 1.0)))
    first = np.zeros(3) if origin is None else to_lps * fields.units("spaceunits", 3) * origin
    voxel_file = describe_voxels(fields, sizes)
    return ScanHeader.of_matrix(path, series_uid, (slices, rows, cols), to_lps[:, None] * steps, first, voxel_file)


def read_fields(path: Path) -> Fields:
    """Read the `key: value` lines up to the first empty one; comments, `key:=value` and unused keys are ignored.

    Raises: InputError for an invalid line, or two with one key.
    """
    values: dict[str, str] = {}
    for number, line, end in read_lines(path):
        text = decode_text(line).strip()
        if number == 1 and not text.startswith("NRRD000"):
            break
        if not text:
            return Fields(path, values, end)
        if number == 1 or text.startswith("#"):
            continue
        match = re.fullmatch("([^:]+):(=?)(.*)", text)
        if match is not None and match[2]:
            continue
        key = "" if match is None else re.sub(r"[\s_-]", "", match[1]).lower()
        if match is None or key in values:
            raise InputError(f"no NRRD field, or a second one ({text[:40]!r}); repair it", path=path, line=number)
        if key == "datafile":
            raise InputError("its voxels are in another file; save it as one file, with SimpleITK", path=path)
        if key in USED:
            values[key] = match[3].strip()
    kind = describe_other(path) or "another format's, or cut short; download it again"
    raise InputError(f"no complete NRRD header; it is {kind}", path=path)


def read_space(fields: Fields) -> str:
    """Read the name of the patient's axes; of another space, "". Raises: InputError for axes that NRRD has no name of.

    NRRD's letters tell where an axis runs to. Other programs' may tell where it comes from, as RAI of ITK-SNAP does.
    """
    space = re.sub(r"[\s_-]+", "-", fields.get("space").lower())
    if space in TO_LPS:
        return space
    if any(word in space for word in PATIENT_WORDS) or PATIENT_LETTERS.fullmatch(space):
        raise fields.invalid("space", "it has to be LPS, RAS or LAS; save it with 3D Slicer or SimpleITK")
    return ""


def read_sizes(fields: Fields) -> list[int]:
    words = fields.get("sizes").split()
    if not all(re.fullmatch("[0-9]{1,9}", word) and int(word) for word in words) or len(words) < 3:
        raise fields.invalid("sizes")
    if fields.get("dimension") != str(len(words)):
        raise InputError("dimension and sizes contradict each other; repair the header", path=fields.path)
    return [*map(int, words)]


def read_steps(fields: Fields, sizes: list[int]) -> tuple[list[int], NDArray[np.float64]]:
    """Read the steps to the next voxel along each spatial axis.

    Returns: the three spatial axes, and (3, 3), their steps as columns, in mm, along the axes of the file's space.
    Raises: InputError if there are more, or the size of a voxel is unknown.
    """
    spacings = read_spacings(fields, len(sizes))
    vectors = fields.vectors("spacedirections") if fields.get("spacedirections") else None
    if vectors is None and spacings is None:
        message = "neither spacings nor space directions, so its voxel size is unknown; add it, or convert it again"
        raise InputError(message, path=fields.path)
    if vectors is not None and len(vectors) != len(sizes):
        raise fields.invalid("spacedirections")
    if vectors is not None:
        axes = [axis for axis, vector in enumerate(vectors) if vector is not None]
    else:
        assert spacings is not None
        axes = [axis for axis in range(len(sizes)) if axis < 3 or sizes[axis] > 1]
    if len(axes) != 3 or any(size > 1 for axis, size in enumerate(sizes) if axis not in axes):
        raise fields.invalid("sizes", "a CT scan has 3 dimensions and one value per voxel: split it")
    if vectors is None:
        assert spacings is not None
        lengths = spacings[axes]
        if not (lengths > 0).all():  # NaN too
            raise fields.invalid("spacings")
        return axes, np.diag(lengths)
    steps = np.column_stack([vector for vector in vectors if vector is not None])
    steps = steps * fields.units("spaceunits", 3)[:, None]
    if spacings is not None and not np.allclose(spacings[axes], np.linalg.norm(steps, axis=0), rtol=SIZE_TOLERANCE):
        message = "spacings and space directions contradict each other; remove the wrong one"
        raise InputError(message, path=fields.path)
    return axes, steps


def read_spacings(fields: Fields, count: int) -> NDArray[np.float64] | None:
    """Returns: (count,) in mm, NaN for an axis without; None if there is no such field."""
    words = fields.get("spacings").split()
    if not words:
        return None
    try:
        spacings = np.array([math.nan if word.lower() == "nan" else parse_numbers([word], 1)[0] for word in words])
    except ValueError:
        raise fields.invalid("spacings") from None
    if len(spacings) != count:
        raise fields.invalid("spacings")
    key = "spaceunits" if fields.get("spaceunits") and not fields.get("units") and count == 3 else "units"
    return spacings * fields.units(key, count)


def describe_voxels(fields: Fields, sizes: list[int]) -> VoxelFile:
    kind, encoding = fields.get("type").lower(), fields.get("encoding").lower()
    if kind not in TYPES:
        raise fields.invalid("type", "a CT scan has integers or floats")
    if encoding not in ENCODINGS:
        raise fields.invalid("encoding", "save it with gzip, with SimpleITK")
    dtype, order = TYPES[kind], {"little": "<", "big": ">"}.get(fields.get("endian").lower())
    if ENCODINGS[encoding] == TEXT:
        dtype, order = "f8", "<"
    elif order is None and (fields.get("endian") or dtype[1] != "1"):
        raise fields.invalid("endian", "it has to be little or big")
    start, skip = find_start(fields), fields.get("byteskip") or "0"
    if skip == "-1" and ENCODINGS[encoding] == RAW:  # the voxels are at the end
        with errors_naming(fields.path):
            start, skip = fields.path.stat().st_size - math.prod(sizes) * np.dtype(dtype).itemsize, "0"
    if not re.fullmatch("[0-9]{1,9}", skip) or start < fields.end:
        raise fields.invalid("byteskip", "the file has no such place for its voxels")
    if ENCODINGS[encoding] == DEFLATED:  # bytes are skipped once decoded
        return VoxelFile(fields.path, (order or "<") + dtype, DEFLATED, start, int(skip))
    return VoxelFile(fields.path, (order or "<") + dtype, ENCODINGS[encoding], start + int(skip))


def find_start(fields: Fields) -> int:
    """Find the byte after the header and the lines to be skipped."""
    count = fields.get("lineskip") or "0"
    if not re.fullmatch("[0-9]{1,4}", count):
        raise fields.invalid("lineskip")
    with errors_naming(fields.path), fields.path.open("rb") as file:
        file.seek(fields.end)
        return fields.end + sum(len(file.readline()) for _ in range(int(count)))
