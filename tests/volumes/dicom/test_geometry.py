"""Where slices lie: rounded positions, gaps, tilt, drift, and acquisitions that overlap."""

import logging
import math

import numpy as np
import pytest

from p2ch13.data.ct import Ct
from p2ch13.volumes.files import read_header
from tests.support.checks import messages_of_reader, refused
from tests.support.dicom_files import ABSENT, ORIGIN_XYZ, SERIES_UID, rewrite, rewrite_all, write_series

SAGITTAL = (0, 1, 0, 0, 0, -1)  # its normal is along -x
TALL = 60  # slices


def place(files, positions):
    """Give each file a position; a number is its z."""
    for file, position in zip(files, positions, strict=True):
        xyz = [*ORIGIN_XYZ[:2], position] if np.ndim(position) == 0 else position
        rewrite(file, ImagePositionPatient="\\".join(map(str, xyz)).encode())


def write_places(folder, positions, **attributes):
    """Slices of one row and col each, whose values tell their order, at these z."""
    hu = np.arange(len(positions), dtype=np.int16).reshape(-1, 1, 1) - 900
    files = write_series(folder, np.broadcast_to(hu, (len(positions), 4, 5)), **attributes)
    place(files, positions)
    return files


def rounded(spacing_mm, digits, count=TALL):
    return [f"{200 + spacing_mm * ndx:.{digits}f}" for ndx in range(count)]


@pytest.mark.parametrize("cosines", [(1, 0, 0, 0, 1, 0), SAGITTAL])
@pytest.mark.parametrize(("spacing_mm", "digits"), [(0.625, 1), (0.7, 1), (1.25, 0), (2.5, 0), (3.27, 1), (1.6, 0)])
def test_rounded_positions(tmp_path, spacing_mm, digits, cosines):
    texts = rounded(spacing_mm, digits)
    along_x = cosines == SAGITTAL
    positions = [(f"-{text}", -40, 200) for text in texts] if along_x else texts
    write_places(tmp_path, positions, cosines=cosines, SliceThickness=str(spacing_mm))
    header = read_header(tmp_path)
    assert header.shape_irc[0] == TALL
    assert header.vx_size_xyz[2] == pytest.approx((float(texts[-1]) - float(texts[0])) / (TALL - 1))
    assert header.vx_size_xyz[2] == pytest.approx(spacing_mm, abs=10.0**-digits / (TALL - 1))


@pytest.mark.parametrize(("spacing_mm", "digits"), [(0.625, 1), (1.25, 0), (1, 0), (2.5, 1)])
@pytest.mark.parametrize("missing", [1, 20, TALL - 2])
def test_a_missing_slice_among_rounded_positions(tmp_path, spacing_mm, digits, missing):
    files = write_places(tmp_path, rounded(spacing_mm, digits))
    files[missing].unlink()
    with refused() as caught:
        read_header(tmp_path)
    assert caught.value.path == files[missing + 1]


def test_gaps_of_whole_slices_that_nothing_explains(tmp_path):
    """Without numbers, nobody knows whether 2 mm among 1 mm is a slice that is missing."""
    files = write_places(tmp_path, rounded(1.25, 0), InstanceNumber=ABSENT)
    with refused():
        read_header(tmp_path)
    assert files


UNEVEN = [
    ([200, 202.5, 205, 207.5, 210.5, 212.5], 4),  # one is off by 0.5 mm
    ([200, 202.5, 205, 205, 207.5, 210], 3),  # at the place of another
    ([200, 202.5, 205, 205.1, 207.5, 210], 3),  # nearly
    ([200, 202.5, 207.5, 210, 212.5, 215], 2),  # one is missing
    ([200, 202.5, 205, 207.5, 210, 260], 5),  # the last one is far away
    ([140, 202.5, 205, 207.5, 210, 212.5], 1),  # the first one is
]


@pytest.mark.parametrize(("positions", "at"), UNEVEN)
def test_uneven_slices(tmp_path, positions, at):
    files = write_places(tmp_path, positions)
    with refused(path=files[at]):
        read_header(tmp_path)


def test_spacing_that_changes_on_the_way(tmp_path):
    """2.5 mm, then 2.7 mm: on average 2.6 mm, which would be 3 mm wrong in the middle."""
    positions = [200 + 2.5 * min(ndx, 30) + 2.7 * max(0, ndx - 30) for ndx in range(TALL)]
    write_places(tmp_path, [round(each, 4) for each in positions])
    with refused():
        read_header(tmp_path)


@pytest.mark.parametrize(
    ("drift_mm", "is_read"),
    [
        (0.24 / 59, True),
        (0.26 / 59, False),
        (-0.26 / 59, False),
        (0.05, False),
        (2.5 * math.tan(math.radians(15)), False),
    ],
)
def test_a_tilt_is_a_drift_of_more_than_half_a_pixel(tmp_path, drift_mm, is_read):
    """Along columns, which are 0.5 mm apart: 0.25 mm in all."""
    write_places(tmp_path, [(-30 + round(ndx * drift_mm, 5), -40, 200 + 2.5 * ndx) for ndx in range(TALL)])
    if is_read:
        assert read_header(tmp_path).vx_size_xyz[2] == pytest.approx(2.5)
        return
    with refused(path=tmp_path) as caught:
        read_header(tmp_path)
    degrees = math.degrees(math.atan(abs(drift_mm) / 2.5))
    assert f"{degrees:.1f} degrees" in str(caught.value)


@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_shifted_slice_is_no_tilt(tmp_path, at):
    """The patient has moved, or the field of view has."""
    positions = [(-30, -40, 200 + 2.5 * ndx) for ndx in range(6)]
    positions[at] = (-30, -38, positions[at][2])
    files = write_places(tmp_path, positions)
    with refused(path=files[at]):
        read_header(tmp_path)


@pytest.mark.parametrize("digits", [3, 4])
def test_rounded_cosines_of_an_oblique_series(tmp_path, hu, digits):
    angle = math.radians(33)
    across = [round(math.cos(angle), digits), round(math.sin(angle), digits), 0]
    cosines = [*across, -across[1], across[0], 0]
    write_series(tmp_path, hu, cosines=cosines)
    header = read_header(tmp_path)
    np.testing.assert_allclose(header.direction @ header.direction.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(header.direction[:, 0], (math.cos(angle), math.sin(angle), 0), atol=10.0**-digits)
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)


@pytest.mark.parametrize(
    "attributes", [{"PixelSpacing": [0.8, 0.5]}, {"ImageOrientationPatient": [1, 0, 0, 0, 0.999, 0.0447]}]
)
def test_most_slices_are_the_yardstick(tmp_path, hu, attributes):
    """The first file is at fault, not all others."""
    files = write_series(tmp_path, hu)
    rewrite(files[0], **attributes)
    with refused(path=files[0]):
        read_header(tmp_path)


def write_phases(folder, phases, places_of, **attributes):
    """Write a series of phases: slices at these z, of 100 HU more in each one."""
    files = []
    for ndx, phase in enumerate(phases):
        places = places_of[ndx % len(places_of)]
        hu = np.full((len(places), 4, 5), -900 + 100 * ndx, np.int16)
        names = [f"{ndx}-{at:02}.dcm" for at in range(len(places))]
        written = write_series(folder, hu, names=names, **attributes, **phase)
        for at, file in enumerate(written):
            number = 100 * ndx + at + 1
            position = [*ORIGIN_XYZ[:2], places[at]]
            rewrite(file, InstanceNumber=number, SOPInstanceUID=f"1.2.3.{number}", ImagePositionPatient=position)
        files += written
    return files


BETWEEN = ([200, 205, 210, 215], [202.5, 207.5, 212.5])
SAME = ([200, 205, 210, 215], [200, 205, 210])
PHASES = [
    [{"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}],
    [{"AcquisitionNumber": 2, "ContrastBolusAgent": "Iodine"}, {"AcquisitionNumber": 3}],
    [{"TemporalPositionIdentifier": "1"}, {"TemporalPositionIdentifier": "2"}],
    [{"NominalPercentageOfCardiacPhase": 40.0}, {"NominalPercentageOfCardiacPhase": 75.0}],
    [{"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}],
    [{"SliceThickness": "5"}, {"SliceThickness": "1.25"}],
    [{"KVP": "80"}, {"KVP": "140"}],
    [{"ContrastBolusAgent": ""}, {"ContrastBolusAgent": "Iodine"}],
    [{"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "VMI"]}],
]


@pytest.mark.parametrize("places_of", [BETWEEN, SAME])
@pytest.mark.parametrize("phases", PHASES)
def test_phases_are_volumes_of_their_own(tmp_path, phases, places_of, caplog):
    """The larger one is taken and named."""
    write_phases(tmp_path, [{"SliceThickness": "5", **phase} for phase in phases], places_of)
    with caplog.at_level(logging.WARNING):
        ct = Ct(tmp_path)
    np.testing.assert_array_equal(ct.hu, np.full((4, 4, 5), -900))
    assert (ct.origin_xyz[2], ct.vx_size_xyz[2]) == (200, 5)
    (message,) = messages_of_reader(caplog)
    assert SERIES_UID in message
    assert "0-00.dcm" in message


def test_phases_that_only_their_numbers_tell_apart(tmp_path, caplog):
    places_of = ([200, 205, 210, 215],)
    write_phases(tmp_path, [{}, {}, {}], places_of, SliceThickness="5")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(Ct(tmp_path).hu, np.full((4, 4, 5), -900))
    assert len(messages_of_reader(caplog)) == 1


def test_phases_numbered_place_by_place(tmp_path, caplog):
    """As of a table that stands still while the heart or the contrast agent moves: 1, 2, 3 at the first place."""
    files = write_phases(tmp_path, [{}, {}, {}], ([200, 205, 210, 215],), SliceThickness="5")
    for ndx, file in enumerate(files):
        phase, place = divmod(ndx, 4)
        rewrite(file, InstanceNumber=3 * place + phase + 1)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(Ct(tmp_path).hu, np.full((4, 4, 5), -900))
    assert len(messages_of_reader(caplog)) == 1


@pytest.mark.parametrize("count", [2, 8])
def test_images_of_one_place_are_no_scan(tmp_path, count):
    """As of a scanner that waits for the contrast agent: any of them would be a scan of one slice."""
    write_phases(tmp_path, [{}] * count, ([200],), SliceThickness="5")
    with refused(path=tmp_path):
        Ct(tmp_path)


def test_phases_that_nothing_tells_apart(tmp_path):
    files = write_phases(tmp_path, [{}, {}], ([200, 205, 210, 215],), SliceThickness="5")
    rewrite_all(files[4:], InstanceNumber=1)
    with refused():
        Ct(tmp_path)


@pytest.mark.parametrize(("step", "is_warned"), [(1, False), (-1, False), (2, True), (-3, True)])
def test_numbers_that_leave_slices_out(tmp_path, hu, step, is_warned, caplog):
    for ndx, file in enumerate(write_series(tmp_path, hu)):
        rewrite(file, InstanceNumber=30 + step * ndx)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(Ct(tmp_path).hu, hu)
    assert len(messages_of_reader(caplog)) == is_warned


def test_two_phases_of_a_scan_in_steps(tmp_path):
    """Acquisitions 1 and 2 lie end to end, 3 and 4 at the same places."""
    steps = ([200, 205, 210], [215, 220, 225])
    write_phases(tmp_path, [{"AcquisitionNumber": number} for number in (1, 2, 3, 4)], steps, SliceThickness="5")
    ct = Ct(tmp_path)
    assert ct.shape_irc[0] == 6
    assert ct.hu[:, 0, 0].tolist() == [-900] * 3 + [-800] * 3


@pytest.mark.parametrize("agents", [("", ""), ("", "Iodine")])
@pytest.mark.parametrize("count", [2, 6])
def test_acquisitions_end_to_end_are_one_scan(tmp_path, count, agents, caplog):
    """As of scanners that move the table in steps; that is said, and warned of if they differ otherwise."""
    steps = [[200 + 5 * ndx for ndx in range(at * 12 // count, (at + 1) * 12 // count)] for at in range(count)]
    phases = [{"AcquisitionNumber": at + 1, "ContrastBolusAgent": agents[at % 2]} for at in range(count)]
    write_phases(tmp_path, phases, steps, SliceThickness="5")
    with caplog.at_level(logging.INFO):
        assert Ct(tmp_path).shape_irc[0] == 12
    (record,) = [record for record in caplog.records if record.name.startswith("p2ch13.volumes.dicom")]
    assert record.levelname == ("WARNING" if any(agents) else "INFO")
    assert f"{count} acquisitions" in caplog.text


def test_the_count_is_of_each_acquisition(tmp_path, caplog):
    """6 of 6 and 5 of 6."""
    steps = ([200, 205, 210, 215, 220, 225], [230, 235, 240, 245, 250])
    phases = [{"AcquisitionNumber": number, "ImagesInAcquisition": 6} for number in (1, 2)]
    write_phases(tmp_path, phases, steps, SliceThickness="5")
    with caplog.at_level(logging.WARNING):
        assert Ct(tmp_path).shape_irc[0] == 11
    assert "11 of 12" in caplog.text
