"""Read the header of a MetaImage file: https://itk.org/Wiki/ITK/MetaIO/Documentation

ITK reads an invalid number as 0, uses the first of two lines with one key, knows no unit but mm, and opens any file
that a header names.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

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
from p2ch13.volumes.voxels import DEFLATED, RAW, TEXT, VoxelFile

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
ORIGIN = ("Offset", "Position", "Origin")  # keys of one meaning
MATRIX = ("TransformMatrix", "Rotation", "Orientation")
BYTE_ORDER = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
USED = (
    *("ObjectType", "NDims", "DimSize", "ElementSpacing", "ElementSize", "DistanceUnits", *ORIGIN, *MATRIX),
    *("ElementType", "ElementNumberOfChannels", "BinaryData", *BYTE_ORDER, "CompressedData", "HeaderSize"),
    *("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "ElementDataFile"),
)
BY_LOWER_CASE = {key.lower(): key for key in USED}


class Fields:
    """The fields of a header by key, as text. Args: end: the byte after its last line."""

    def __init__(self, path: Path, values: dict[str, str], end: int) -> None:
        self.path, self.values, self.end = path, values, end

    def get(self, key: str, default: str = "") -> str:
        return self.values.get(key) or default

    def invalid(self, key: str, cure: str = "repair the header") -> InputError:
        return InputError(f"{key} is {self.values.get(key)!r}; {cure}", path=self.path)

    def numbers(self, key: str, count: int) -> NDArray[np.float64] | None:
        """Returns: (count,); None if there is no such field."""
        if not self.get(key):
            return None
        try:
            return parse_numbers(self.values[key].split(), count)
        except ValueError:
            raise self.invalid(key) from None

    def one_of(self, keys: tuple[str, ...], count: int) -> NDArray[np.float64] | None:
        """Read the numbers of the key that is there. Raises: InputError if two have different ones."""
        found = {key: numbers for key in keys if (numbers := self.numbers(key, count)) is not None}
        first = next(iter(found.values()), None)
        if any(not np.array_equal(first, other) for other in found.values() if first is not None):
            raise InputError(f"{' and '.join(found)} contradict each other; remove one", path=self.path)
        return first

    def is_true(self, key: str, default: bool = False) -> bool:
        """Read a truth value by its first letter, as MetaIO does."""
        value = self.get(key, str(default))
        if value[0] not in "TtFf10":
            raise self.invalid(key, "it has to be True or False")
        return value[0] in "Tt1"


def read_metaimage(path: Path, series_uid: str) -> ScanHeader:
    """Raises: InputError, naming the field that is invalid or contradicts another."""
    fields = read_fields(path)
    if fields.get("ObjectType", "Image").lower() != "image":
        raise fields.invalid("ObjectType", "a CT scan is an Image")
    count, shape_irc = read_shape(fields)
    unit = fields.get("DistanceUnits").lower()
    if unit not in MM_OF_UNITS:
        raise fields.invalid("DistanceUnits", "it has to be mm, um, cm or m")
    spacing = fields.numbers("ElementSpacing", count)
    if spacing is None:
        spacing = fields.numbers("ElementSize", count)
    if spacing is None:
        message = "neither ElementSpacing nor ElementSize, so its voxel size is unknown; add it, or convert it again"
        raise InputError(message, path=path)
    if not (spacing[:3] > 0).all():
        raise fields.invalid("ElementSpacing" if fields.get("ElementSpacing") else "ElementSize")
    origin, matrix = fields.one_of(ORIGIN, count), fields.one_of(MATRIX, count * count)
    if origin is None or matrix is None:
        missing = " and ".join(keys[0] for keys, found in ((ORIGIN, origin), (MATRIX, matrix)) if found is None)
        warn_once(f"{path}: no {missing}; taken as 0, columns to the left and rows to the back. Its place is a guess.")
    directions = np.eye(3) if matrix is None else matrix.reshape(count, count)[:3, :3].T  # an axis in each row
    voxel_file = describe_voxels(fields, shape_irc)
    voxel_file.check_size(shape_irc, path)
    return ScanHeader(
        path,
        series_uid,
        shape_irc,
        origin_xyz=(np.zeros(3) if origin is None else origin[:3]) * MM_OF_UNITS[unit],
        vx_size_xyz=spacing[:3] * MM_OF_UNITS[unit],
        direction=directions,
        voxel_file=voxel_file,
    )


def read_fields(path: Path) -> Fields:
    """Read the `key = value` lines of a header, the last of which is ElementDataFile.

    Keys that are not used are ignored, such as `dim[0]`, which ITK writes of a NIfTI file, or `0008|0060`, of DICOM.
    Values of these may go on in further lines.
    Raises: InputError for an invalid line, or two with one key.
    """
    values: dict[str, str] = {}
    is_ignored = False
    for number, line, end in read_lines(path):
        text = decode_text(line).strip(" \t")
        name, separator, value = split_line(text)
        key = BY_LOWER_CASE.get(name.lower())
        if is_ignored and not separator and BY_LOWER_CASE.get(name.partition(" ")[0].lower()) is None:
            continue
        if text and (not name or not separator or not is_text(text) or key in values):
            cure = f"it is {kind}" if (kind := describe_other(path)) else "repair it, or unpack it again"
            message = f"no MetaImage header ({text[:40]!r}); {cure}"
            raise InputError(message, path=path, line=number)
        is_ignored = bool(text) and key is None
        if key is not None:
            values[key] = value
        if key == "ElementDataFile" and value:
            return Fields(path, values, end)
    cure = f"it is {kind}" if (kind := describe_other(path)) else "unpack it again"
    raise InputError(f"incomplete header, without ElementDataFile; {cure}", path=path)


def is_text(line: str) -> bool:
    return not any(char < " " and char != "\t" for char in line)


def split_line(line: str) -> tuple[str, str, str]:
    """Split at the first of = and :, at which MetaIO ends a key."""
    match = re.search("[=:]", line)
    if match is None:
        return line, "", ""
    return line[: match.start()].strip(), match[0], line[match.end() :].strip()


def read_shape(fields: Fields) -> tuple[int, tuple[int, int, int]]:
    """Returns: the number of dimensions, and slices, rows and cols; further dimensions have a size of 1."""
    if not re.fullmatch("[3-9]", fields.get("NDims")):
        raise fields.invalid("NDims", "a CT scan has 3")
    count, sizes = int(fields.get("NDims")), fields.get("DimSize").split()
    if len(sizes) != count or not all(re.fullmatch("[0-9]{1,9}", size) and int(size) for size in sizes):
        raise fields.invalid("DimSize")
    cols, rows, slices, *others = map(int, sizes)
    if any(size > 1 for size in others):
        raise fields.invalid("DimSize", "a CT scan has one volume: split it")
    return count, (slices, rows, cols)


def find_metaimage_voxels(path: Path) -> VoxelFile:
    """Raises: InputError if the header is invalid, or its voxels are not in one file below its folder."""
    fields = read_fields(path)
    return describe_voxels(fields, read_shape(fields)[1])


def describe_voxels(fields: Fields, shape_irc: tuple[int, int, int]) -> VoxelFile:
    name, path = fields.get("ElementDataFile"), fields.path
    is_own = name in ("LOCAL", "Local", "local")
    data_file = path if is_own else find_data_file(path, name)
    if fields.get("ElementType") not in TYPES:
        raise fields.invalid("ElementType", "a CT scan has integers or floats")
    if fields.get("ElementNumberOfChannels", "1") != "1":
        raise fields.invalid("ElementNumberOfChannels", "a CT scan has 1")
    kind, encoding = TYPES[fields.get("ElementType")], RAW
    if fields.is_true("CompressedData"):
        encoding = DEFLATED
    elif not fields.is_true("BinaryData", default=True):
        kind, encoding = "f8", TEXT
    is_big = {fields.is_true(key) for key in BYTE_ORDER if fields.get(key)}
    if len(is_big) > 1:
        raise InputError(f"{' and '.join(BYTE_ORDER)} contradict each other; remove the wrong one", path=path)
    dtype = (">" if True in is_big and encoding != TEXT else "<") + kind
    start = find_start(fields, data_file, math.prod(shape_irc) * np.dtype(dtype).itemsize if encoding == RAW else None)
    slope, intercept = (fields.numbers(f"ElementToIntensityFunction{name}", 1) for name in ("Slope", "Offset"))
    if slope is not None and slope[0] == 0:
        raise fields.invalid("ElementToIntensityFunctionSlope", "it makes all voxels alike: repair the header")
    return VoxelFile(
        data_file,
        dtype,
        encoding,
        start,
        slope=1.0 if slope is None else float(slope[0]),
        intercept=0.0 if intercept is None else float(intercept[0]),
        is_alone=not is_own,
    )


def find_start(fields: Fields, data_file: Path, byte_count: int | None) -> int:
    """Find the byte with which the voxels begin: after the header, or after HeaderSize bytes of their file.

    Args: byte_count: of all voxels, which are at the file's end if HeaderSize is -1; None if they are encoded.
    """
    first = fields.end if data_file == fields.path else 0
    header_size, start = fields.get("HeaderSize", "0"), -1
    if re.fullmatch("[0-9]{1,9}", header_size):
        start = int(header_size) or first
    elif header_size == "-1" and byte_count is not None:
        with errors_naming(data_file):
            start = data_file.stat().st_size - byte_count
    if start < first:
        raise fields.invalid("HeaderSize", "the file has no such place for its voxels")
    return start


def find_data_file(path: Path, name: str) -> Path:
    """Find the file that holds all voxels.

    Its name may differ from the one in the header by case, or as systems differ that spell letters with accents. Of a
    full path, such as programs write that have both files moved later, the name beside the header counts.
    Raises: InputError if it is missing or not below the header's folder, or if each slice has a file.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or PureWindowsPath(name).drive:
        parts = PurePosixPath(parts.name)
    if ".." in parts.parts:
        raise InputError(f"its data file {name} is outside its folder; move it there, correct the header", path=path)
    data_file = path.parent / parts
    with errors_naming(path):  # a name can be too long for the system
        if data_file.is_file():
            return data_file
        beside = list(data_file.parent.iterdir()) if data_file.parent.is_dir() else []
    alike = [file for file in beside if spell(file.name) == spell(data_file.name) and file.is_file()]
    if len(alike) == 1:
        return alike[0]
    if name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"its voxels are in {name!r}, not in one file; save it as .mha, with SimpleITK", path=path)
    raise InputError(f"its data file {name} is missing; unpack or download it again", path=path)


def spell(name: str) -> str:
    """Spell a file's name in one way. A name that is no UTF-8 is read as Latin-1."""
    return unicodedata.normalize("NFC", decode_text(os.fsencode(name))).casefold()
