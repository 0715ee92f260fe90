import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.data.ct import Ct
from p2ch13.labels.lidc import fill_polygon
from p2ch13.labels.lidc_xml import XmlFile
from p2ch13.labels.rules import LidcRule
from tests.conftest import SHARED
from tests.support.checks import refused
from tests.support.lidc_files import Roi, block, block_mask, ring, write_readings, z_of
from tests.support.scan_files import ORIGIN_XYZ, SHAPE_IRC, VX_SIZE_XYZ, make_hu, write_scan

FLIPPED = (-1, 0, 0, 0, -1, 0, 0, 0, 1)  # 14 scans of LUNA16
UPSIDE_DOWN = (1, 0, 0, 0, 1, 0, 0, 0, -1)


def lung_with(tmp_path, readings, name="1.2.mhd", **geometry):
    """Return a scan of lung alone with these contours."""
    xml_path = write_readings(tmp_path / "a.xml", "1.2", readings)
    return Ct(write_scan(tmp_path / name, make_hu([]), **geometry), [], LidcRule(XmlFile(xml_path)))


def mask_of(tmp_path, readings, **geometry):
    """Return the mask of a scan of lung alone in the order of its file, after comparing its slices with it."""
    ct = lung_with(tmp_path, readings, **geometry)
    mask = ct.positive_mask
    assert ct.positive_indexes == mask.any(axis=(1, 2)).nonzero()[0].tolist()
    np.testing.assert_array_equal(np.stack([ct.get_slice_mask(ndx) for ndx in range(SHAPE_IRC[0])]), mask)
    return ct.as_stored(mask)


AREAS = [
    (ring((3, 6), (2, 4)), 4 * 3),  # a rectangle of 4 rows and 3 cols
    (ring((5, 5), (5, 5)), 1),  # a single pixel
    (ring((5, 5), (2, 9)), 8),  # one pixel wide
    ([(1, 4), (2, 3), (3, 2), (4, 3), (5, 4), (4, 5), (3, 6), (2, 5)], 1 + 3 + 1),  # a diamond, pixel by pixel
    ([(0, 0), (0, 8), (8, 0)], 6 + 5 + 4 + 3 + 2 + 1),  # row r of a triangle: cols 1 to 7 - r
    ([(0, 0), (2, 7), (4, 0)], 3 + 6 + 3),  # rows 1 and 3 end at 3.5, row 2 at 7, whose pixel is the tip
    ([(0, 0), (0, 8), (4, 8), (4, 4), (8, 4), (8, 0)], 3 * 7 + 4 * 3),  # an L: rows 1 to 3, then rows 4 to 7
    ([(5, 5)], 0),  # a nodule of less than 3 mm
    ([(5, 5), (5, 9)], 0),
    ([(1, 1), (5, 5), (9, 9)], 0),  # a line
]


@pytest.mark.parametrize(("points", "area"), AREAS)
@pytest.mark.parametrize("turned", [False, True])
def test_area_inside_a_contour(points, area, turned):
    points = np.array(points)[::-1, ::-1] if turned else np.array(points)  # reversed, rows and cols swapped
    interior, edge = fill_polygon(points, (12, 12))
    assert interior.sum() == area
    assert not (interior & edge).any()
    assert edge[tuple(points.T)].all()


def test_a_contour_that_repeats_its_first_point():
    points = ring((3, 6), (2, 4))
    interiors = [fill_polygon(np.array(contour), (12, 12))[0] for contour in (points, [*points, points[0]])]
    np.testing.assert_array_equal(*interiors)


def test_x_is_the_column_and_the_contour_is_outside(tmp_path):
    nodule = (4, 6), (20, 24), (60, 61)
    np.testing.assert_array_equal(mask_of(tmp_path, [[block(*nodule)]]), block_mask(*nodule))


def test_an_exclusion_and_its_contour_are_not_nodule(tmp_path):
    nodule = [Roi(z_of(5), ring((40, 42), (50, 53)), False), *block((5, 5), (30, 50), (40, 60))]
    expected = block_mask((5, 5), (30, 50), (40, 60)) & ~block_mask((5, 5), (39, 43), (49, 54))
    np.testing.assert_array_equal(mask_of(tmp_path, [[nodule]]), expected)


def test_an_exclusion_is_of_its_own_nodule(tmp_path):
    hole = Roi(z_of(5), ring((40, 42), (50, 53)), False)
    mask = mask_of(tmp_path, [[[*block((5, 5), (30, 50), (40, 60)), hole], block((5, 5), (41, 41), (51, 51))]])
    assert mask[5, 41, 51]
    assert mask.sum() == 21 * 21 - 5 * 6 + 1


def test_several_contours_in_one_slice(tmp_path):
    nodule = [*block((5, 5), (30, 32), (40, 42)), *block((5, 5), (36, 38), (40, 42))]
    assert mask_of(tmp_path, [[nodule]]).sum() == 9 + 9


ROWS, COLS = (30, 39), (50, 59)
FOUR = [[block((4, 6), (first, 39), COLS)] for first in (30, 32, 34, 36)]  # each reader begins 2 rows below the last


@pytest.mark.parametrize(
    ("readings", "first_row"),
    [
        (FOUR[:1], 30),  # one of one
        (FOUR[:2], 30),  # one of two is half
        (FOUR[:3], 32),  # two of three
        (FOUR, 32),  # two of four
        ([*FOUR[:3], []], 32),  # the fourth saw nothing, and counts
        ([FOUR[0], [], []], None),  # one of three
        ([FOUR[0], FOUR[2], [], []], 34),
    ],
)
def test_at_least_half_of_the_readers(tmp_path, readings, first_row):
    expected = block_mask((4, 6), (first_row, 39), COLS) if first_row else np.zeros(SHAPE_IRC, dtype=bool)
    np.testing.assert_array_equal(mask_of(tmp_path, readings), expected)


def test_a_reader_who_marks_a_voxel_twice_has_one_vote(tmp_path):
    assert not mask_of(tmp_path, [[block((4, 6), ROWS, COLS)] * 2, [], []]).any()


def test_nodules_far_apart_and_nodules_that_overlap(tmp_path):
    near, far = block((2, 3), (10, 12), (10, 12)), block((12, 13), (80, 84), (80, 84))
    chain = [block((7, 7), (20 + 3 * ndx, 24 + 3 * ndx), (50, 52)) for ndx in range(3)]
    parts = lung_with(tmp_path, [[near, far, *chain[:2]], [near, far, *chain[1:]]]).parts
    assert sorted(part.mark(part.box).sum() for part in parts) == [2 * 9, 11 * 3, 2 * 25]  # rows 20 to 30


def test_components_are_connected_over_corners(tmp_path):
    nodules = [block((4, 5), (10, 12), (10, 12)), block((6, 7), (13, 15), (13, 15))]
    (part,) = lung_with(tmp_path, [nodules]).parts
    assert part.mark(part.box).sum() == 2 * (2 * 9)


def test_small_nodules_and_non_nodules_are_not_marked(tmp_path):
    assert not mask_of(tmp_path, [[[Roi(z_of(5), [(30, 40)])]]] * 4).any()


@pytest.mark.parametrize("shift_mm", [-0.14, -0.005, 0.0, 0.005, 0.14])  # slices are 1.5 mm apart
def test_a_rounded_z_is_that_of_its_slice(tmp_path, shift_mm):
    nodule = [Roi(roi.z_mm + shift_mm, roi.points) for roi in block((4, 6), ROWS, COLS)]
    np.testing.assert_array_equal(mask_of(tmp_path, [[nodule]]), block_mask((4, 6), ROWS, COLS))


def test_z_rounded_to_a_hundredth_of_a_millimeter_in_thin_slices(tmp_path):
    """Slices of 0.4567 mm, the thinnest in LUNA16: 0.005 mm are a hundredth of one."""
    z_mm = [round(ORIGIN_XYZ[2] + 0.4567 * ndx, 2) for ndx in range(SHAPE_IRC[0])]
    nodule = [Roi(z, ring(ROWS, COLS)) for z in z_mm]
    mask = mask_of(tmp_path, [[nodule]], vx_size_xyz=(0.7, 0.7, 0.4567))
    np.testing.assert_array_equal(mask, block_mask((0, 15), ROWS, COLS))


@pytest.mark.parametrize(
    ("positions", "slice_mm"),
    [
        ((5.5, 6.5, 7.5), 1.5),  # half a slice off
        ((4.15, 5.15, 6.15), 1.5),
        ((-0.3, 0.7), 1.5),  # beside the first slice
        ((2.5, 5.0, 7.5, 10.0), 1.0),  # drawn every 2.5 mm
    ],
)
def test_contours_between_slices_are_refused(tmp_path, positions, slice_mm):
    nodule = [Roi(ORIGIN_XYZ[2] + position * slice_mm, ring(ROWS, COLS)) for position in positions]
    with refused(tmp_path / "a.xml"):
        mask_of(tmp_path, [[nodule]], vx_size_xyz=(0.7, 0.7, slice_mm))


def test_the_readers_of_a_real_scan():
    """Compare with masks of the interior of contours of at least two of four readers."""
    folder = SHARED / "real" / "test"
    scans = [path for path in folder.glob("*.nii.gz") if "consensus" not in path.name]
    if not scans:
        pytest.skip(f"no real CT in {folder}")
    name = scans[0].name.removesuffix(".nii.gz")
    mask = Ct(scans[0], [], LidcRule(XmlFile(folder / f"{name}.xml"))).positive_mask
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}_consensus_inside.nii.gz")))
    np.testing.assert_array_equal(mask, expected.astype(bool))


def test_descending_slices(tmp_path):
    nodule = block((4, 6), ROWS, COLS, z=lambda ndx: z_of(ndx, -VX_SIZE_XYZ[2]))
    np.testing.assert_array_equal(mask_of(tmp_path, [[nodule]], direction=UPSIDE_DOWN), block_mask((4, 6), ROWS, COLS))


@pytest.mark.parametrize("name", ["1.2.mhd", "1.2.nrrd"])
def test_a_scan_of_a_patient_lying_the_other_way(tmp_path, name):
    """Direction (-1, -1, 1) gives the voxels' positions; their order is that of the DICOM image."""
    mask = mask_of(tmp_path, [[block((4, 6), ROWS, COLS)]], name=name, direction=FLIPPED)
    np.testing.assert_array_equal(mask, block_mask((4, 6), ROWS, COLS))


@pytest.mark.parametrize("name", ["1.2.nii", "1.2.nii.gz"])
def test_nifti_in_the_order_of_a_converter(tmp_path, name):
    """RAS+ files have the direction of these scans, whatever the DICOM image's."""
    with refused(tmp_path / name, "--labels"):
        mask_of(tmp_path, [[block((4, 6), ROWS, COLS)]], name=name, direction=FLIPPED)


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, -1, 0, 0, 0, 1), (0, 0, 1, 1, 0, 0, 0, 1, 0)])
def test_rows_and_cols_that_are_not_those_of_the_dicom_image(tmp_path, direction):
    with refused(tmp_path / "1.2.mhd", "--labels"):
        mask_of(tmp_path, [[block((4, 6), ROWS, COLS)]], direction=direction)


def test_a_scan_cut_to_a_part(tmp_path, caplog):
    nodule = block((-2, 1), ROWS, COLS)
    np.testing.assert_array_equal(mask_of(tmp_path, [[nodule]]), block_mask((0, 1), ROWS, COLS))
    assert "a.xml: 2 of 4 contours" in caplog.text


@pytest.mark.parametrize(
    "readings",
    [
        [[block((20, 22), ROWS, COLS)]],  # in no slice
        [[block((4, 6), ROWS, (100, 103))]],
        [[block((4, 6), (0, 3), COLS)]],  # its contour is in row -1
        [[[Roi(z_of(4), [])]]],
        [[[Roi("nan", [(1, 1)])]]],
        [[[Roi("", [(1, 1)])]]],
        [[[Roi("up", [(1, 1)])]]],
        [[[Roi(z_of(4), [(1, "1.5")])]]],
        [[[Roi(z_of(4), [(1, 10**30)])]]],
        [[[Roi(z_of(4), [(1, 1)], "maybe")]]],
        [],  # no reader
    ],
)
def test_invalid_contours(tmp_path, readings):
    with refused(tmp_path / "a.xml"):
        mask_of(tmp_path, readings)
