import numpy as np
import pytest

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import find_marked
from p2ch13.detection.sides import find_sides
from tests.support.scan_files import ORIENTATIONS, write_scan, write_turned

PLACES = {
    (40, 30): "right",
    (40, 55): "right",
    (40, 75): "left",
    (30, 100): "left",
}  # row, col of a chest from the feet


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_sides_are_the_patients(tmp_path, chest, orientation):
    axial = write_scan(tmp_path / "axial.mha", chest, vx_size_xyz=(3, 3, 3))
    ct = Ct(write_turned(tmp_path / "turned.mha", orientation, axial))
    for (row, col), side in PLACES.items():
        mask = np.zeros(chest.shape, dtype=bool)
        mask[4, row, col] = True
        _, findings = find_marked(ct, mask)
        assert find_sides(ct, findings) == [side]
    assert find_sides(ct, []) == []


def test_without_lungs(tmp_path, chest):
    without = np.where(chest == -860, 40, chest)
    ct = Ct(write_scan(tmp_path / "a.mha", without, vx_size_xyz=(3, 3, 3)))
    mask = np.zeros(chest.shape, dtype=bool)
    mask[4, 40, 30] = True
    assert find_sides(ct, find_marked(ct, mask)[1]) == [None]
