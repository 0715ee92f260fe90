import numpy as np
import pytest

from p2ch13.data.ct import Ct
from p2ch13.detection.measure import measure_findings
from p2ch13.detection.planes import ENDS, LEAST_MM, cut_planes
from p2ch13.util.boxes import make_box
from tests.support.scan_files import write_scan

SHAPE_IRC = (20, 60, 60)
VX_SIZE_XYZ = (1.0, 1.0, 2.5)
BLOCK = make_box((6, 20, 30), (10, 26, 42))  # 10 mm high, 6 mm deep, 12 mm wide; the middle is voxel corner (8, 23, 36)
PIXELS = 100  # of 0.5 mm
EXTENTS_MM = {"axial": (12, 6), "coronal": (12, 10), "sagittal": (6, 10)}  # width, height


@pytest.fixture
def ct(tmp_path):
    """A block of tissue; what is above it, in front of it and on its right is denser than the rest."""
    hu = np.full(SHAPE_IRC, -1350, dtype=np.int16)
    hu[12:], hu[:, :14], hu[:, :, :20] = -900, -900, -900
    hu[BLOCK] = 150
    return Ct(write_scan(tmp_path / "1.2.mha", hu, vx_size_xyz=VX_SIZE_XYZ))


def label(*boxes):
    labels = np.zeros(SHAPE_IRC, dtype=np.int32)
    for number, box in enumerate(boxes, 1):
        labels[box] = number
    return labels


def cut(ct, labels, number=1, box=BLOCK):
    (measures,) = measure_findings(ct, (labels == number).astype(np.int32), [type("Finding", (), {"number": 1})])
    return cut_planes(ct, labels, number, box, measures.axes, PIXELS)


def test_planes_are_square_windows_at_true_aspect_ratio(ct):
    planes = {plane.name: plane for plane in cut(ct, label(BLOCK))}
    assert list(planes) == ["axial", "coronal", "sagittal"]
    for name, plane in planes.items():
        assert plane.gray.shape == (PIXELS, PIXELS)
        assert plane.mm_per_pixel == LEAST_MM / PIXELS
        bright = np.argwhere(plane.gray > 200)
        height, width = (np.ptp(bright, axis=0) + 1) * plane.mm_per_pixel
        assert (width, height) == pytest.approx(EXTENTS_MM[name], abs=1.5)
        assert bright.mean(axis=0) + 0.5 == pytest.approx([PIXELS / 2, PIXELS / 2], abs=1)
        (contour,) = plane.contours
        # Corners of the contour are rounded, and its area is that of the voxels.
        x, y = contour[:-1].T
        area = abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2 * plane.mm_per_pixel**2
        assert area == pytest.approx(np.prod(EXTENTS_MM[name]), rel=0.02)
        assert contour.mean(axis=0) == pytest.approx([PIXELS / 2, PIXELS / 2], abs=3)
        assert not plane.others


def test_planes_hang_as_radiologists_hang_them(ct):
    """Above the block, in front of it and on its right it is less dark: on top, on top or left, and left."""
    axial, coronal, sagittal = (plane.gray.astype(int) for plane in cut(ct, label(BLOCK)))
    middle, near, far = PIXELS // 2, 5, PIXELS - 6
    assert axial[near, middle] > axial[far, middle]  # front on top
    assert axial[middle, near] > axial[middle, far]  # the patient's right on the left
    assert coronal[near, middle] > coronal[far, middle]  # head on top
    assert coronal[middle, near] > coronal[middle, far]
    assert sagittal[near, middle] > sagittal[far, middle]
    assert sagittal[middle, near] > sagittal[middle, far]  # front on the left
    assert ENDS == {"axial": ("A", "L", "P", "R"), "coronal": ("H", "L", "F", "R"), "sagittal": ("H", "P", "F", "A")}


def test_diameters_end_at_the_contour(ct):
    axial, coronal, sagittal = cut(ct, label(BLOCK))
    long, short = axial.diameters
    assert np.linalg.norm(long[1] - long[0]) * axial.mm_per_pixel == pytest.approx(13, abs=1.0)  # hypot(12, 6) = 13.4
    assert np.dot(long[1] - long[0], short[1] - short[0]) == pytest.approx(0, abs=1e-6)
    for end in (*long, *short):
        assert np.linalg.norm(axial.contours[0] - end, axis=1).min() < 1
    assert not coronal.diameters and not sagittal.diameters


def test_other_findings_are_drawn_apart(ct):
    near, far = make_box((6, 20, 44), (10, 26, 48)), make_box((0, 55, 0), (1, 60, 5))
    axial, *_ = cut(ct, label(BLOCK, near, far))
    assert len(axial.contours) == 1
    (other,) = axial.others
    # Its cols 44 to 48 are 8 to 12 mm to the patient's left of the middle, pixels of 0.5 mm.
    assert (other[:, 0].min(), other[:, 0].max()) == pytest.approx((50 + 16, 50 + 24), abs=1)


@pytest.mark.parametrize("box", [make_box((0, 0, 0), (1, 1, 1)), make_box((0, 0, 0), SHAPE_IRC)])
def test_findings_of_any_size_at_the_scans_edge(ct, box):
    planes = cut(ct, label(box), box=box)
    largest_mm = max((stop.stop - stop.start) * size for stop, size in zip(box, VX_SIZE_XYZ[::-1], strict=True))
    for plane in planes:
        assert plane.gray.shape == (PIXELS, PIXELS)
        assert plane.mm_per_pixel == max(LEAST_MM, 1.5 * largest_mm) / PIXELS
        assert plane.gray[0, 0] == 0 or plane.gray[-1, 0] == 0  # beyond the scan
        assert plane.contours
