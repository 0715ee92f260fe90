import csv
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.detection.measure import Axes, Diameter, Measures
from p2ch13.detection.outputs import write_image, write_nodules
from p2ch13.util.coordinates import AxialOrder, XyzTuple
from tests.support.scan_files import make_hu, write_scan

TURNS = [(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1), (0, 0, 1, 1, 0, 0, 0, -1, 0)]
TURNS += [(0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1)]


@pytest.mark.parametrize("direction", TURNS)
@pytest.mark.parametrize("suffix", ["nii.gz", "mha", "nrrd"])
def test_geometry_is_the_scans(tmp_path, direction, suffix):
    hu = make_hu([], (4, 5, 6))
    scan_path = write_scan(tmp_path / "a.mhd", hu, direction)
    mask = np.arange(4 * 5 * 6).reshape(4, 5, 6) % 7 == 0
    order = AxialOrder.of(np.reshape(direction, (3, 3)))
    path = tmp_path / "out" / f"a_mask.{suffix}"
    write_image(path, order.to_axial(mask).astype(np.uint8), Ct(scan_path))
    scan, written = sitk.ReadImage(str(scan_path)), sitk.ReadImage(str(path))
    assert written.GetSize() == scan.GetSize()
    assert written.GetSpacing() == pytest.approx(scan.GetSpacing())
    assert written.GetOrigin() == pytest.approx(scan.GetOrigin())
    assert written.GetDirection() == pytest.approx(scan.GetDirection(), abs=1e-6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), mask)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_failed_write_keeps_the_earlier_file(tmp_path, monkeypatch):
    ct = Ct(write_scan(tmp_path / "a.mha", make_hu([], (4, 5, 6))))
    path = tmp_path / "out" / "a_mask.nii.gz"
    write_image(path, np.ones((4, 5, 6), dtype=np.uint8), ct)
    before = path.read_bytes()

    def interrupted(image, name, **options):
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(sitk, "WriteImage", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_image(path, np.zeros((4, 5, 6), dtype=np.uint8), ct)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_list_has_luna16s_columns_first(tmp_path):
    finding = Finding("1.2.3", 1, XyzTuple(1.25, -2.0, 300.123), 12.000001, 0.9999938558253978, 5.678, 95.87, 3, 7)
    write_nodules(tmp_path / "nodules.csv", [finding])
    header, row = csv.reader((tmp_path / "nodules.csv").open(newline=""))
    assert header[:5] == ["seriesuid", "coordX", "coordY", "coordZ", "probability"]
    assert header[5:] == ["logit", "diameter_mm", "volume_mm3", "first_slice", "last_slice", "finding"]
    assert row[:6] == ["1.2.3", "1.250", "-2.000", "300.123", "0.9999938558253978", "12.000001"]
    assert row[6:] == ["5.68", "95.9", "3", "7", "1"]


AXES = Axes(3, Diameter(9.95, ((0.0, 0.0), (9.95, 0.0))), Diameter(6.05, ((0.0, 0.0), (0.0, 6.05))))
SOLID_AXES = Axes(3, Diameter(5.25, ((0.0, 0.0), (5.25, 0.0))), Diameter(4.0, ((0.0, 0.0), (0.0, 4.0))))
MEASURED = [
    (
        Measures(AXES, 250.5, -102.5, "solid", None, math.nan, True),
        # The mean of 9.95 and 6.05 is 8.0; halves are rounded up, of negative numbers away from 0.
        ["10.0", "6.1", "8.0", "251", "-103", "solid", "True", "", "", "",
         "solid, 8 to under 15 mm; juxtapleural, under 10 mm", "solid, 6 to 8 mm"],
    ),
    (
        Measures(AXES, 250.4, -401.4, "part-solid", SOLID_AXES, 70.2, None),
        ["10.0", "6.1", "8.0", "250", "-401", "part-solid", "", "5.3", "4.6", "70",
         "part-solid, 6 mm and more, solid part under 6 mm", "part-solid, 6 mm and more, solid part under 6 mm"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("measures", "expected"), MEASURED)
def test_the_columns_of_measures(tmp_path, measures, expected):
    finding = Finding("1.2.3", 1, XyzTuple(1.25, -2.0, 300.123), 12.000001, 0.9999938558253978, 5.678, 95.87, 3, 7)
    write_nodules(tmp_path / "nodules.csv", [finding], [measures])
    header, row = csv.reader((tmp_path / "nodules.csv").open(newline=""))
    assert header[11:] == [
        "long_axis_mm", "short_axis_mm", "mean_axis_mm", "whole_mm3", "mean_hu", "kind", "at_pleura",
        "solid_long_axis_mm", "solid_mean_axis_mm", "solid_mm3", "lung_rads_v2022", "fleischner_2017",
    ]  # fmt: skip
    assert row[11:] == expected
    for side, text in (("left", "left"), (None, "")):
        write_nodules(tmp_path / "nodules.csv", [finding], [measures], [side])
        sided_header, sided_row = csv.reader((tmp_path / "nodules.csv").open(newline=""))
        assert (sided_header, sided_row) == ([*header, "side"], [*row, text])
    assert row[6:11] == ["5.68", "95.9", "3", "7", "1"]
