import pytest

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.detection.sides import find_sides
from tests.support.scan_files import Ball, make_chest, make_hu, write_scan, write_turned

VX_SIZE_XYZ = (3.0, 3.0, 3.0)


def finding_at(ct, row, col):
    return Finding("1.2", 1, ct.to_xyz((4, row, col)), 0.0, 0.5)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "ASL"])
def test_sides_are_the_patients(tmp_path, orientation):
    """Columns run to the patient's left, however the scan is stored."""
    scan = write_scan(tmp_path / "a.mha", make_chest(), vx_size_xyz=VX_SIZE_XYZ)
    ct = Ct(write_turned(tmp_path / "1.2.nii.gz", orientation, scan))
    places = [(40, 42), (40, 86), (20, 50), (60, 95), (40, 62), (40, 67)]  # the last two: beside the middle, col 64
    sides = find_sides(ct, [finding_at(ct, *place) for place in places])
    assert sides == ["right", "left", "right", "left", "right", "left"]


def test_a_field_of_view_with_one_lung_tells_no_side(tmp_path):
    ct = Ct(write_scan(tmp_path / "1.2.mha", make_chest()[:, :, :64], vx_size_xyz=VX_SIZE_XYZ))
    assert ct.lungs is not None
    assert find_sides(ct, [finding_at(ct, 40, 42)]) == [None]


def test_without_lungs_there_is_no_side(tmp_path):
    ct = Ct(write_scan(tmp_path / "1.2.mha", make_hu([Ball((5, 20, 22), 4)], (10, 40, 44))))
    assert ct.lungs is None
    assert find_sides(ct, [finding_at(ct, 5, 5)]) == [None]
    assert find_sides(ct, []) == []
