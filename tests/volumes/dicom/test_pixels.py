"""Pixels: their bits, signs, padding, byte order and compression."""

import logging

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from p2ch13.data.ct import Ct
from p2ch13.volumes.dicom.decoding import find_padding
from tests.support.checks import refused
from tests.support.dicom_files import ABSENT, INTERCEPT, rewrite, rewrite_all, write_enhanced, write_series

AIR = -1000


def store(files, hu, dtype, **attributes):
    """Store HU + 1024 as another type, with these attributes."""
    dtype = np.dtype(dtype)
    for file, one in zip(files, hu, strict=True):
        bits = 8 * dtype.itemsize
        layout = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
        layout["PixelRepresentation"] = int(dtype.kind == "i")
        rewrite(file, **{**layout, **attributes}, PixelData=(one.astype(int) - INTERCEPT).astype(dtype).tobytes())


@pytest.mark.parametrize(
    ("dtype", "bits"), [("<u2", 16), ("<i2", 16), ("<u2", 12), ("<i2", 13), ("<u4", 32), ("<i4", 32), ("<u4", 17)]
)
def test_bits_and_signs(tmp_path, hu, dtype, bits):
    files = write_series(tmp_path, hu)
    store(files, hu, dtype, BitsStored=bits, HighBit=bits - 1)
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


def test_bytes(tmp_path, hu):
    """8 bits hold (HU + 1000) / 4 of -1000 to 20."""
    files = write_series(tmp_path, hu)
    small = hu.clip(-1000, 20) // 4 * 4
    for file, one in zip(files, small, strict=True):
        stored = ((one.astype(int) + 1000) // 4).astype(np.uint8).tobytes()
        layout = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "RescaleSlope": 4, "RescaleIntercept": -1000}
        rewrite(file, **layout, PixelData=stored)
    np.testing.assert_array_equal(Ct(tmp_path).hu, small)


def test_other_bits_beside_the_pixels(tmp_path, hu):
    """An overlay in the upper four of 16 bits, as old devices wrote it; and a sign that is not repeated there."""
    files = write_series(tmp_path / "overlay", hu)
    for file in files:
        stored = np.frombuffer(dcmread(file).PixelData, "<u2") & 0xFFF | 0x5000
        rewrite(file, BitsStored=12, HighBit=11, PixelData=stored.tobytes())
    np.testing.assert_array_equal(Ct(tmp_path / "overlay").hu, hu)
    files = write_series(tmp_path / "sign", hu, RescaleIntercept=0)
    for file, one in zip(files, hu, strict=True):
        layout = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}
        rewrite(file, **layout, PixelData=(one.view(np.uint16) & 0xFFF).tobytes())
    np.testing.assert_array_equal(Ct(tmp_path / "sign").hu, hu)


# PixelRepresentation, BitsStored, PixelPaddingValue, PixelPaddingRangeLimit as bytes, what pads, and HU of it at most.
PADDING = [
    (0, 16, 63536, ABSENT, 63536),
    (0, 12, 63536, ABSENT, 63536),  # of pixels that have 12 bits
    (0, 16, -2000, ABSENT, 63536),  # written with a sign
    (1, 16, -2000, ABSENT, -2000),
    (1, 16, 63536, ABSENT, -2000),  # written without one
    (0, 16, 65535, 63000, 64000),
    (0, 16, 63000, 65535, 64000),
    (0, 16, -2500, -1500, 63536),
    (1, 16, 63000, 64000, -2000),
    (0, 16, 0, ABSENT, 0),  # -1024 HU, as it is
    (0, 16, 1024, ABSENT, 1024),  # 0 HU, where it reaches the border
    (0, 16, 1100, 1200, 1150),
]


def two_bytes(number):
    return (number % 2**16).to_bytes(2, "little")


@pytest.mark.parametrize("place", [0, 3, 5])
@pytest.mark.parametrize(("signed", "bits", "value", "limit", "pads"), PADDING)
def test_padding_was_never_scanned(tmp_path, hu, signed, bits, value, limit, pads, place):
    """In one slice of six: each slice has its own."""
    files = write_series(tmp_path, hu)
    layout = {"PixelRepresentation": signed, "BitsStored": bits, "HighBit": bits - 1}
    stored = (hu[place].astype(int) - INTERCEPT).astype("<i2" if signed else "<u2")
    stored[:5] = np.array(pads % 2**16, "<u2").view(stored.dtype)
    rewrite(files[place], **layout, PixelData=stored.tobytes(), PixelPaddingValue=two_bytes(value))
    if limit is not ABSENT:
        rewrite(files[place], PixelPaddingRangeLimit=two_bytes(limit))
    read = Ct(tmp_path).hu
    assert read[place, :5].max() <= AIR
    expected = hu.copy()
    expected[place, :5] = read[place, :5]
    np.testing.assert_array_equal(read, expected)


def test_padding_that_is_tissue_as_well(tmp_path, hu):
    """Where it does not reach the border, 0 HU stays 0 HU."""
    inside = hu.copy()
    inside[2, 6:9, 6:9] = 0
    write_series(tmp_path, inside, PixelPaddingValue=two_bytes(1024))
    np.testing.assert_array_equal(Ct(tmp_path).hu, inside)


def test_values_count_in_a_circle():
    stored = np.array([[-3, -2, -1, 0, 1, 2, 3, 32767, -32768]], np.int16)
    for padding, marked in (((-2, 1), [1, 2, 3, 4]), ((1, 65534), [1, 2, 3, 4]), ((32767, -32768), [7, 8])):
        assert np.flatnonzero(find_padding(stored, padding)).tolist() == marked


SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_transfer_syntaxes(tmp_path, hu, syntax):
    files = write_series(tmp_path, hu)
    for file in files:
        old, data = dcmread(file), Dataset()
        data.update({element.tag: element for element in old})
        data.file_meta = old.file_meta
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data.save_as(file, enforce_file_format=True)
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


def test_big_endian_bytes(tmp_path, hu):
    """Pixels of 16 bits in OB: nobody knows whether they were swapped."""
    files = write_series(tmp_path, hu)
    for file in files:
        old, data = dcmread(file), Dataset()
        data.update({element.tag: element for element in old})
        data.file_meta = old.file_meta
        data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        data["PixelData"].VR = "OB"
        data.save_as(file, enforce_file_format=True)
    with refused(path=files[0]):
        Ct(tmp_path)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_pixels(tmp_path, hu, syntax, signed):
    """Compressed by pydicom's own encoders, one of which is pyjpegls."""
    if syntax == JPEGLSLossless:
        pytest.importorskip("jpeg_ls")
    files = write_series(tmp_path, hu)
    store(files, hu, "<i2" if signed else "<u2", BitsStored=12, HighBit=11)
    for file in files:
        data = dcmread(file)
        data.compress(syntax, generate_instance_uid=False)
        data.save_as(file)
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


@pytest.mark.parametrize("signed", [0, 1])
def test_jpeg_2000(tmp_path, hu, signed):
    """Compressed by SimpleITK, in an image of its own kind."""
    files = write_series(tmp_path / "ct", hu)
    store(files, hu, "<i2" if signed else "<u2")
    for file in files:
        data = dcmread(file)
        stored = np.frombuffer(data.PixelData, "<i2" if signed else "<u2").reshape(1, *hu.shape[1:])
        sitk.WriteImage(sitk.GetImageFromArray(stored), str(tmp_path / "j2k.dcm"), useCompression=True)
        compressed = dcmread(tmp_path / "j2k.dcm")
        assert compressed.file_meta.TransferSyntaxUID == JPEG2000Lossless
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless
        data.PixelData = compressed.PixelData
        data["PixelData"].VR = "OB"
        data.save_as(file)
    np.testing.assert_array_equal(Ct(tmp_path / "ct").hu, hu)


@pytest.mark.parametrize("extended", [False, True])
def test_tables_of_offsets(tmp_path, hu, extended):
    """Of frames in one file: in their first item, or in attributes before the pixel data."""
    path = write_enhanced(tmp_path / "ct.dcm", hu)
    data = dcmread(path)
    data.compress(RLELossless, generate_instance_uid=False, encapsulate_ext=extended)
    data.save_as(path)
    assert ("ExtendedOffsetTable" in dcmread(path)) == extended
    np.testing.assert_array_equal(Ct(path).hu, hu)


@pytest.mark.parametrize("has_meta", [False, True])
def test_files_without_preamble(tmp_path, hu, has_meta):
    """As from before DICOM had files."""
    for file in write_series(tmp_path, hu):
        if has_meta:
            file.write_bytes(file.read_bytes()[132:])
        else:
            data = dcmread(file)
            data.preamble, data.file_meta = None, FileMetaDataset()
            data.save_as(file, implicit_vr=False, little_endian=True)
        assert file.read_bytes()[0] == (2 if has_meta else 8)  # the first group
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


@pytest.mark.parametrize("place", [0, 3, 5])
@pytest.mark.parametrize("byte_count", [0, 2, 20 * 22, 20 * 22 * 2 - 2, 2 * 20 * 22 * 2])
def test_another_number_of_bytes(tmp_path, hu, byte_count, place):
    files = write_series(tmp_path, hu)
    rewrite(files[place], PixelData=bytes(byte_count))
    with refused(path=files[place]):
        Ct(tmp_path)


def test_padded_pixel_data(tmp_path, hu):
    """An odd number of bytes, and some zeros more."""
    files = write_series(tmp_path, hu)
    for file in files:
        rewrite(file, PixelData=dcmread(file).PixelData + bytes(100))
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


@pytest.mark.parametrize("cut", [1, 300, -200, -135])
@pytest.mark.parametrize("place", [0, 5])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_file_cut_short(tmp_path, hu, cut, place, is_compressed):
    """By so many bytes, or down to so many."""
    files = write_series(tmp_path, hu)
    if is_compressed:
        for file in files:
            data = dcmread(file)
            data.compress(RLELossless, generate_instance_uid=False)
            data.save_as(file)
    files[place].write_bytes(files[place].read_bytes()[:-cut])
    with refused(path=files[place]):
        Ct(tmp_path)


def test_what_is_no_dicom_under_its_name(tmp_path, hu):
    """An empty file, a page of a server, a pointer to a file elsewhere: the last slice may be lost."""
    files = write_series(tmp_path, hu)
    for content in (b"", b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n"):
        files[5].write_bytes(content)
        for path in (tmp_path, files[0], files[5]):
            with refused(path=files[5]):
                Ct(path)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.202", "1.2.3"])
def test_other_transfer_syntaxes(tmp_path, hu, syntax):
    """Of video, and of new or private kinds."""
    files = write_series(tmp_path, hu)
    data = dcmread(files[2])
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([bytes(100)])
    data["PixelData"].VR = "OB"
    data.save_as(files[2], implicit_vr=False, little_endian=True)
    with refused(path=files[2]):
        Ct(tmp_path)


def test_pixels_that_contradict_their_transfer_syntax(tmp_path, hu):
    """Said to be RLE, but plain."""
    files = write_series(tmp_path, hu)
    files[2].write_bytes(files[2].read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))
    with refused(path=files[2]):
        Ct(tmp_path)


@pytest.mark.parametrize("syntax", [RLELossless, DeflatedExplicitVRLittleEndian])
def test_more_pixels_than_a_file_can_hold(tmp_path, hu, syntax):
    """No memory is taken for them: 4 GiB."""
    files = write_series(tmp_path, hu)
    data = dcmread(files[2])
    data.file_meta.TransferSyntaxUID = syntax
    data.Rows = data.Columns = 46_000
    if syntax == RLELossless:
        data.PixelData = encapsulate([bytes(100)])
        data["PixelData"].VR = "OB"
    data.save_as(files[2], implicit_vr=False, little_endian=True)
    with refused(path=files[2]):
        Ct(tmp_path)


def test_damaged_compressed_pixels(tmp_path, hu, capfd):
    files = write_series(tmp_path, hu)
    for file in files:
        data = dcmread(file)
        data.compress(RLELossless, generate_instance_uid=False)
        data.save_as(file)
    content = bytearray(files[3].read_bytes())
    at = content.rindex(b"\xfe\xff\x00\xe0")
    content[at + 8 : at + 72] = b"\xff" * 64  # RLE's header
    files[3].write_bytes(content)
    with refused(path=files[3]) as caught:
        _ = Ct(tmp_path).hu
    assert "ITK" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_nothing_of_pydicoms_own(tmp_path, hu, caplog, recwarn, capfd):
    """It logs and warns of each value that breaks a rule."""
    files = write_series(tmp_path, hu)
    rewrite_all(
        files, StudyDate=b"yesterday ", PatientID=b"x" * 99 + b" ", SOPInstanceUID=b"1.2.x ", SliceThickness=b"2,5 "
    )
    recwarn.clear()
    with caplog.at_level(logging.DEBUG):
        _ = Ct(tmp_path).hu
    assert not [record for record in caplog.records if record.name == "pydicom"]
    assert not recwarn.list
    assert capfd.readouterr().err == ""
