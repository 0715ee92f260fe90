"""Lengths that no file can hold: GDCM, in SimpleITK, reserves memory for them (CVE-2026-3650) and may not see them."""

import struct
import zlib

import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from p2ch13.volumes.files import read_header, read_hu
from tests.support.checks import refused
from tests.support.dicom_files import write_series
from tests.support.memory_limit import limited_memory
from tests.support.scan_files import make_hu

META_START = 144  # behind the preamble, its mark, and the length of the meta header
START_OF_ITEM = struct.pack("<HH", 0xFFFE, 0xE000)
ROOM_BYTES = 200_000_000


@pytest.fixture
def series(tmp_path):
    write_series(tmp_path, make_hu([], (2, 6, 8)))
    read_hu(read_header(tmp_path))  # loads what takes memory of its own
    return tmp_path


def refused_in_little_memory(folder, file):
    with refused(path=file), limited_memory(ROOM_BYTES):
        read_hu(read_header(folder))


@pytest.mark.parametrize("length", [2**31 - 16, 2**32 - 16])
@pytest.mark.parametrize("vr", [b"UN", b"OB", b"ZZ", b"??", b"\0\0", b"SQ"])
def test_in_the_meta_header(series, vr, length):
    """An element of group 2 with representations that are odd there, or none at all."""
    for file in series.iterdir():
        data = file.read_bytes()
        element = struct.pack("<HH2sHI", 2, 0x13, vr, 0, length)
        file.write_bytes(data[:META_START] + element + b"four" + data[META_START:])
    refused_in_little_memory(series, series / "000.dcm")


def test_in_the_data_set(series):
    file = series / "000.dcm"
    data = file.read_bytes()
    at = data.index(struct.pack("<HH2s", 0x10, 0x20, b"LO"))  # PatientID
    file.write_bytes(data[:at] + struct.pack("<HH2sHI", 0x10, 0x19, b"UN", 0, 2**32 - 16) + data[at:])
    refused_in_little_memory(series, file)


def test_of_a_fragment(series):
    file = series / "000.dcm"
    image = dcmread(file)
    image.compress(RLELossless, generate_instance_uid=False)
    image.save_as(file)
    data = file.read_bytes()
    items = data.split(START_OF_ITEM)  # what comes before, the table of offsets, the only frame
    assert len(items) == 3
    data = START_OF_ITEM.join([*items[:2], struct.pack("<I", 2**32 - 16) + items[2][4:]])
    file.write_bytes(data)
    refused_in_little_memory(series, file)


def test_more_than_memory_behind_a_deflated_header(series):
    """A private element of 1.2 GB of zeros, in a file of a thousandth of its size."""
    file = series / "000.dcm"
    image = dcmread(file)
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    image.save_as(file)
    start = META_START + dcmread(file).file_meta.FileMetaInformationGroupLength
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    element = deflater.compress(struct.pack("<HH2s2xI", 9, 0x1001, b"UN", 1_200_000_000))
    element += deflater.flush(zlib.Z_FULL_FLUSH)
    zeros = deflater.compress(bytes(10_000_000)) + deflater.flush(zlib.Z_FULL_FLUSH)
    file.write_bytes(file.read_bytes()[:start] + element + 120 * zeros + deflater.flush())
    assert file.stat().st_size < 2_000_000
    with refused(path=file) as caught, limited_memory(ROOM_BYTES):
        read_header(series)
    assert "damaged" in str(caught.value)  # and not that memory is lacking
