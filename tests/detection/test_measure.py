import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.detection.measure import (
    GROUND_GLASS,
    PART_SOLID,
    SOLID,
    find_axes,
    measure,
    measure_findings,
)
from p2ch13.util.boxes import BoxMask, make_box
from tests.support.scan_files import LUNG_HU, make_chest, write_scan


def open_scan(tmp_path, hu, vx_size_xyz=(0.7, 0.7, 1.0)):
    return Ct(write_scan(tmp_path / "a.mha", hu.astype(np.int16), vx_size_xyz=vx_size_xyz))


def part_of(mask):
    return BoxMask(make_box((0, 0, 0), mask.shape), mask)


def mark_ellipsoid(axes_mm, degrees, vx_size_xyz, shift_xyz=(0, 0, 0)):
    """Mark the voxels whose centers lie in an ellipsoid around the middle voxel, shifted by a part of a voxel.

    Returns: the mask; the axes of its section through its center; and half its height, mm.
    """
    half, turn = np.array(axes_mm) / 2, Rotation.from_euler("zxy", degrees, degrees=True).as_matrix()
    shape = turn @ np.diag(half**-2.0) @ turn.T  # points p of the surface have p @ shape @ p = 1
    reach = [math.ceil(max(half) / size) + 2 for size in vx_size_xyz[::-1]]
    z, y, x = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    points = (np.stack([x, y, z], axis=-1) - shift_xyz) * vx_size_xyz
    section = 2 / np.sqrt(np.linalg.eigvalsh(shape[:2, :2]))
    return np.einsum("...i,ij,...j", points, shape, points) <= 1, section, math.sqrt((turn[2] ** 2 * half**2).sum())


ELLIPSOIDS = [
    ((6, 5, 5), (0, 0, 0), (0.6, 0.6, 1.0), (0.1, 0.3, 0)),
    ((8, 6, 7), (30, 0, 0), (0.7, 0.7, 1.0), (0, 0, 0)),
    ((10, 8, 6), (0, 40, 0), (0.6, 0.8, 1.25), (0.25, 0.1, 0)),
    ((12, 12, 12), (0, 0, 0), (0.7, 0.7, 2.5), (0, 0, 0)),
    ((12, 9, 8), (20, 30, 50), (0.5, 0.7, 2.5), (0, 0, 0)),
    ((16, 10, 12), (70, 20, 10), (0.8, 0.8, 5.0), (0.2, 0.4, 0)),
    ((24, 16, 18), (45, 0, 0), (0.7, 0.7, 1.0), (0.25, 0.1, 0)),
]


@pytest.mark.parametrize(("axes_mm", "degrees", "vx_size_xyz", "shift_xyz"), ELLIPSOIDS)
def test_axes_of_ellipsoids_in_a_slice_through_their_center(axes_mm, degrees, vx_size_xyz, shift_xyz):
    mask, section_mm, _ = mark_ellipsoid(axes_mm, degrees, vx_size_xyz, shift_xyz)
    axes = find_axes(part_of(mask), np.array(vx_size_xyz))
    half_pixel = max(vx_size_xyz[:2]) / 2
    assert axes.long.length_mm == pytest.approx(max(section_mm), abs=half_pixel)
    assert axes.short.length_mm == pytest.approx(min(section_mm), abs=half_pixel)
    assert abs(axes.slice_ndx - mask.shape[0] // 2) <= 1


@pytest.mark.parametrize(("axes_mm", "degrees", "vx_size_xyz", "shift_xyz"), ELLIPSOIDS)
def test_axes_of_ellipsoids_between_two_slices(axes_mm, degrees, vx_size_xyz, shift_xyz):
    """A section at a height h of H has axes that are sqrt(1 - (h / H)^2) as long as those through the center."""
    mask, section_mm, height_mm = mark_ellipsoid(axes_mm, degrees, vx_size_xyz, (*shift_xyz[:2], 0.5))
    axes = find_axes(part_of(mask), np.array(vx_size_xyz))
    shrunk = math.sqrt(1 - (vx_size_xyz[2] / 2 / height_mm) ** 2)
    half_pixel = max(vx_size_xyz[:2]) / 2
    for axis, true_mm in ((axes.long, max(section_mm)), (axes.short, min(section_mm))):
        assert shrunk * true_mm - half_pixel <= axis.length_mm <= true_mm + half_pixel


@pytest.mark.parametrize("axes_mm", [(6, 6, 6), (7, 6, 6), (8, 7, 6), (12, 9, 8), (20, 14, 16)])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, 30, 50)])
@pytest.mark.parametrize("shift_xyz", [(0.1, 0.3, 0.2), (0.25, 0.4, 0.5)])
def test_volumes_of_ellipsoids(tmp_path, axes_mm, degrees, shift_xyz):
    vx_size_xyz = (0.6, 0.6, 1.0)
    mask, *_ = mark_ellipsoid(axes_mm, degrees, vx_size_xyz, shift_xyz)
    ct = open_scan(tmp_path, np.where(mask, 20, LUNG_HU), vx_size_xyz)
    measures = measure(ct, part_of(mask))
    assert measures.volume_mm3 == pytest.approx(math.pi / 6 * math.prod(axes_mm), rel=0.03)
    assert (measures.mean_hu, measures.kind) == (20, SOLID)


def test_the_ends_of_axes_lie_in_the_scans_slice():
    """Blocks of 9 x 11 and 9 x 12 pixels of 0.5 x 1 mm around row 20, from col 10 on, in slices 4 and 5."""
    mask = np.zeros((8, 40, 40), dtype=bool)
    mask[4, 16:25, 10:21] = mask[5, 16:25, 10:22] = True
    box = make_box((3, 15, 8), (7, 27, 30))
    axes = find_axes(BoxMask(box, mask[box]), np.array([1.0, 0.5, 2.0]))
    assert axes.slice_ndx == 5
    assert axes.long.length_mm == pytest.approx(12, abs=1)
    assert axes.short.length_mm == pytest.approx(4.5, abs=0.5)
    (first_row, first_col), (last_row, last_col) = sorted(axes.long.ends_rowcol, key=lambda end: end[1])
    assert (first_col, last_col) == (pytest.approx(9.5, abs=0.75), pytest.approx(21.5, abs=0.75))
    assert (first_row, last_row) == (pytest.approx(20, abs=5), pytest.approx(20, abs=5))
    assert axes.mean_mm == (axes.long.length_mm + axes.short.length_mm) / 2


def test_fragments_and_holes(tmp_path):
    """The largest fragment has the axes, all voxels the volume; a hole shortens no axis."""
    ball = mark_ellipsoid((10, 10, 10), (0, 0, 0), (0.5, 0.5, 1.0))[0]
    whole = np.zeros((ball.shape[0], ball.shape[1], 60), dtype=bool)
    whole[:, :, : ball.shape[2]] = ball
    holed = whole.copy()
    middle = tuple(size // 2 for size in ball.shape)
    holed[middle[0], middle[1] - 2 : middle[1] + 3, middle[2] - 2 : middle[2] + 3] = False
    holed[middle[0], middle[1], -3:] = True  # another fragment
    ct = open_scan(tmp_path, np.where(whole, 0, LUNG_HU), (0.5, 0.5, 1.0))
    measures = measure(ct, part_of(holed))
    assert measures.axes == measure(ct, part_of(whole)).axes
    assert measures.volume_mm3 == np.count_nonzero(holed) / 4


def test_a_single_voxel(tmp_path):
    hu = np.full((4, 9, 9), LUNG_HU)
    hu[2, 4, 4] = -299
    labels = (hu == -299).astype(np.int32)
    (measures,) = measure_findings(open_scan(tmp_path, hu), labels, [Finding("a", 1, (0, 0, 0), 0.0, 0.5)])
    assert (measures.volume_mm3, measures.mean_hu, measures.kind) == (pytest.approx(0.49), -299, SOLID)
    assert measures.axes.long.length_mm == pytest.approx(0.7, abs=0.35)
    assert measures.axes.slice_ndx == 2
    assert measures.is_at_pleura is None  # there are no lungs


def make_nodule(total_mm, total_hu, solid_mm=0.0, solid_hu=0.0, vx_size_xyz=(0.7, 0.7, 1.0)):
    """Return the HU and the mask of a ball around another in lung, both blurred as a scanner does."""
    mask = mark_ellipsoid((total_mm,) * 3, (0, 0, 0), vx_size_xyz)[0]
    hu = np.where(mask, total_hu, LUNG_HU)
    if solid_mm:
        index, row, col = (np.arange(size) - size // 2 for size in mask.shape)
        away = (index[:, None, None] * vx_size_xyz[2]) ** 2 + (row[:, None] * vx_size_xyz[1]) ** 2
        hu[away + (col * vx_size_xyz[0]) ** 2 <= (solid_mm / 2) ** 2] = solid_hu
    return ndimage.gaussian_filter(hu.astype(float), (0.5, 1.0, 1.0)).round(), mask


# Diameter and HU of the whole, diameter and HU of its solid part, slice spacing in mm, kind.
KINDS_BY_HAND = [
    (4, 30, 0, 0, 1.0, SOLID),  # most of its voxels are at its rim, where it is partly lung
    (5, 30, 0, 0, 2.5, SOLID),
    (8, 30, 0, 0, 1.0, SOLID),
    (20, 30, 0, 0, 1.0, SOLID),
    (30, 30, 0, 0, 5.0, SOLID),
    (5, -600, 0, 0, 1.0, GROUND_GLASS),
    (12, -400, 0, 0, 1.0, GROUND_GLASS),
    (30, -600, 0, 0, 2.5, GROUND_GLASS),
    (12, -600, 6, 30, 1.0, PART_SOLID),
    (20, -600, 12, 30, 1.0, PART_SOLID),
    (20, -600, 16, 30, 1.0, PART_SOLID),
    (24, -500, 8, 0, 2.5, PART_SOLID),
    (12, -600, 2, 30, 1.0, GROUND_GLASS),  # a speck
]


@pytest.mark.parametrize(("total_mm", "total_hu", "solid_mm", "solid_hu", "slice_mm", "kind"), KINDS_BY_HAND)
def test_kinds(tmp_path, total_mm, total_hu, solid_mm, solid_hu, slice_mm, kind):
    vx_size_xyz = (0.7, 0.7, slice_mm)
    hu, mask = make_nodule(total_mm, total_hu, solid_mm, solid_hu, vx_size_xyz)
    measures = measure(open_scan(tmp_path, hu, vx_size_xyz), part_of(mask))
    assert measures.kind == kind
    if kind == PART_SOLID:
        assert measures.solid_axes.mean_mm == pytest.approx(solid_mm, abs=0.7 + slice_mm / 4)
        assert 0 < measures.solid_volume_mm3 < measures.volume_mm3
    else:
        assert measures.solid_axes is None
        assert math.isnan(measures.solid_volume_mm3)


def test_vessels_and_noise_in_ground_glass(tmp_path):
    hu, mask = make_nodule(14, -600)
    index, row, col = (size // 2 for size in mask.shape)
    hu[index, row - 8 : row + 9, col : col + 2] = 20  # a vessel of 1.4 mm
    hu += np.random.default_rng(0).normal(0, 60, hu.shape)
    assert measure(open_scan(tmp_path, hu), part_of(mask)).kind == GROUND_GLASS


def test_a_solid_nodule_with_noise_in_low_dose(tmp_path):
    hu, mask = make_nodule(7, 0)
    hu += np.random.default_rng(0).normal(0, 60, hu.shape)
    assert measure(open_scan(tmp_path, hu), part_of(mask)).kind == SOLID


@pytest.mark.parametrize(("hu", "solid_hu", "kind"), [(-299, -300, SOLID), (-300, -300, GROUND_GLASS)])
def test_the_border_of_solid(tmp_path, hu, solid_hu, kind):
    mask = mark_ellipsoid((9, 9, 9), (0, 0, 0), (0.7, 0.7, 1.0))[0]
    ct = open_scan(tmp_path, np.where(mask, hu, LUNG_HU))
    assert measure(ct, part_of(mask), solid_hu=solid_hu).kind == kind
    assert measure(ct, part_of(mask), solid_hu=-500).kind == SOLID


def test_findings_at_the_pleura(tmp_path):
    """One nodule in the middle of the right lung, one at its border to the chest wall."""
    hu = make_chest()
    hu[3:5, 39:42, 41:44] = 0
    hu[3:5, 39:42, 30:33] = 0
    labels = np.zeros(hu.shape, dtype=np.int32)
    labels[3:5, 39:42, 41:44], labels[3:5, 39:42, 30:33] = 1, 2
    ct = open_scan(tmp_path, hu, (3.0, 3.0, 3.0))
    found = measure_findings(ct, labels, [Finding("a", n, (0, 0, 0), 0.0, 0.5) for n in (1, 2)])
    assert [measures.is_at_pleura for measures in found] == [False, True]
    assert measure_findings(ct, labels, []) == []
