"""Each attribute that is used: absent, empty, zero, negative, no number, several, or contradicted by another."""

import logging

import numpy as np
import pytest

from p2ch13.data.ct import Ct
from tests.support.checks import messages_of_reader, refused
from tests.support.dicom_files import ABSENT, ORIGIN_XYZ, rewrite, rewrite_all, write_series

PLACES = {"first": 0, "middle": 3, "last": 5}
# Of one slice among six, wherever it lies.
REFUSED = [
    # Image Plane
    *(
        ("ImagePositionPatient", value)
        for value in (ABSENT, b"", b"-30\\-40", b"-30\\-40\\200\\1 ", b"-30\\-40\\nan", b"-30\\-40\\1e400 ")
    ),
    *(("ImagePositionPatient", value) for value in (b"-30\\-40\\200,5", b"-30\\\\200", b"left", b"-30\\-40\\-inf ")),
    *(
        ("ImageOrientationPatient", value)
        for value in (ABSENT, b"", b"1\\0\\0\\0\\1", b"0\\0\\0\\0\\0\\0 ", b"1\\0\\0\\1\\0\\0 ", b"2\\0\\0\\0\\2\\0 ")
    ),
    ("ImageOrientationPatient", b"1\\0\\0\\0\\nan\\0 "),
    ("ImageOrientationPatient", b"0\\1\\0\\1\\0\\0 "),  # of another plane
    *(
        ("PixelSpacing", value)
        for value in (ABSENT, b"", b"0.75", b"0.75\\0.5\\0.5 ", b"0\\0.5 ", b"0.75\\-0.5", b"nan\\0.5 ")
    ),
    ("PixelSpacing", b"0.5\\0.75"),  # the other way round
    ("PixelSpacing", b"7.5\\5 "),  # cm taken for mm, or the reverse
    # CT Image
    *(("RescaleSlope", value) for value in (ABSENT, b"", b"0 ", b"-1", b"nan ", b"one ", b"1\\1 ")),
    *(("RescaleIntercept", value) for value in (ABSENT, b"", b"inf ", b"-1024\\0 ", b"-1024 HU")),
    *(("RescaleType", value) for value in (b"MGML", b"HU_MOD", b"OD", b"Z_EFF ")),
    ("PhotometricInterpretation", b"MONOCHROME1 "),
    ("PhotometricInterpretation", ABSENT),
    ("PhotometricInterpretation", b"PALETTE COLOR "),
    # Image Pixel
    *((name, value) for name in ("Rows", "Columns") for value in (ABSENT, b"", 0, 1, 65535, b"\x14\0\x14\0")),
    *(("BitsAllocated", value) for value in (ABSENT, 0, 8, 12, 64)),
    *(("BitsStored", value) for value in (ABSENT, 0, 12, 17)),
    *(("HighBit", value) for value in (ABSENT, b"", 11, 16)),
    *(("PixelRepresentation", value) for value in (ABSENT, 2)),
    ("PixelData", ABSENT),
    ("NumberOfFrames", b"2 "),
    ("NumberOfFrames", b"x "),
    # General Series, Frame of Reference, and what else tells series apart
    ("Modality", b"MR"),
    *((name, b"9.9.9 ") for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")),
]
# Of one slice: padded, rounded, of no use or without a meaning for CT.
READ = [
    ("ImagePositionPatient", b" -30.0\\-40 \\+2.075e2"),  # where the slice in the middle lies
    ("ImageOrientationPatient", b"1\\0.0015\\0\\0\\1\\0"),
    ("ImageOrientationPatient", b"0.9998\\0\\0\\0\\1.0001\\0 "),
    ("PixelSpacing", b"0.7504\\0.4999 "),
    ("PixelSpacing", b" 0.75 \\ 0.50\0"),
    *(("SliceThickness", value) for value in (ABSENT, b"", b"0 ", b"-2", b"nan ", b"thin", b"2.5\\2.5 ")),
    *(("SpacingBetweenSlices", value) for value in (b"", b"0 ", b"-2.5", b"7 ", b"x ")),
    ("SliceLocation", b"9999"),
    ("RescaleType", ABSENT),
    *(("RescaleType", value) for value in (b"", b"HU\0\0", b" hu ", b"US")),
    ("RescaleSlope", b" 1.0 "),
    ("RescaleIntercept", b"-1.024E3\0"),
    *(("PixelPaddingValue", value) for value in (b"", b"\xff\x7f\0\0")),
    ("PixelPaddingRangeLimit", b"\xff\xff"),  # without a value
    *(("SmallestImagePixelValue", value) for value in (b"", b"\xff\xff")),
    *(("InstanceNumber", value) for value in (ABSENT, b"", b"0 ", b"-1", b"7x", b"1 ")),
    *(("AcquisitionNumber", value) for value in (b"", b"0 ", b"x ", b"7 ")),
    *(("ContrastBolusAgent", value) for value in (b"", b"Iodine")),
    *(("ImagesInAcquisition", value) for value in (b"", b"0 ", b"-1", b"6 ", b"x ")),
    *(("GantryDetectorTilt", value) for value in (b"", b"0 ", b"nan ", b"x ", b"0.2 ")),
    *(("Modality", value) for value in (ABSENT, b"", b" ct\0")),
    *((name, value) for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID") for value in (ABSENT, b"")),
    ("PatientID", b" 1\0\0"),
    ("SamplesPerPixel", ABSENT),
    ("PhotometricInterpretation", b"MONOCHROME2\0"),
    *(("NumberOfFrames", value) for value in (b"", b"1 ", b" 1")),
    *(("ImageType", value) for value in (b"", b"ORIGINAL\\PRIMARY\\AXIAL", b"DERIVED\\PRIMARY\\AXIAL ")),
    ("SOPInstanceUID", ABSENT),
    ("PatientName", b"M\xfcller"),
    ("SpecificCharacterSet", b"ISO_IR 999"),
]


def ids(cases):
    return [f"{name}-{'absent' if value is ABSENT else value}" for name, value in cases]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("name", "value"), REFUSED, ids=ids(REFUSED))
def test_a_slice_that_is_refused(tmp_path, hu, name, value, place):
    files = write_series(tmp_path, hu)
    rewrite(files[PLACES[place]], **{name: value})
    with refused(path=files[PLACES[place]]):
        Ct(tmp_path)


@pytest.mark.parametrize(("name", "value"), READ, ids=ids(READ))
def test_a_slice_that_is_read(tmp_path, hu, name, value):
    files = write_series(tmp_path, hu)
    rewrite(files[3], **{name: value})
    ct = Ct(tmp_path)
    np.testing.assert_array_equal(ct.hu, hu)
    assert ct.origin_xyz == pytest.approx(ORIGIN_XYZ)
    assert ct.vx_size_xyz == pytest.approx((0.5, 0.75, 2.5), abs=1e-9)


@pytest.mark.parametrize(
    ("attributes", "is_warned"),
    [
        ({}, False),
        ({"ImagesInAcquisition": "6"}, False),
        ({"ImagesInAcquisition": "7"}, True),
        ({"ImagesInAcquisition": "3"}, False),
        ({"GantryDetectorTilt": "15"}, True),  # but slices lie straight
        ({"GantryDetectorTilt": "-0.1"}, False),
        ({"SliceThickness": "1"}, True),  # every other one is there, or fewer
        ({"SliceThickness": "2"}, False),
        ({"SliceThickness": "5"}, False),
        ({"SliceThickness": "25"}, True),  # or positions are in cm
    ],
)
def test_what_is_unlikely_is_warned_of(tmp_path, hu, attributes, is_warned, caplog):
    write_series(tmp_path, hu, **attributes)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(Ct(tmp_path).hu, hu)
    messages = messages_of_reader(caplog)
    assert len(messages) == is_warned
    assert all(str(tmp_path) in message for message in messages)


@pytest.mark.parametrize(
    ("thickness", "spacing", "expected"),
    [
        (b"1.5 ", ABSENT, 1.5),
        (b"1.5 ", b"2 ", 1.5),
        (ABSENT, b"2 ", 2),
        (b"0 ", b"2 ", 2),
        (b"", b"", None),
        (b"-1", ABSENT, None),
    ],
)
def test_the_thickness_of_a_single_slice(tmp_path, hu, thickness, spacing, expected):
    """Nothing else tells how far the next one would be."""
    (file,) = write_series(tmp_path, hu[:1], SliceThickness=thickness, SpacingBetweenSlices=spacing)
    if expected is None:
        with refused(path=file):
            Ct(tmp_path)
    else:
        assert Ct(tmp_path).vx_size_xyz == pytest.approx((0.5, 0.75, expected))


def test_each_slice_has_its_own_scale(tmp_path, hu, caplog):
    """Stored as (HU + 1024) / 1, / 2 and / 0.5."""
    files = [
        write_series(tmp_path, hu[ndx : ndx + 1] // 2 * 2, names=[f"{ndx}"], slope=slope, step_xyz=(0, 0, 0))[0]
        for ndx, slope in enumerate((1, 2, 0.5))
    ]
    for ndx, file in enumerate(files):
        rewrite(file, ImagePositionPatient=[-30, -40, 200 + 2.5 * ndx], SOPInstanceUID=f"1.2.{ndx}")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(Ct(tmp_path).hu, hu[:3] // 2 * 2)
    assert len(messages_of_reader(caplog)) == 1  # it is unusual


def test_what_the_whole_series_lacks(tmp_path, hu):
    """The first file is named."""
    for name in ("RescaleSlope", "PixelSpacing", "ImagePositionPatient"):
        files = write_series(tmp_path / name, hu)
        rewrite_all(files, **{name: ABSENT})
        with refused(path=files[0]):
            Ct(tmp_path / name)
