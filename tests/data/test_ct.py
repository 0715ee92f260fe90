import itertools

import numpy as np
import pytest

from p2ch13.config import CROP_WIDTH_IRC
from p2ch13.data.ct import Ct
from p2ch13.labels.candidates import get_nodule_info_list
from p2ch13.volumes.files import find_scans
from tests.support.checks import refused
from tests.support.scan_files import (
    LUNG_HU,
    SHAPE_IRC,
    TISSUE_HU,
    Ball,
    as_nodule,
    ball_mask,
    make_hu,
    to_xyz,
    write_scan,
)

WIDTH_IRC = (7, 48, 48)
CYCLIC = (0, 0, 1, 1, 0, 0, 0, 1, 0)  # a direction matrix that is not symmetric


def make_ct(tmp_path, balls, hu=None, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)):
    path = write_scan(tmp_path / "1.2.mhd", make_hu(balls) if hu is None else hu, direction)
    return Ct(path, [as_nodule("1.2", ball, direction) for ball in balls])


def test_mask_is_box_and_dense(tmp_path):
    """Two bars of tissue: the box ends where its shorter side meets lung, in each direction."""
    hu = np.full(SHAPE_IRC, LUNG_HU, dtype=np.int16)
    hu[5:9, 47:54, 50:57] = TISSUE_HU  # the nodule: index 5..8, row 47..53, col 50..56
    hu[6:8, 50, 57:80] = TISSUE_HU  # a vessel that leaves it to the right
    ball = Ball((7, 50, 52), 3)  # not in the middle
    ct = make_ct(tmp_path, [ball], hu)
    # Index: 7 - 2 and 7 + 2 = 9 is lung, so radius 2, 5..9. Row: 50 +- 4 is lung, 46..54. Col: 52 - 3 is lung, 49..55.
    expected = np.zeros(SHAPE_IRC, dtype=bool)
    expected[5:9, 47:54, 50:56] = True
    np.testing.assert_array_equal(ct.positive_mask, expected)
    assert ct.positive_indexes == [5, 6, 7, 8]


def test_the_threshold(tmp_path):
    hu = np.full(SHAPE_IRC, -650, dtype=np.int16)  # denser than lung, but not than -600
    ball = Ball((8, 50, 52), 5)
    hu[ball_mask(ball)] = TISSUE_HU
    ct = make_ct(tmp_path, [ball], hu)
    np.testing.assert_array_equal(ct.build_annotation_mask(ct.nodules, threshold_hu=-600), ball_mask(ball))
    assert ct.build_annotation_mask(ct.nodules).all()  # at -700 HU the whole scan is one dense block


AT_LOW_EDGES = [(0, 50, 52), (1, 50, 52), (8, 0, 52), (8, 1, 52), (8, 50, 1)]
AT_HIGH_EDGES = [(15, 50, 52), (14, 50, 52), (8, 98, 52), (8, 50, 103)]


@pytest.mark.parametrize("center_irc", AT_LOW_EDGES + AT_HIGH_EDGES)
def test_a_nodule_at_the_border_is_marked_whole(tmp_path, center_irc):
    """The book's code empties the mask near the low edges: a slice from -1 has no voxels."""
    ball = Ball(center_irc, 4)
    ct = make_ct(tmp_path, [ball])
    np.testing.assert_array_equal(ct.positive_mask, ball_mask(ball))
    assert ct.positive_mask.any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_boxes_do_not_wrap_around(tmp_path, axis):
    """In the book's code index -1 is the last voxel, so that tissue there changes a nodule at the first."""
    ball = Ball(tuple(1 if axis == a else c for a, c in enumerate((8, 50, 52))), 4)
    hu = make_hu([ball])
    masks = []
    for far_hu in (LUNG_HU, TISSUE_HU):
        hu[tuple(slice(-3, None) if axis == a else slice(None) for a in range(3))] = far_hu
        masks.append(make_ct(tmp_path, [ball], hu).positive_mask)
    np.testing.assert_array_equal(masks[0], masks[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_mask_of_a_mirrored_scan_is_the_mirrored_mask(tmp_path, axis):
    rng = np.random.default_rng(0)
    hu = rng.choice([LUNG_HU, TISSUE_HU], size=SHAPE_IRC, p=[0.05, 0.95]).astype(np.int16)
    balls = [Ball((2, 3, 4), 3), Ball((8, 50, 52), 3), Ball((14, 90, 99), 3)]
    mirrored = [
        ball._replace(center_irc=tuple(SHAPE_IRC[a] - 1 - c if a == axis else c for a, c in enumerate(ball.center_irc)))
        for ball in balls
    ]
    mask = make_ct(tmp_path, balls, hu).positive_mask
    other = make_ct(tmp_path, mirrored, np.flip(hu, axis)).positive_mask
    np.testing.assert_array_equal(np.flip(other, axis), mask)


def test_a_turned_direction_matrix(tmp_path):
    balls = [Ball((8, 50, 52), 5), Ball((4, 20, 30), 3)]
    ct = make_ct(tmp_path, balls, direction=CYCLIC)
    np.testing.assert_array_equal(ct.as_stored(ct.positive_mask), ball_mask(balls[0]) | ball_mask(balls[1]))


def test_positive_indexes_are_the_slices_of_the_mask(tmp_path):
    ct = make_ct(tmp_path, [Ball((9, 50, 52), 3), Ball((1, 20, 30), 2), Ball((15, 70, 30), 2)])
    assert ct.positive_indexes == ct.positive_mask.any(axis=(1, 2)).nonzero()[0].tolist()
    assert ct.positive_indexes == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]


def test_candidate_in_the_middle(tmp_path):
    ball = Ball((8, 50, 52), 5)
    ct = make_ct(tmp_path, [ball])
    ct_chunk, pos_chunk, center_irc = ct.get_raw_candidate(to_xyz(ball.center_irc), WIDTH_IRC)
    assert center_irc == (8, 50, 52)
    # 7 slices with slice 8 in the middle; 48 rows from 50 - 24 on.
    np.testing.assert_array_equal(ct_chunk, make_hu([ball])[5:12, 26:74, 28:76])
    np.testing.assert_array_equal(pos_chunk, ball_mask(ball)[5:12, 26:74, 28:76])
    assert (ct_chunk.dtype, pos_chunk.dtype) == (np.int16, bool)


# Ends and corners, and a place from which only a window of many slices reaches over an end.
AT_THE_EDGES = [
    *itertools.product((0, 15), (0, 50, 99), (0, 52, 103)),
    *[(1, 8, 8), (8, 50, 8), (8, 95, 52), (13, 50, 52)],
]


@pytest.mark.parametrize("slice_spacing_mm", [0.0, 3.0])
@pytest.mark.parametrize("center_irc", AT_THE_EDGES)
def test_a_crop_repeats_the_edges(tmp_path, center_irc, slice_spacing_mm):
    """Compare voxel by voxel, along slices and in the plane.

    The middle slice is the center's own: in the book round(center - 3.5) rounds to even, one slice off for half of all.
    """
    ball = Ball(center_irc, 4)
    hu = np.random.default_rng(0).integers(-1000, -750, SHAPE_IRC, dtype=np.int16)
    hu[ball_mask(ball)] = TISSUE_HU
    ct = make_ct(tmp_path, [ball], hu)
    ct_chunk, pos_chunk, center = ct.get_raw_candidate(to_xyz(center_irc), WIDTH_IRC, slice_spacing_mm)
    assert center == center_irc
    assert ct_chunk.shape == pos_chunk.shape == WIDTH_IRC
    rows = np.clip(np.arange(center_irc[1] - 24, center_irc[1] + 24), 0, 99)
    cols = np.clip(np.arange(center_irc[2] - 24, center_irc[2] + 24), 0, 103)
    expected = ct.get_slice(center_irc[0], 3, slice_spacing_mm)
    np.testing.assert_array_equal(ct_chunk, expected[:, rows][:, :, cols])
    np.testing.assert_array_equal(ct_chunk[3], hu[center_irc[0]][rows][:, cols])
    np.testing.assert_array_equal(pos_chunk[3], ct.get_slice_mask(center_irc[0])[rows][:, cols])
    assert pos_chunk[3, 24, 24]


def test_every_sample_of_a_nodule_at_the_side_holds_its_center(tmp_path):
    """Training cuts 64x64 windows anywhere from 96x96: rows and cols 32 to 63 are in each of them."""
    ball = Ball((0, 50, 8), 3)
    _, pos_chunk, _ = make_ct(tmp_path, [ball]).get_raw_candidate(to_xyz(ball.center_irc), CROP_WIDTH_IRC)
    middle = pos_chunk[3]
    assert middle[32:64, 32:64].sum() == ball_mask(ball)[0].sum() == 29  # of a circle of radius 3
    assert middle.sum() == 29


def test_a_scan_smaller_than_the_window(tmp_path):
    hu = np.arange(2 * 30 * 60, dtype=np.int16).reshape(2, 30, 60) % 1801 - 900  # nowhere clipped
    ct = make_ct(tmp_path, [], hu)
    ct_chunk, pos_chunk, _ = ct.get_raw_candidate(to_xyz((1, 10, 52)), WIDTH_IRC)
    assert ct_chunk.shape == pos_chunk.shape == WIDTH_IRC
    assert [hu[:, 10, 52].tolist().index(value) for value in ct_chunk[:, 24, 24]] == [0, 0, 0, 1, 1, 1, 1]
    # Col 52 is at 24, so that the scan's last col, 59, is at 31 and repeated from there on; row 0 is at 24 - 10.
    np.testing.assert_array_equal(ct_chunk[3, 14:44, :32], hu[1, :, 28:])
    np.testing.assert_array_equal(ct_chunk[3, 14:44, 32:], np.repeat(hu[1, :, 59:], 16, axis=1))
    np.testing.assert_array_equal(ct_chunk[3, 0, :32], hu[1, 0, 28:])  # repeated above
    np.testing.assert_array_equal(ct_chunk[3, 47, :32], hu[1, 29, 28:])  # and below


@pytest.mark.parametrize("center_irc", [(16, 50, 52), (-1, 50, 52), (8, 100, 52), (8, 50, -3)])
def test_a_center_outside_the_scan_is_refused(tmp_path, center_irc):
    ct = make_ct(tmp_path, [])
    with refused(path=tmp_path / "1.2.mhd"):
        ct.get_raw_candidate(to_xyz(center_irc), WIDTH_IRC)
    with refused(path=tmp_path / "1.2.mhd"):
        ct.build_annotation_mask([as_nodule("1.2", Ball(center_irc, 3))])


def test_slices_are_repeated_at_both_ends_and_clipped(tmp_path):
    hu = np.full(SHAPE_IRC, -3024, dtype=np.int16)  # outside the scanner's field of view
    hu[:, 0, 0] = np.arange(16)
    hu[:, 0, 1] = 3000  # metal
    ct = make_ct(tmp_path, [], hu)
    assert ct.get_slice(0, 3)[:, 0, 0].tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert ct.get_slice(8, 3)[:, 0, 0].tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert ct.get_slice(15, 2)[:, 0, 0].tolist() == [13, 14, 15, 15, 15]
    assert ct.get_slice(8, 3)[3, 0, 1:3].tolist() == [1000, -1000]


def test_slice_masks_make_up_the_mask(tmp_path):
    ct = make_ct(tmp_path, [Ball((8, 50, 52), 5), Ball((7, 53, 56), 3), Ball((1, 20, 30), 3)])
    np.testing.assert_array_equal(np.stack([ct.get_slice_mask(ndx) for ndx in range(16)]), ct.positive_mask)


def test_real_ct(luna_sample):
    for series_uid, path in find_scans(luna_sample).items():
        ct = Ct(path, [n for n in get_nodule_info_list(luna_sample) if n.series_uid == series_uid])
        mask = ct.positive_mask
        assert ct.positive_indexes == mask.any(axis=(1, 2)).nonzero()[0].tolist()
        for nodule in ct.nodules:
            assert mask[ct.locate(nodule.center_xyz)]
            # As large as a ball of the annotated diameter, within the rough rule's reach.
            window = ct.get_raw_candidate(nodule.center_xyz, (7, 96, 96))[1]
            ball_voxels = np.pi / 6 * nodule.diameter_mm**3 / np.prod(ct.vx_size_xyz)
            assert 0.3 < window.sum() / ball_voxels < 6


def test_slice_spacing(tmp_path):
    """Slices of 1.5 mm with their index above lung as HU: every second one is nearest to 2.5 to 3.5 mm."""
    hu = make_hu([])
    hu += np.arange(16, dtype=np.int16)[:, None, None]
    ct = make_ct(tmp_path, [], hu)
    for slice_ndx, spacing_mm, expected in (
        (8, 0, [5, 6, 7, 8, 9, 10, 11]),
        (8, 1, [5, 6, 7, 8, 9, 10, 11]),
        (8, 3, [2, 4, 6, 8, 10, 12, 14]),
        (13, 3, [7, 9, 11, 13, 15, 15, 15]),  # near the scan's end the last slice is repeated
    ):
        assert (ct.get_slice(slice_ndx, 3, spacing_mm)[:, 0, 0] - LUNG_HU).tolist() == expected
        ct_chunk, _, center_irc = ct.get_raw_candidate(to_xyz((slice_ndx, 50, 52)), WIDTH_IRC, spacing_mm)
        assert (ct_chunk[:, 0, 0] - LUNG_HU).tolist() == expected
        assert center_irc.index == slice_ndx


def test_the_mask_has_the_slice_spacing_of_the_crop(tmp_path):
    ball = Ball((8, 50, 52), 5)
    _, pos_chunk, _ = make_ct(tmp_path, [ball]).get_raw_candidate(to_xyz(ball.center_irc), WIDTH_IRC, 3)
    np.testing.assert_array_equal(pos_chunk, ball_mask(ball)[2:15:2, 26:74, 28:76])  # slices 2, 4, ... 14
