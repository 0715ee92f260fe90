"""File formats: check a header before ITK reads it.

ITK opens any file that a header names, and allocates as many voxels as one claims. It also reads files that are cut
short, and takes damaged compressed streams for what they still give.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2ch13.util.errors import InputError, errors_naming
from p2ch13.volumes.headers import VoxelFile

HEADER_BYTES = 2**16  # no header is longer
BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        image_io: ITK's reader. Left to itself, ITK tries all of its readers on a file.
        find_voxels: checks the header and locates the voxels; raises InputError.
        check_voxels: raises InputError if the voxels, of which there should be this number of bytes, are incomplete.
    """

    image_io: str
    find_voxels: Callable[[Path], VoxelFile]
    check_voxels: Callable[[Path, int], None] = lambda path, byte_count: None


def find_format(path: Path) -> Format:
    """Raises: InputError if the file's name has none of the known suffixes."""
    suffix = next((suffix for suffix in FORMATS if path.name.endswith(suffix)), None)
    if suffix is None:
        raise InputError(f"unknown format; convert it to {', '.join(FORMATS)}", path=path)
    return FORMATS[suffix]


def find_voxel_file(path: Path) -> VoxelFile:
    """Find the file with a scan's voxels. Raises: InputError if the header is invalid or leads out of its folder."""
    return find_format(path).find_voxels(path)


# MetaImage, https://itk.org/Wiki/ITK/MetaIO/Documentation

METAIMAGE_KEY = r"[!-9;<>-~][ -9;<>-~]*?"  # any of ASCII but = and :, at which ITK ends a key
METAIMAGE_LINE = re.compile(rf"({METAIMAGE_KEY})[ \t]*=[ \t]*([\x20-\x7e\t]*)")
METAIMAGE_NUMBERS = {
    **dict.fromkeys(("Offset", "Position", "Origin", "CenterOfRotation", "ElementSpacing", "ElementSize"), 3),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 9),
}
METAIMAGE_COUNTS = {"NDims": 1, "DimSize": 3, "HeaderSize": 1, "CompressedDataSize": 1, "ElementNumberOfChannels": 1}


def find_metaimage_voxels(path: Path) -> VoxelFile:
    fields = read_metaimage_fields(path)
    is_encoded = is_true(fields, "CompressedData") or fields.get("BinaryData", "True").lower() != "true"
    data_file = path if fields["ElementDataFile"] == "LOCAL" else metaimage_data_file(path, fields["ElementDataFile"])
    is_plain = data_file != path and fields.get("ElementType") == "MET_SHORT" and fields.get("HeaderSize", "0") == "0"
    dtype = ">i2" if is_true(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<i2"
    return VoxelFile(data_file, is_encoded, dtype if is_plain and not is_encoded else None)


def read_metaimage_fields(path: Path) -> dict[str, str]:
    """Read the `key = value` lines of a header, the last of which is ElementDataFile.

    Unknown keys are kept, such as `dim[0]`, which ITK writes of a NIfTI file. Whatever ITK might read differently is
    refused: it reads an invalid number as 0, and uses the first of two lines with one key.
    Raises: InputError for an invalid, repeated or missing line.
    """
    with errors_naming(path), path.open("rb") as file:
        text = file.read(HEADER_BYTES).decode("latin-1")
    fields: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        match = METAIMAGE_LINE.fullmatch(line.removesuffix("\r").strip(" \t"))
        if match is None or match[1] in fields:
            raise InputError(f"no MetaImage header ({line[:40]!r}); unpack it again", path=path, line=number)
        fields[match[1]] = match[2].strip()
        if match[1] == "ElementDataFile":
            break
    if not fields.get("ElementDataFile"):
        raise InputError("incomplete header, without ElementDataFile; unpack it again", path=path)
    if fields.get("NDims") != "3":
        raise InputError(f"NDims is {fields.get('NDims')!r}; a CT scan has 3", path=path)
    for numbers, is_valid in ((METAIMAGE_NUMBERS, is_finite), (METAIMAGE_COUNTS, is_count)):
        for key, count in numbers.items():
            values = fields.get(key, "").split()
            if key in fields and (len(values) != count or not all(map(is_valid, values))):
                raise InputError(f"{key} is {fields[key]!r}; repair the header", path=path)
    return fields


def metaimage_data_file(path: Path, name: str) -> Path:
    """Return the file that holds all voxels.

    Raises: InputError if it is missing or not below the header's folder, or if each slice has a file.
    """
    if name.upper().startswith(("LIST", "LOCAL")) or "%" in name:
        raise InputError(f"its voxels are in {name!r}, not in one file; save it as .mha, with SimpleITK", path=path)
    if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name:
        raise InputError(f"its data file {name} is outside its folder; move it there, correct the header", path=path)
    data_file = path.parent / name
    with errors_naming(path):  # a name can be too long for the system
        is_there = data_file.is_file()
    if not is_there:
        raise InputError(f"its data file {data_file.name} is missing; unpack or download it again", path=path)
    return data_file


def is_finite(number: str) -> bool:
    try:
        return math.isfinite(float(number.replace("_", " _")))  # only Python reads 1_0 as 10
    except ValueError:
        return False


def is_count(number: str) -> bool:
    """Return whether ITK's integers can hold a number of voxels or bytes."""
    return re.fullmatch(r"-1|[0-9]{1,10}", number) is not None and int(number) < 2**31


def is_true(fields: dict[str, str], *keys: str) -> bool:
    return any(fields.get(key, "").lower() == "true" for key in keys)


def check_metaimage_stream(path: Path, byte_count: int) -> None:
    """Decompress all voxels of a compressed MetaImage, which ITK reads without checking.

    Raises: InputError if the stream is damaged or has another length.
    """
    if not is_true(read_metaimage_fields(path), "CompressedData"):
        return
    data_file = find_metaimage_voxels(path).path
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # zlib or gzip
    actual_bytes = 0
    with errors_naming(data_file), data_file.open("rb") as file:
        if data_file == path:  # the voxels follow the header's last line
            last_line = re.search(rb"^[ \t]*ElementDataFile[^\n]*\n", file.read(HEADER_BYTES), re.MULTILINE)
            file.seek(last_line.end() if last_line else 0)
        try:
            while (block := stream.unconsumed_tail or file.read(BLOCK_BYTES)) and not stream.eof:
                actual_bytes += len(stream.decompress(block, BLOCK_BYTES))
        except zlib.error as error:
            raise InputError(f"damaged ({error}); unpack or download it again", path=data_file) from None
    if not stream.eof or actual_bytes != byte_count:
        raise InputError(
            f"{actual_bytes:,} bytes of voxels, but {path.name} claims {byte_count:,}; unpack or download it again",
            path=data_file,
        )


# NRRD, https://teem.sourceforge.net/nrrd/format.html


def find_nrrd_voxels(path: Path) -> VoxelFile:
    """Read the `key: value` lines up to the first empty one. Raises: InputError if the voxels are in another file."""
    with errors_naming(path), path.open("rb") as file:
        text = file.read(HEADER_BYTES).decode("latin-1")
    head, empty_line, _ = re.sub("\r\n?", "\n", text).partition("\n\n")
    if not head.startswith("NRRD") or not empty_line:
        raise InputError("no complete NRRD header; download it again", path=path)
    pairs = [line.partition(":") for line in head.split("\n")[1:]]
    fields = {re.sub(r"[\s_-]", "", key).lower(): value.strip() for key, _, value in pairs}
    if "datafile" in fields:
        raise InputError("its voxels are in another file; save it as one file, with SimpleITK", path=path)
    return VoxelFile(path, is_encoded=fields.get("encoding", "").lower() != "raw")


# NIfTI, https://nifti.nimh.nih.gov

NIFTI_SUFFIXES = (".nii.gz", ".nii")


def find_nifti_voxels(path: Path) -> VoxelFile:
    return VoxelFile(path, is_encoded=path.name.endswith(".gz"))


def check_nifti_length(path: Path) -> None:
    """Raises: InputError if a .nii or .nii.gz ends before its last voxel; SimpleITK does not notice."""
    open_file = gzip.open if path.name.endswith(".gz") else open
    with errors_naming(path), open_file(path, "rb") as file:
        try:
            expected_bytes = nifti_length(file.read(540))
            actual_bytes = file.seek(0, 2)  # for .gz this decompresses everything and compares the checksum
        except (zlib.error, ValueError, OverflowError) as error:
            raise InputError(f"damaged ({error}); unpack or download it again", path=path) from None
    if actual_bytes < expected_bytes:
        raise InputError(f"{actual_bytes:,} of {expected_bytes:,} bytes; unpack or download it again", path=path)


def nifti_length(header: bytes) -> int:
    """Compute the length of the whole file, uncompressed. Source: nifti1.h and nifti2.h."""
    order = "<" if header[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
    if struct.unpack(order + "i", header[:4])[0] == 540:
        (bits,), shape = struct.unpack_from(order + "h", header, 14), struct.unpack_from(order + "8q", header, 16)
        (offset,) = struct.unpack_from(order + "q", header, 168)
    else:
        (bits,), shape = struct.unpack_from(order + "h", header, 72), struct.unpack_from(order + "8h", header, 40)
        (offset,) = struct.unpack_from(order + "f", header, 108)
    if not offset >= 0:
        raise ValueError(f"voxels start at byte {offset}")
    voxel_count: int = math.prod(shape[1 : 1 + shape[0]])
    return int(offset) + voxel_count * int(bits) // 8


FORMATS = {
    **dict.fromkeys((".mhd", ".mha"), Format("MetaImageIO", find_metaimage_voxels, check_metaimage_stream)),
    **dict.fromkeys(
        NIFTI_SUFFIXES, Format("NiftiImageIO", find_nifti_voxels, lambda path, _: check_nifti_length(path))
    ),
    ".nrrd": Format("NrrdImageIO", find_nrrd_voxels),
}
