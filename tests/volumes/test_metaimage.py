"""Each field of MetaImage that is used: absent, zero, negative, NaN, in another unit, contradicted by another."""

import os
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.volumes.volume import Volume
from tests.support.checks import refused
from tests.support.format_files import CHEST, GAP, ORIGIN_XYZ, SHAPE_IRC, SPACING_XYZ, join, write_metaimage

HU = CHEST.astype("<i2").tobytes()
BIG = CHEST.astype(">i2").tobytes()
TEXT = " ".join(map(str, CHEST.ravel())).encode()
ZLIB = zlib.compress(HU)
FOUR = {
    "NDims": 4,
    "DimSize": join([*SHAPE_IRC[::-1], 1]),
    "ElementSpacing": join([*SPACING_XYZ, 1]),
    "Offset": join([*ORIGIN_XYZ, 0]),
    "TransformMatrix": join(np.eye(4)),
}


def in_units(name, scale):
    return {"DistanceUnits": name, "ElementSpacing": join(SPACING_XYZ * scale), "Offset": join(ORIGIN_XYZ * scale)}


# Of the header, what is changed; of the voxels, other bytes. All are read as the chest at its place.
READ = {
    "as it is": ({}, HU),
    "ObjectType: absent": ({"ObjectType": GAP}, HU),
    "NDims: a fourth of one": (FOUR, HU),
    "keys in small letters": ({"DimSize": GAP, "dimsize": join(SHAPE_IRC[::-1])}, HU),
    "ElementSize in place of ElementSpacing": ({"ElementSpacing": GAP, "ElementSize": join(SPACING_XYZ)}, HU),
    "ElementSize: thicker than the spacing, ignored": ({"ElementSize": "3 4 7"}, HU),
    "DistanceUnits: mm": (in_units("mm", 1), HU),
    "DistanceUnits: ?": (in_units("?", 1), HU),
    "DistanceUnits: cm": (in_units("cm", 0.1), HU),
    "DistanceUnits: CM": (in_units("CM", 0.1), HU),
    "DistanceUnits: um": (in_units("um", 1000), HU),
    "DistanceUnits: \N{MICRO SIGN}m": (in_units("\N{MICRO SIGN}m", 1000), HU),
    "DistanceUnits: m": (in_units("m", 0.001), HU),
    "Position for Offset": ({"Offset": GAP, "Position": join(ORIGIN_XYZ)}, HU),
    "Origin doubled": ({"Origin": join(ORIGIN_XYZ)}, HU),
    "Orientation for TransformMatrix": ({"TransformMatrix": GAP, "Orientation": "1 0 0 0 1 0 0 0 1"}, HU),
    "TransformMatrix: rounded": ({"TransformMatrix": "0.999 0 0 0 1.001 0 0 0 1"}, HU),
    "CenterOfRotation, AnatomicalOrientation: ignored": (
        {"CenterOfRotation": "1 nan", "AnatomicalOrientation": "LPI"},
        HU,
    ),
    "byte order: 1": ({"BinaryDataByteOrderMSB": "1"}, BIG),
    "byte order: T": ({"BinaryDataByteOrderMSB": "T"}, BIG),
    "byte order: true": ({"BinaryDataByteOrderMSB": "true"}, BIG),
    "byte order: 0": ({"BinaryDataByteOrderMSB": "0"}, HU),
    "byte order: absent": ({"BinaryDataByteOrderMSB": GAP}, HU),
    "byte order: its other name": ({"BinaryDataByteOrderMSB": GAP, "ElementByteOrderMSB": "True"}, BIG),
    "byte order: doubled": ({"ElementByteOrderMSB": "False"}, HU),
    "CompressedData: 1": ({"CompressedData": "1"}, ZLIB),
    "CompressedData: t": ({"CompressedData": "t"}, ZLIB),
    "CompressedDataSize: too small, ignored": ({"CompressedData": "True", "CompressedDataSize": 100}, ZLIB),
    "CompressedDataSize: too large, ignored": ({"CompressedData": "True", "CompressedDataSize": 10**8}, ZLIB),
    "BinaryData: absent": ({"BinaryData": GAP}, HU),
    "BinaryData: 0": ({"BinaryData": "0"}, TEXT),
    "HeaderSize": ({"HeaderSize": 7}, b"7 bytes" + HU),
    "HeaderSize: -1": ({"HeaderSize": -1}, b"some bytes" + HU),
    "HeaderSize: compressed": ({"HeaderSize": 7, "CompressedData": "True"}, b"7 bytes" + ZLIB),
    "ElementType: unsigned and rescaled": (
        {"ElementType": "MET_USHORT", "ElementToIntensityFunctionOffset": -1024},
        (CHEST + 1024).astype("<u2").tobytes(),
    ),
    "a slope": (
        {"ElementToIntensityFunctionSlope": 0.5, "ElementToIntensityFunctionOffset": -1024},
        ((CHEST + 1024) * 2).astype("<i2").tobytes(),
    ),
    "ElementType: int": ({"ElementType": "MET_INT"}, CHEST.astype("<i4").tobytes()),
    "ElementType: long of 4 bytes": ({"ElementType": "MET_LONG"}, CHEST.astype("<i4").tobytes()),
    "ElementType: long long": ({"ElementType": "MET_LONG_LONG"}, CHEST.astype("<i8").tobytes()),
    "ElementType: float": ({"ElementType": "MET_FLOAT"}, CHEST.astype("<f4").tobytes()),
    "ElementType: double": ({"ElementType": "MET_DOUBLE"}, CHEST.astype("<f8").tobytes()),
    "ElementNumberOfChannels": ({"ElementNumberOfChannels": 1}, HU),
    "keys of DICOM": ({"0008|0060": "CT", "Study Description": "Thorax = chest: all", "0020|000d": "1.2"}, HU),
    "letters beyond ASCII": ({"Comment": "Thorax, \xfcberlagert \u80ba"}, HU),
    "a value of several lines": ({"Comment": "one\ntwo\n\nthree"}, HU),
    "a key of ITK's, twice": ({"dim[0]": 3, "dim[0] ": 3}, HU),
}


IN_ONE_FILE = [name for name in READ if READ[name][0].get("HeaderSize", -1) == -1]  # it counts the header too


@pytest.mark.parametrize(
    ("name", "is_one_file"), [*((name, False) for name in READ), *((name, True) for name in IN_ONE_FILE)]
)
def test_what_is_read(tmp_path, name, is_one_file, caplog):
    fields, data = READ[name]
    local = {"ElementDataFile": "LOCAL"} if is_one_file else {}
    volume = Volume(write_metaimage(tmp_path, {**fields, **local}, data))
    np.testing.assert_array_equal(volume.hu, CHEST)
    np.testing.assert_allclose(volume.vx_size_xyz, SPACING_XYZ)
    np.testing.assert_allclose(volume.origin_xyz, ORIGIN_XYZ)
    np.testing.assert_allclose(volume.direction, np.eye(3), atol=1e-9)
    assert not caplog.text


REFUSED = {
    "ObjectType": {"ObjectType": "Mesh"},
    "NDims: absent": {"NDims": GAP},
    "NDims: 2": {"NDims": 2, "DimSize": "24 120"},
    "NDims: not those of DimSize": {"NDims": 4},
    "NDims: four of two": {**FOUR, "DimSize": "24 20 3 2"},
    "DimSize: absent": {"DimSize": GAP},
    "DimSize: 0": {"DimSize": "24 20 0"},
    "DimSize: negative": {"DimSize": "24 -20 -6"},
    "DimSize: a fraction": {"DimSize": "24 20 6.0"},
    "DimSize: a slice more than there is": {"DimSize": "24 20 7"},
    "DimSize: a slice less than there is": {"DimSize": "24 20 5"},
    "ElementSpacing: absent": {"ElementSpacing": GAP},
    "ElementSpacing: empty": {"ElementSpacing": ""},
    "ElementSpacing: 0": {"ElementSpacing": "3 0 5"},
    "ElementSpacing: negative": {"ElementSpacing": "3 4 -5"},
    "ElementSpacing: NaN": {"ElementSpacing": "3 4 nan"},
    "ElementSpacing: infinite": {"ElementSpacing": "inf 4 5"},
    "ElementSpacing: two of three": {"ElementSpacing": "3 4"},
    "ElementSpacing: decimal commas": {"ElementSpacing": "3,0 4,0 5,0"},
    "ElementSpacing: of a micrometer": {"ElementSpacing": "3e-3 4e-3 5e-3"},
    "ElementSpacing: of a meter": {"ElementSpacing": "3000 4000 5000"},
    "ElementSize: 0": {"ElementSpacing": GAP, "ElementSize": "3 4 0"},
    "DistanceUnits: inches": in_units("in", 1 / 25.4),
    "DistanceUnits: without a separator": {"Offset": f"{join(ORIGIN_XYZ)}\nDistanceUnits cm"},
    "DistanceUnits: behind a comment, without one": {"Comment": "one\nDistanceUnits cm"},
    "Offset: NaN": {"Offset": "0 nan 0"},
    "Offset: two of three": {"Offset": "0 0"},
    "Offset: beyond all scanners": {"Offset": "0 0 1e9"},
    "Offset and Position differ": {"Position": "1 2 3"},
    "Offset twice": {"Offset": "0 0 0\nOffset = 1 1 1"},
    "TransformMatrix: zeros": {"TransformMatrix": "0 0 0 0 0 0 0 0 0"},
    "TransformMatrix: NaN": {"TransformMatrix": "1 0 0 0 nan 0 0 0 1"},
    "TransformMatrix: twice as long": {"TransformMatrix": "2 0 0 0 2 0 0 0 2"},
    "TransformMatrix: sheared": {"TransformMatrix": join([1, 0, 0, 0, 1, 0, 0, np.sin(0.26), np.cos(0.26)])},
    "TransformMatrix: in one plane": {"TransformMatrix": "1 0 0 0 1 0 0 1 0"},
    "TransformMatrix and Rotation differ": {"Rotation": "-1 0 0 0 -1 0 0 0 1"},
    "byte orders that differ": {"ElementByteOrderMSB": "True"},
    "byte order: neither": {"BinaryDataByteOrderMSB": "yes"},
    "CompressedData: neither": {"CompressedData": "zlib"},
    "CompressedData: of raw voxels": {"CompressedData": "True"},
    "BinaryData: of binary voxels": {"BinaryData": "False"},
    "HeaderSize: of nothing": {"HeaderSize": 7},
    "HeaderSize: -2": {"HeaderSize": -2},
    "HeaderSize: -1 and compressed": {"HeaderSize": -1, "CompressedData": "True"},
    "ElementType: absent": {"ElementType": GAP},
    "ElementType: another length": {"ElementType": "MET_INT"},
    "ElementType: unknown": {"ElementType": "MET_OTHER"},
    "ElementType: colors": {"ElementType": "MET_UCHAR_ARRAY", "ElementNumberOfChannels": 2},
    "ElementNumberOfChannels: 2": {"ElementType": "MET_UCHAR", "ElementNumberOfChannels": 2},
    "a slope of 0": {"ElementToIntensityFunctionSlope": 0, "ElementToIntensityFunctionOffset": -900},
    "a slope of NaN": {"ElementToIntensityFunctionSlope": "nan"},
    "no HU": {"ElementToIntensityFunctionOffset": 1024},
}


@pytest.mark.parametrize("is_one_file", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name, is_one_file):
    local = {"ElementDataFile": "LOCAL"} if is_one_file else {}
    path = write_metaimage(tmp_path, {**REFUSED[name], **local})
    with refused() as caught:
        _ = Volume(path).hu
    assert caught.value.path in (path, tmp_path / "scan.raw")


@pytest.mark.parametrize("missing", [("TransformMatrix",), ("Offset",), ("TransformMatrix", "Offset")])
def test_a_place_that_is_not_given_is_warned_of(tmp_path, missing, caplog):
    path = write_metaimage(tmp_path, dict.fromkeys(missing, GAP))
    np.testing.assert_array_equal(Volume(path).hu, CHEST)
    (line,) = caplog.messages
    assert all(part in line for part in (str(path), *missing))


def test_an_axis_in_each_row_of_the_matrix(tmp_path):
    """Columns to the back, rows to the left: the steps are read as SimpleITK reads them."""
    path = write_metaimage(tmp_path, {"TransformMatrix": "0 1 0 1 0 0 0 0 1"})
    volume = Volume(path)
    np.testing.assert_array_equal(volume.hu, CHEST.transpose(0, 2, 1))
    assert volume.vx_size_xyz.tolist() == [4, 3, 5]
    assert volume.header.direction.ravel().tolist() == list(sitk.ReadImage(str(path)).GetDirection())


@pytest.mark.parametrize("cut", [1, 100, len(HU)])
@pytest.mark.parametrize("fields", [{}, {"CompressedData": "True"}])
def test_one_file_cut_short(tmp_path, cut, fields, capfd):
    data = ZLIB if fields else HU
    path = write_metaimage(tmp_path, {**fields, "ElementDataFile": "LOCAL"}, data[: max(0, len(data) - cut)])
    with refused(path):
        _ = Volume(path).hu
    assert capfd.readouterr() == ("", "")  # nothing of a library's


def test_a_compressed_stream_that_is_damaged(tmp_path):
    data = bytearray(ZLIB)
    data[-2] ^= 1  # of the checksum
    path = write_metaimage(tmp_path, {"CompressedData": "True"}, bytes(data))
    with refused(tmp_path / "scan.raw"):
        _ = Volume(path).hu


NAMES = {  # the scan's name, that of its data file in the header, and on disk
    "a percent sign": ("dose50%", "dose50%.raw", "dose50%.raw"),
    "like a pattern": ("s%03d", "s%03d.raw", "s%03d.raw"),
    "blanks": ("a b", "a b.raw", "a b.raw"),
    "beyond ASCII": ("M\xfcller", "M\xfcller.raw", "M\xfcller.raw"),
    "accents apart, as macOS spells them": (
        "M\xfcller",
        "M\xfcller.raw",
        unicodedata.normalize("NFD", "M\xfcller.raw"),
    ),
    "large letters on disk": ("SCAN", "scan.raw", "SCAN.RAW"),
    "large letters in the header": ("scan", "SCAN.RAW", "scan.raw"),
    "a folder": ("scan", "voxels/scan.raw", "voxels/scan.raw"),
    "where it lay once": ("scan", "/no/such/folder/scan.raw", "scan.raw"),
    "where it lay once, on Windows": ("scan", "C:\\scans\\scan.raw", "scan.raw"),
    "a folder, on Windows": ("scan", "voxels\\scan.raw", "voxels/scan.raw"),
    "called as a list": ("listed", "listed.raw", "listed.raw"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_data_files(tmp_path, name):
    stem, named, on_disk = NAMES[name]
    path = write_metaimage(tmp_path, {"ElementDataFile": named}, name=stem)
    (tmp_path / on_disk).parent.mkdir(exist_ok=True)
    (tmp_path / f"{stem}.raw").rename(tmp_path / on_disk)
    np.testing.assert_array_equal(Volume(path).hu, CHEST)


def test_a_name_in_latin_1(tmp_path):
    """In the header and on disk, as old systems wrote both; or in the header alone."""
    path = write_metaimage(tmp_path, {"ElementDataFile": "M?ller.raw"})
    path.write_bytes(path.read_bytes().replace(b"M?ller", b"M\xfcller"))
    for name in (os.fsdecode(b"M\xfcller.raw"), "M\xfcller.raw"):
        (tmp_path / "scan.raw").rename(tmp_path / name)
        np.testing.assert_array_equal(Volume(path).hu, CHEST)
        (tmp_path / name).rename(tmp_path / "scan.raw")


@pytest.mark.parametrize("name", ["LIST", "s%03d.raw 1 6 1", "gone.raw", "../scan.raw", "/etc/passwd", "a\\scan.raw"])
def test_data_files_that_are_refused(tmp_path, name):
    path = write_metaimage(tmp_path / "folder", {"ElementDataFile": name})
    (tmp_path / "scan.raw").write_bytes(HU)
    with refused(path):
        Volume(path)


def test_two_files_that_differ_by_case_are_not_mixed_up(tmp_path):
    path = write_metaimage(tmp_path, {"ElementDataFile": "Scan.raw"})
    (tmp_path / "SCAN.raw").write_bytes(HU)
    if not Path(tmp_path / "scan.RAW").exists():  # where case counts
        with refused(path):
            Volume(path)
