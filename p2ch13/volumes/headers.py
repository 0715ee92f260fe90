"""What a scan's file says of itself, looked at before ITK reads it: where its voxels are, and how many there can be.

ITK opens whatever file a header names, and makes room for as many voxels as one claims.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from p2ch13.util.errors import InputError, errors_naming

HEADER_BYTES = 2**16  # no header is longer
BLOCK_BYTES = 2**20
DEFLATE_RATIO = 1032  # bytes that a compressed one can stand for, at most; https://zlib.net/zlib_tech.html


@dataclass(frozen=True)
class VoxelFile:
    """The file that holds a scan's voxels: the one with the header, or one of its own."""

    path: Path
    is_encoded: bool = False  # compressed, or as text
    is_plain_int16: bool = False  # nothing but the voxels, as int16
    byte_order: str = "<"
    is_compressed_metaimage: bool = False

    def check_size(self, byte_count: int, header_path: Path) -> None:
        """Raises: InputError if the file cannot hold so many bytes of voxels, or holds others as well."""
        actual = self.path.stat().st_size
        if (self.is_plain_int16 and actual != byte_count) or byte_count > actual * self._ratio:
            raise InputError(
                f"{self.path}: {actual:,} bytes, but {header_path.name} tells of {byte_count:,}; "
                "unpack or download it again"
            )

    @property
    def _ratio(self) -> int:
        return DEFLATE_RATIO if self.is_encoded else 1


def find_voxel_file(path: Path) -> VoxelFile:
    """Raises: InputError, naming the file, if its header makes no sense or leads out of its folder."""
    if path.name.endswith((".mhd", ".mha")):
        return find_metaimage_voxels(path)
    if path.name.endswith(".nrrd"):
        return VoxelFile(path, is_encoded=read_nrrd_fields(path).get("encoding", "").lower() != "raw")
    return VoxelFile(path, is_encoded=path.name.endswith(".gz"))


# MetaImage, https://itk.org/Wiki/ITK/MetaIO/Documentation

METAIMAGE_LINE = re.compile(r"([A-Za-z_][\w|.-]*)[ \t]*=[ \t]*([\x20-\x7e\t]*)")
METAIMAGE_PLACES = {
    **dict.fromkeys(("Offset", "Position", "Origin", "CenterOfRotation"), 3),
    **dict.fromkeys(("ElementSpacing", "ElementSize"), 3),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 9),
}
METAIMAGE_COUNTS = {"NDims": 1, "DimSize": 3, "HeaderSize": 1, "CompressedDataSize": 1, "ElementNumberOfChannels": 1}


def find_metaimage_voxels(path: Path) -> VoxelFile:
    fields = read_metaimage_fields(path)
    is_binary = fields.get("BinaryData", "True").lower() == "true"
    is_compressed = is_true(fields, "CompressedData")
    data_file = metaimage_data_file(path, fields)
    return VoxelFile(
        path if data_file is None else data_file,
        is_encoded=is_compressed or not is_binary,
        is_plain_int16=data_file is not None
        and fields.get("ElementType") == "MET_SHORT"
        and fields.get("HeaderSize", "0") == "0"
        and is_binary
        and not is_compressed,
        byte_order=">" if is_true(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<",
        is_compressed_metaimage=is_compressed,
    )


def read_metaimage_fields(path: Path) -> dict[str, str]:
    """The `key = value` lines of a header, of which ElementDataFile is the last one.

    Whatever ITK could read otherwise than it is read here is refused: it takes a number that it cannot read for 0, and
    the first of two lines with one key.
    Raises: InputError if a line is none of these, is there twice or is missing, or has not the numbers that it should.
    """
    with errors_naming(path), path.open("rb") as file:
        text = file.read(HEADER_BYTES).decode("latin-1")
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip():
            continue
        match = METAIMAGE_LINE.fullmatch(line.removesuffix("\r").strip(" \t"))
        if match is None or match[1] in fields:
            raise InputError(f"{path}: cannot be read as a scan (line {line[:40]!r}); unpack it again")
        fields[match[1]] = match[2].strip()
        if match[1] == "ElementDataFile":
            break
    if not fields.get("ElementDataFile"):
        raise InputError(f"{path}: no ElementDataFile, so this is not a whole header; unpack it again")
    if fields.get("NDims") != "3":
        raise InputError(f"{path}: NDims is {fields.get('NDims')!r}; a CT scan has 3")
    for numbers, is_valid in ((METAIMAGE_PLACES, is_finite), (METAIMAGE_COUNTS, is_whole)):
        for key, count in numbers.items():
            values = fields.get(key, "").split()
            if key in fields and (len(values) != count or not all(map(is_valid, values))):
                raise InputError(f"{path}: {key} is {fields[key]!r}; repair the header")
    return fields


def metaimage_data_file(path: Path, fields: dict[str, str]) -> Path | None:
    """The one file that holds the voxels; None if they are in the header's own.

    Raises: InputError if the file is missing or not below the header's folder, from where a header must not lead away,
        and for voxels in a file for each slice.
    """
    name = fields["ElementDataFile"]
    if name == "LOCAL":
        return None
    if name.upper().startswith(("LIST", "LOCAL")) or "%" in name:
        raise InputError(f"{path}: its voxels are in {name!r}, not in one file; save it as .mha, say with SimpleITK")
    return file_beside(path, name)


def file_beside(path: Path, name: str) -> Path:
    """A data file that a header names. Raises: InputError if it is not below the header's folder, or missing."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name:
        raise InputError(f"{path}: its data file {name} is outside its own folder; move it there, correct the header")
    data_file = path.parent / name
    if not data_file.is_file():
        raise InputError(f"{path}: its data file {data_file.name} is missing; unpack or download it again")
    return data_file


def is_finite(number: str) -> bool:
    try:
        return math.isfinite(float(number.replace("_", " _")))  # Python alone takes 1_0 for 10
    except ValueError:
        return False


def is_whole(number: str) -> bool:
    """Whether this is a number of voxels or bytes that ITK can count."""
    return re.fullmatch(r"-1|[0-9]{1,10}", number) is not None and int(number) < 2**31


def is_true(fields: dict[str, str], *keys: str) -> bool:
    return any(fields.get(key, "").lower() == "true" for key in keys)


def check_metaimage_stream(path: Path, byte_count: int) -> None:
    """Decompress all voxels of a compressed MetaImage: of a damaged one ITK takes what it gets, and says nothing.

    Raises: InputError if the stream is damaged or has not so many bytes.
    """
    voxel_file = find_metaimage_voxels(path)
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # zlib or gzip
    actual_bytes = 0
    with errors_naming(voxel_file.path), voxel_file.path.open("rb") as file:
        if voxel_file.path == path:
            file.seek(local_offset(file.read(HEADER_BYTES)))
        try:
            while (block := stream.unconsumed_tail or file.read(BLOCK_BYTES)) and not stream.eof:
                actual_bytes += len(stream.decompress(block, BLOCK_BYTES))
        except zlib.error as error:
            raise InputError(f"{voxel_file.path}: damaged ({error}); unpack or download it again") from None
    if not stream.eof or actual_bytes != byte_count:
        raise InputError(
            f"{voxel_file.path}: {actual_bytes:,} bytes of voxels, but {path.name} tells of {byte_count:,}; "
            "unpack or download it again"
        )


def local_offset(head: bytes) -> int:
    """Where the voxels begin that are in the header's own file: in the line after its last."""
    match = re.search(rb"^[ \t]*ElementDataFile[^\n]*\n", head, re.MULTILINE)
    return 0 if match is None else match.end()


# NRRD, https://teem.sourceforge.net/nrrd/format.html


def read_nrrd_fields(path: Path) -> dict[str, str]:
    """The `key: value` lines of the header, up to the first empty line; keys are in lower case, without blanks.

    Raises: InputError if this is no NRRD file, or its voxels are in another one.
    """
    with errors_naming(path), path.open("rb") as file:
        text = file.read(HEADER_BYTES).decode("latin-1")
    head, empty_line, _ = re.sub("\r\n?", "\n", text).partition("\n\n")
    if not head.startswith("NRRD") or not empty_line:
        raise InputError(f"{path}: cannot be read as a scan (no whole NRRD header); download it again")
    fields: dict[str, str] = {}
    for line in head.split("\n")[1:]:
        key, _, value = line.partition(":")
        fields[re.sub(r"[\s_-]", "", key).lower()] = value.strip()
    if "datafile" in fields:
        raise InputError(f"{path}: its voxels are in another file; save it as one file, say with SimpleITK")
    return fields


# NIfTI: SimpleITK reads a file that was cut short without a word.


def check_nifti_length(path: Path) -> None:
    """Raises: InputError if a .nii or .nii.gz ends before its last voxel."""
    open_file = gzip.open if path.name.endswith(".gz") else open
    with errors_naming(path), open_file(path, "rb") as file:
        try:
            expected_bytes = nifti_length(file.read(540))
            actual_bytes = file.seek(0, 2)  # for .gz this decompresses all of it and checks its checksum
        except (zlib.error, ValueError, OverflowError) as error:
            raise InputError(f"{path}: cannot be read as a scan ({error}); unpack or download it again") from None
    if actual_bytes < expected_bytes:
        raise InputError(f"{path}: {actual_bytes:,} of {expected_bytes:,} bytes; unpack or download it again")


def nifti_length(header: bytes) -> int:
    """Bytes of the whole file, uncompressed. Source: nifti1.h and nifti2.h, https://nifti.nimh.nih.gov."""
    order = "<" if header[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
    if struct.unpack(order + "i", header[:4])[0] == 540:
        (bits,), shape = struct.unpack_from(order + "h", header, 14), struct.unpack_from(order + "8q", header, 16)
        (offset,) = struct.unpack_from(order + "q", header, 168)
    else:
        (bits,), shape = struct.unpack_from(order + "h", header, 72), struct.unpack_from(order + "8h", header, 40)
        (offset,) = struct.unpack_from(order + "f", header, 108)
    if not offset >= 0:
        raise ValueError(f"voxels from byte {offset} on")
    voxel_count: int = math.prod(shape[1 : 1 + shape[0]])
    return int(offset) + voxel_count * int(bits) // 8
