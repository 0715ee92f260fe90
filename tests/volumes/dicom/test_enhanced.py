"""Enhanced CT: the slices are frames of one file, described by functional groups."""

import logging

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from p2ch13.data.ct import Ct
from p2ch13.volumes.dicom.search import find_series
from tests.support.checks import messages_of_reader, refused
from tests.support.dicom_files import ABSENT, GROUPS, ORIGIN_XYZ, SERIES_UID, write_enhanced

ORDERS = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]]


def groups_of(data, name, frame):
    """The group of all frames or of one of them."""
    holder = data.SharedFunctionalGroupsSequence[0] if frame is None else data.PerFrameFunctionalGroupsSequence[frame]
    return getattr(holder, name)[0]


def edit(path, change):
    data = dcmread(path)
    change(data)
    data.save_as(path)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("per_frame", [GROUPS[:1], GROUPS[:3], GROUPS])
def test_frames_in_any_order(tmp_path, hu, order, per_frame):
    """Groups of each frame, or of all of them."""
    write_enhanced(tmp_path / "ct.dcm", hu, order=order, per_frame=per_frame)
    ct = Ct(tmp_path)
    assert ct.series_uid == SERIES_UID
    np.testing.assert_array_equal(ct.hu, hu)
    assert ct.origin_xyz == pytest.approx(ORIGIN_XYZ)
    assert ct.vx_size_xyz == pytest.approx((0.5, 0.75, 2.5))


def test_the_file_itself(tmp_path, hu):
    path = write_enhanced(tmp_path / "ct.dcm", hu)
    np.testing.assert_array_equal(Ct(path).hu, hu)


def test_legacy_converted_and_single_frames(tmp_path, hu):
    """Also a file for each frame."""
    write_enhanced(tmp_path / "legacy" / "ct.dcm", hu, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.2")
    np.testing.assert_array_equal(Ct(tmp_path / "legacy").hu, hu)
    for ndx, one in enumerate(hu):
        path = write_enhanced(tmp_path / "single" / f"{ndx}.dcm", one[np.newaxis], SOPInstanceUID=f"1.2.{ndx}")

        def move(data, z=ORIGIN_XYZ[2] + 2.5 * ndx):
            groups_of(data, "PlanePositionSequence", 0).ImagePositionPatient = [*ORIGIN_XYZ[:2], z]

        edit(path, move)
    np.testing.assert_array_equal(Ct(tmp_path / "single").hu, hu)


def test_each_frame_has_its_own_scale(tmp_path, hu):
    path = write_enhanced(tmp_path / "ct.dcm", hu, per_frame=GROUPS)

    def change(data):
        groups_of(data, "PixelValueTransformationSequence", 2).RescaleIntercept = -1000
        groups_of(data, "PixelValueTransformationSequence", 4).RescaleSlope = 2

    edit(path, change)
    expected = hu.astype(int)
    expected[2] += 24
    expected[4] = 2 * (expected[4] + 1024) - 1024
    np.testing.assert_array_equal(Ct(tmp_path).hu, expected)


def test_compressed_frames(tmp_path, hu):
    path = write_enhanced(tmp_path / "ct.dcm", hu, order=ORDERS[2])
    edit(path, lambda data: data.compress(RLELossless, generate_instance_uid=False))
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


def test_localizers_among_the_frames(tmp_path, hu):
    path = write_enhanced(tmp_path / "ct.dcm", hu, per_frame=GROUPS)

    def change(data):
        groups_of(data, "CTImageFrameTypeSequence", 0).FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]

    edit(path, change)
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu[1:])
    assert dict(find_series(tmp_path).left_out) == {"localizer": 1}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (
            {"FrameType": ["DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"], "VolumeBasedCalculationTechnique": "MAX_IP"},
            "projection",
        ),
        ({"FrameType": ["DERIVED", "PRIMARY", "VOLUME", "MAT_SPECIFIC"]}, "material map"),
    ],
)
def test_frames_that_were_computed(tmp_path, hu, values, kind):
    path = write_enhanced(tmp_path / "ct.dcm", hu)

    def change(data):
        for name, value in values.items():
            setattr(groups_of(data, "CTImageFrameTypeSequence", None), name, value)

    edit(path, change)
    with refused(path=tmp_path) as caught:
        Ct(tmp_path)
    assert kind in str(caught.value)


@pytest.mark.parametrize("keyword", ["StackID", "TemporalPositionIndex", "FrameAcquisitionNumber"])
def test_stacks_of_frames(tmp_path, hu, keyword, caplog):
    """Two phases of three slices at the same places."""
    path = write_enhanced(tmp_path / "ct.dcm", hu)

    def change(data):
        for ndx, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            place = ORIGIN_XYZ[2] + 2.5 * (ndx % 3)
            frame.PlanePositionSequence[0].ImagePositionPatient = [*ORIGIN_XYZ[:2], place]
            content = Dataset()
            setattr(content, keyword, str(1 + ndx // 3) if keyword == "StackID" else 1 + ndx // 3)
            frame.FrameContentSequence = [content]

    edit(path, change)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(Ct(tmp_path).hu, hu[:3])
    assert len(messages_of_reader(caplog)) == 1


# The group, its attribute and a value that it cannot have.
REFUSED = [
    *(("PlanePositionSequence", "ImagePositionPatient", value) for value in (ABSENT, [])),
    *(("PlaneOrientationSequence", "ImageOrientationPatient", value) for value in (ABSENT, [0, 0, 0, 0, 0, 0])),
    *(("PixelMeasuresSequence", "PixelSpacing", value) for value in (ABSENT, [0, 0.5], [0.5, -1])),
    *(("PixelValueTransformationSequence", name, ABSENT) for name in ("RescaleSlope", "RescaleIntercept")),
    ("PixelValueTransformationSequence", "RescaleSlope", 0),
    ("PixelValueTransformationSequence", "RescaleType", "MGML"),
]


@pytest.mark.parametrize("frame", [None, 0, 3, 5])
@pytest.mark.parametrize(("group", "keyword", "value"), REFUSED)
def test_groups_that_are_refused(tmp_path, hu, group, keyword, value, frame):
    """Of all frames, the first, a middle or the last one. A group that is not there lacks its attributes."""
    per_frame = GROUPS[:1] if frame is None and group != GROUPS[0] else GROUPS
    path = write_enhanced(tmp_path / "ct.dcm", hu, per_frame=per_frame)

    def change(data):
        frames = range(len(hu)) if frame is None and group == GROUPS[0] else [frame]
        for each in frames:
            if value is ABSENT:
                delattr(groups_of(data, group, each), keyword)
            else:
                setattr(groups_of(data, group, each), keyword, value)

    edit(path, change)
    with refused(path=path):
        Ct(tmp_path)


@pytest.mark.parametrize(
    "attributes",
    [
        {"NumberOfFrames": 5},
        {"NumberOfFrames": 7},
        {"NumberOfFrames": 0},
        {"PerFrameFunctionalGroupsSequence": Sequence()},
        {"SharedFunctionalGroupsSequence": Sequence()},
        {"Rows": 10},
        {"BitsAllocated": 8},
        {"HighBit": 11},
    ],
)
def test_contradictions(tmp_path, hu, attributes):
    path = write_enhanced(tmp_path / "ct.dcm", hu, **attributes)
    with refused(path=path):
        Ct(tmp_path)


def test_without_the_number_of_frames_the_groups_count(tmp_path, hu):
    path = write_enhanced(tmp_path / "ct.dcm", hu)
    edit(path, lambda data: data.pop("NumberOfFrames"))
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


def test_a_missing_frame_and_a_tilt(tmp_path, hu):
    path = write_enhanced(tmp_path / "gap" / "ct.dcm", hu, order=[0, 1, 2, 4, 5])
    with refused(path=path):
        Ct(tmp_path / "gap")
    path = write_enhanced(tmp_path / "tilt" / "ct.dcm", hu)

    def tilt(data):
        for ndx, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            frame.PlanePositionSequence[0].ImagePositionPatient = [-30, -40 + 0.5 * ndx, 200 + 2.5 * ndx]

    edit(path, tilt)
    with refused(path=tmp_path / "tilt"):
        Ct(tmp_path / "tilt")
