import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
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
