"""Read the voxels of a file, slice by slice, and notice each that is missing.

ITK reads files that are cut short, takes damaged compressed streams for what they still give, turns NaN in NIfTI into
0, and ignores the rescaling of MetaImage; nothing of that can be seen in its result.
"""

from __future__ import annotations

import io
import math
import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from p2ch13.util.contents import HEAD_BYTES, describe_content
from p2ch13.util.errors import InputError, errors_naming

DEFLATE_RATIO = 1032  # the highest possible compression; https://zlib.net/zlib_tech.html
BLOCK_BYTES = 2**17
GZIP_MAGIC = b"\x1f\x8b"
RAW, DEFLATED, TEXT, HEX = "raw", "deflated", "text", "hex"  # encodings; deflated: zlib or gzip


@dataclass(frozen=True)
class VoxelFile:
    """The file that holds a scan's voxels, the header's own or another, and how it holds them.

    Attributes:
        dtype: of a stored voxel, NumPy's name with the byte order.
        encoding: one of the above.
        start: the byte of the file with which the voxels or their encoding begin.
        skip: decoded bytes before the first voxel.
        slope, intercept: from a stored value to HU.
        is_alone: whether the file holds nothing else from `start` on.
    """

    path: Path
    dtype: str = "u1"
    encoding: str = RAW
    start: int = 0
    skip: int = 0
    slope: float = 1.0
    intercept: float = 0.0
    is_alone: bool = False

    @property
    def is_scaled(self) -> bool:
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def is_mappable(self) -> bool:
        return self.encoding == RAW and self.dtype in ("<i2", ">i2") and not self.is_scaled

    def check_size(self, shape_irc: tuple[int, int, int], header_path: Path) -> None:
        """Raises: InputError if the file is too short for these voxels, or holds a slice more, or any other byte."""
        needed = math.prod(shape_irc) * np.dtype(self.dtype).itemsize
        with errors_naming(self.path):
            present = max(0, self.path.stat().st_size - self.start)
        if self.encoding == RAW:
            slice_bytes = needed // shape_irc[0]
            fits = present == needed if self.is_alone else needed <= present < needed + slice_bytes
        else:
            fits = needed + self.skip <= present * DEFLATE_RATIO
        if not fits:
            raise self.wrong_size(present, needed, header_path)

    def wrong_size(self, present: int, needed: int, header_path: Path) -> InputError:
        if present < needed and (kind := self._describe_other()):
            return InputError(f"no voxels; it is {kind}", path=self.path)
        claims = "its header claims" if header_path == self.path else f"{header_path.name} claims"
        cure = "unpack or download it again" if present < needed else "correct the header"
        return InputError(f"{present:,} bytes, but {claims} {needed:,}; {cure}", path=self.path)

    def _describe_other(self) -> str | None:
        """Say what a file is that holds nothing but voxels by its name, but is too short for them."""
        if not self.is_alone:
            return None
        with errors_naming(self.path), self.path.open("rb") as file:
            return describe_content(file.read(HEAD_BYTES))

    def view(self, file_map: mmap.mmap, shape_irc: tuple[int, int, int]) -> NDArray[np.int16]:
        """View the voxels (index, row, col) in a memory map of the file."""
        return np.frombuffer(file_map, self.dtype, math.prod(shape_irc), self.start).reshape(shape_irc)

    def read_slices(self, shape_irc: tuple[int, int, int], header_path: Path) -> Iterator[NDArray[Any]]:
        """Yield slices (row, col), rescaled. Raises: InputError if the voxels are damaged, too few or too many."""
        for values in self._read_stored(shape_irc, header_path):
            yield values * self.slope + self.intercept if self.is_scaled else values

    def _read_stored(self, shape_irc: tuple[int, int, int], header_path: Path) -> Iterator[NDArray[Any]]:
        dtype, (slice_count, *plane) = np.dtype(self.dtype), shape_irc
        slice_bytes = math.prod(plane) * dtype.itemsize
        with naming_damage(self.path), self.open() as file:
            for ndx in range(slice_count):
                data = file.read(slice_bytes)
                if len(data) < slice_bytes:
                    raise self.wrong_size(ndx * slice_bytes + len(data), slice_count * slice_bytes, header_path)
                yield np.frombuffer(data, dtype).reshape(plane)
            present = slice_count * slice_bytes
            while data := file.read(BLOCK_BYTES):  # to the end of a stream, where its checksum is
                present += len(data)
        if present >= (slice_count + 1) * slice_bytes:
            raise self.wrong_size(present, slice_count * slice_bytes, header_path)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the decoded voxels."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            decoded = self._decode(file)
            decoded.read(self.skip)
            yield decoded

    def _decode(self, file: BinaryIO) -> BinaryIO:
        if self.encoding == DEFLATED:
            return io.BufferedReader(InflatedFile(file), BLOCK_BYTES)
        if self.encoding == HEX:
            return io.BytesIO(bytes.fromhex(file.read().decode("ascii")))
        if self.encoding == TEXT:
            return io.BytesIO(np.array(file.read().split(), dtype=self.dtype).tobytes())
        return file


class InflatedFile(io.RawIOBase):
    """The bytes of a zlib stream or of gzip streams, from the place of a file on.

    `gzip` reads no zlib, and `zlib` alone no file of several streams, which pigz and bgzip write.
    Raises: EOFError, while it is read, if a stream is cut short; zlib.error if it is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._block = file.read(BLOCK_BYTES)
        self._stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._stream.eof:
                self._block = self._stream.unused_data or self._file.read(BLOCK_BYTES)
                if not self._block.startswith(GZIP_MAGIC):  # the end, or padding
                    return 0
                self._stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
            elif not self._block and not (read := self._file.read(BLOCK_BYTES)):
                raise EOFError("its compressed stream ends early")
            elif not self._block:
                self._block = read
            data = self._stream.decompress(self._block, len(buffer))
            self._block = self._stream.unconsumed_tail
            if data:
                buffer[: len(data)] = data
                return len(data)


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn errors of decoders into an InputError that names the file."""
    try:
        with errors_naming(path):
            yield
    except InputError:
        raise
    except (zlib.error, ValueError, OverflowError) as error:
        raise InputError(f"damaged ({error}); unpack or download it again", path=path) from None
