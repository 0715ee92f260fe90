import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from p2ch13.config import LabelOptions, TrainingConfig
from p2ch13.data.ct import Ct
from p2ch13.labels.box import BoxRule
from p2ch13.labels.lidc_xml import XmlFile
from p2ch13.labels.refined import RefinedRule, make_cross
from p2ch13.labels.rules import Labels, LidcRule
from tests.support.checks import refused
from tests.support.lidc_files import Roi, block, block_mask, write_readings, z_of
from tests.support.scan_files import (
    LUNG_HU,
    SHAPE_IRC,
    TISSUE_HU,
    VX_SIZE_XYZ,
    Ball,
    as_nodule,
    ball_mask,
    make_hu,
    to_xyz,
    write_scan,
)

BALL = Ball((8, 50, 52), 5)


def make_ct(tmp_path, hu, balls, rule, diameter_mm=None):
    nodules = [as_nodule("1.2", ball)._replace(diameter_mm=diameter_mm or longest_mm(ball)) for ball in balls]
    return Ct(write_scan(tmp_path / "1.2.mhd", hu), nodules, rule)


def longest_mm(ball):
    """From its first slice to its last: slices are twice as far apart as pixels."""
    return (2 * ball.radius + 1) * VX_SIZE_XYZ[2]


def assert_is_coherent(ct):
    """Check that mask, slices and crops agree."""
    mask = ct.positive_mask
    assert ct.positive_indexes == mask.any(axis=(1, 2)).nonzero()[0].tolist()
    np.testing.assert_array_equal(np.stack([ct.get_slice_mask(ndx) for ndx in range(SHAPE_IRC[0])]), mask)
    middle_irc = [size // 2 for size in SHAPE_IRC]
    _, pos_chunk, _ = ct.get_raw_candidate(to_xyz(middle_irc), SHAPE_IRC)  # the whole scan
    np.testing.assert_array_equal(pos_chunk, mask)


def test_threshold_of_each_rule(tmp_path):
    """A ball of 7 mm with a shell of -650 HU: denser than lung for -700, not for -600."""
    hu = make_hu([])
    whole, inner = distance_from((8, 50, 52)) <= 3.5, distance_from((8, 50, 52)) <= 3
    hu[whole] = -650
    hu[inner] = TISSUE_HU
    path = write_scan(tmp_path / "1.2.mhd", hu)
    for rule, expected in zip(
        [BoxRule(), BoxRule(-600), RefinedRule(), RefinedRule(-700)], [whole, inner, inner, whole], strict=True
    ):
        ct = Ct(path, [as_nodule("1.2", BALL)], rule)
        np.testing.assert_array_equal(ct.positive_mask, expected)
        assert_is_coherent(ct)
        # A threshold that is named means the book's rule.
        np.testing.assert_array_equal(ct.build_annotation_mask(ct.nodules, threshold_hu=-600), inner)


@pytest.mark.parametrize("radius", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("index", [0, 7, 15])
def test_refined_keeps_a_ball_as_it_is(tmp_path, radius, index):
    """At the scan's ends as well, where half of the ball is cut off."""
    ball = Ball((index, 50, 52), radius)
    mask = make_ct(tmp_path, make_hu([ball]), [ball], RefinedRule()).positive_mask
    np.testing.assert_array_equal(mask, ball_mask(ball))


def test_refined_excludes_attached_vessels(tmp_path):
    hu = make_hu([BALL])
    hu[8:10, 50:52, 52:72] = TISSUE_HU  # 2 voxels thick, along the cols; the ball ends at col 57
    hu[8:10, 50:52, 32:52] = TISSUE_HU
    ct = make_ct(tmp_path, hu, [BALL], RefinedRule())
    expected = ball_mask(BALL)
    # The ball ends at col 57 in slice 8, row 50, and at col 56 in the other three. All that a cross about one of its
    # voxels covers is kept, col 57 of the vessel too, and one more is put back as if it were of the surface.
    expected[8:10, 50:52, 46:59] = True
    np.testing.assert_array_equal(ct.positive_mask, expected)
    assert_is_coherent(ct)
    book = make_ct(tmp_path, hu, [BALL], BoxRule()).positive_mask
    assert book[8, 50, 32:72].all()


def test_refined_excludes_components_without_the_center(tmp_path):
    """A nodule's box contains a part of its neighbor, which has an annotation of its own."""
    balls = [BALL, Ball((8, 57, 59), 3)]
    hu = make_hu(balls)
    assert not (ball_mask(balls[0]) & ball_mask(balls[1])).any()
    ct = make_ct(tmp_path, hu, balls, RefinedRule())
    for nodule, ball in zip(ct.nodules, balls, strict=True):
        np.testing.assert_array_equal(ct.build_annotation_mask([nodule]), ball_mask(ball))
    assert_is_coherent(ct)
    book = make_ct(tmp_path, hu, balls[:1], BoxRule()).positive_mask
    assert (book & ball_mask(balls[1])).any()


def test_refined_keeps_what_an_opening_would_remove(tmp_path):
    hu = make_hu([])
    hu[8, 49:52, 51:54] = TISSUE_HU  # a nodule in a single slice
    hu[7:10, 53:58, 40:60] = TISSUE_HU  # and a wall two rows from it, which is all that the opening leaves
    ct = make_ct(tmp_path, hu, [BALL], RefinedRule())
    np.testing.assert_array_equal(ct.positive_mask, block_mask((8, 8), (49, 51), (51, 53)))


def test_refined_keeps_a_small_nodule_at_a_wall(tmp_path):
    """All that the opening leaves is the wall, and the voxel before it: 2 rows from the center."""
    hu = make_hu([])
    hu[8, 47:53, 52] = TISSUE_HU
    hu[7:10, 53:58, 47:58] = TISSUE_HU
    ct = make_ct(tmp_path, hu, [BALL], RefinedRule())
    # All of it lies within 8.25 + 1.5 mm: row 57 in slice 9 and col 57 at sqrt(4.9**2 + 3.5**2 + 1.5**2) = 6.2 mm.
    expected = block_mask((8, 8), (47, 52), (52, 52)) | block_mask((7, 9), (53, 57), (47, 57))
    np.testing.assert_array_equal(ct.positive_mask, expected)


def test_refined_reaches_no_further_than_the_nodule_can(tmp_path):
    """A nodule of 4.2 mm in a fissure three rows thick, along which the book's box goes on to the scan's border."""
    hu = make_hu([Ball((8, 50, 52), 3)])
    hu[:, 50:53] = TISSUE_HU
    box, refined = mark_small_nodule(tmp_path, hu)
    assert box[8].any(axis=0).all()
    rows, cols = refined[8].any(axis=1).nonzero()[0], refined[8].any(axis=0).nonzero()[0]
    # 4.2 / 2 + 1.5 = 3.6 mm are 5 pixels of 0.7 mm.
    assert (rows.min(), rows.max()) == (47, 53)
    assert (cols.min(), cols.max()) == (47, 57)


def test_refined_excludes_a_wall_behind_the_nodule(tmp_path):
    """The same, half of it in a wall of 30 rows: what bulges out of it is nodule, but for its seam with the wall."""
    ball = ball_mask(Ball((8, 50, 52), 3))
    hu = make_hu([Ball((8, 50, 52), 3)])
    hu[:, 50:80] = TISSUE_HU
    _, refined = mark_small_nodule(tmp_path, hu)
    bulge, seam = np.zeros_like(ball), np.zeros_like(ball)
    bulge[:, :49], seam[:, 49] = ball[:, :49], ball[:, 49]
    np.testing.assert_array_equal(refined & ~seam, bulge)


def mark_small_nodule(tmp_path, hu):
    """Masks by the book's rule and the refined one."""
    ball = Ball((8, 50, 52), 3)
    return [make_ct(tmp_path, hu, [ball], rule, ball.diameter_mm).positive_mask for rule in (BoxRule(), RefinedRule())]


@pytest.mark.parametrize(
    ("lung_hu", "nodule_hu"),
    [(-900, -650), (-680, -640), (-680, -680), (-680, 0)],  # the book's border lies at -700 HU
)
@pytest.mark.parametrize("center_irc", [(8, 50, 52), (0, 50, 2)])
def test_refined_marks_a_faint_nodule_and_never_leaves_its_ball(tmp_path, lung_hu, nodule_hu, center_irc):
    """A nodule of 6 mm, round in mm. With lung at -680 HU, everything is connected above -700 HU."""
    hu = np.full(SHAPE_IRC, lung_hu, dtype=np.int16)
    away_mm = distance_from(center_irc)
    hu[away_mm <= 3] = nodule_hu
    mask = make_ct(tmp_path, hu, [Ball(center_irc, 3)], RefinedRule(), 6.0).positive_mask
    assert not mask[away_mm > 3 + 1.5].any()
    np.testing.assert_array_equal(mask, (away_mm <= 3) & (nodule_hu > lung_hu))


def test_refined_marks_ground_glass_around_a_denser_core_in_noise(tmp_path):
    """12 mm at -640 HU, with one voxel in twenty above -600, around a core of 2 mm."""
    rng = np.random.default_rng(0)
    away_mm = distance_from((8, 50, 52))
    is_nodule = away_mm <= 6
    hu = np.where(is_nodule, -640, -860) + rng.normal(0, 25, SHAPE_IRC)
    hu[away_mm <= 1] = -300
    mask = make_ct(tmp_path, hu.round().astype(np.int16), [BALL], RefinedRule(), 12.0).positive_mask
    np.testing.assert_array_equal(mask, is_nodule)  # -750 HU is 4 standard deviations from both


def test_refined_marks_a_hollow_nodule(tmp_path):
    """The book's box ends in the cavity, which has the HU of lung; the wall around it is marked, and nothing beyond."""
    hu = make_hu([])
    away_mm = distance_from((8, 50, 52))
    wall = (away_mm <= 8) & (away_mm > 3.5)
    hu[wall] = TISSUE_HU
    mask = make_ct(tmp_path, hu, [BALL], RefinedRule(), 16.0).positive_mask
    np.testing.assert_array_equal(mask, wall)


def distance_from(center_irc):
    """Distance of each voxel in mm."""
    index, row, col = (
        (axis - center) * size
        for axis, center, size in zip(np.ogrid[:16, :100, :104], center_irc, VX_SIZE_XYZ[::-1], strict=True)
    )
    return np.sqrt(index**2 + row**2 + col**2)


def test_refined_where_there_is_nothing(tmp_path):
    assert not make_ct(tmp_path, make_hu([]), [BALL], RefinedRule()).positive_mask.any()


def test_nothing_is_too_thin_along_thick_slices():
    assert make_cross(np.array([2.5, 0.7, 0.7])).shape == (1, 3, 3)
    assert make_cross(np.array([1.25, 0.7, 0.7])).shape == (3, 3, 3)


# Readers


BLOCKS = ((7, 9), (46, 55), (48, 57)), ((3, 4), (20, 25), (30, 35)), ((12, 13), (80, 84), (80, 84))
BLOCK_MASKS = [block_mask(*ends) for ends in BLOCKS]


def lidc_ct(tmp_path, balls):
    """Two of three readers marked three blocks; the third one has no annotation in the CSV file."""
    nodules = [block(*ends) for ends in BLOCKS]
    xml_path = write_readings(tmp_path / "a.xml", "1.2", [nodules, nodules, []])
    path = write_scan(tmp_path / "1.2.mhd", make_hu([]))
    return Ct(path, [as_nodule("1.2", ball) for ball in balls], LidcRule(XmlFile(xml_path)))


def test_the_mask_of_a_scan_is_the_consensus(tmp_path):
    ct = lidc_ct(tmp_path, [BALL])
    np.testing.assert_array_equal(ct.positive_mask, sum(BLOCK_MASKS))
    assert ct.positive_indexes == [3, 4, 7, 8, 9, 12, 13]
    assert_is_coherent(ct)


def test_the_mask_of_a_nodule_is_the_component_at_its_center(tmp_path):
    balls = [BALL, Ball((4, 22, 28), 3), Ball((8, 50, 70), 5), Ball((12, 86, 82), 3)]
    ct = lidc_ct(tmp_path, balls)
    first, beside, far, near = ct.nodules
    # The second is 2 cols of 0.7 mm from the block, within a radius of 2.1 mm.
    for nodule, expected in zip([first, beside, near], BLOCK_MASKS, strict=True):
        np.testing.assert_array_equal(ct.build_annotation_mask([nodule]), expected)
    # 13 cols, 9.1 mm, with a radius of 3.5 mm and a voxel of 1.5 mm.
    assert not ct.build_annotation_mask([far]).any()
    np.testing.assert_array_equal(ct.build_annotation_mask(ct.nodules), ct.positive_mask)
    with refused(tmp_path / "1.2.mhd"):
        ct.build_annotation_mask([as_nodule("1.2", Ball((99, 5, 5), 3))])


def test_a_nodule_without_consensus_is_marked_by_the_refined_rule(tmp_path):
    """Two of four readers marked a pixel each, not the same one; the other nodule is as they drew it."""
    balls = [BALL, Ball((3, 22, 32), 3)]
    drawn = block((3, 4), (20, 25), (30, 35))
    readings = [[drawn, block((8, 8), (50, 50), (col, col))] for col in (51, 52)]
    xml_path = write_readings(tmp_path / "a.xml", "1.2", [*readings, [drawn], []])
    path = write_scan(tmp_path / "1.2.mhd", make_hu(balls))
    nodules = [as_nodule("1.2", BALL)._replace(diameter_mm=longest_mm(BALL)), as_nodule("1.2", balls[1])]
    ct = Ct(path, nodules, LidcRule(XmlFile(xml_path)))
    refined = Ct(path, nodules, RefinedRule())
    for nodule, expected in zip(nodules, [ball_mask(BALL), block_mask((3, 4), (20, 25), (30, 35))], strict=True):
        np.testing.assert_array_equal(ct.build_annotation_mask([nodule]), expected)
    np.testing.assert_array_equal(refined.build_annotation_mask(nodules[:1]), ball_mask(BALL))
    np.testing.assert_array_equal(ct.build_annotation_mask(nodules), ct.positive_mask)
    assert_is_coherent(ct)


def test_contours_of_single_readers_are_seen(tmp_path):
    """Including contours and the points of nodules under 3 mm, which the mask excludes."""
    readings = [[block((4, 5), (30, 33), (40, 45))], [[Roi(z_of(9), [(70, 20)])]], []]
    ct = make_ct(tmp_path, make_hu([]), [], LidcRule(XmlFile(write_readings(tmp_path / "a.xml", "1.2", readings))))
    seen = np.zeros(SHAPE_IRC, dtype=bool)
    for part in ct.rule.mark_seen(ct):
        seen[part.box] |= part.mark(part.box)
    np.testing.assert_array_equal(seen, block_mask((4, 5), (29, 34), (39, 46)) | block_mask((9, 9), (70, 70), (20, 20)))
    assert not ct.positive_mask.any()


# Rules of scans


def test_rules_of_the_options(tmp_path):
    write_readings(tmp_path / "a.xml", "1.2", [[]])
    assert Labels(LabelOptions(), ["1.1"]).rule_of("1.1") == BoxRule(-700)
    assert Labels(LabelOptions(threshold_hu=-500), ["1.1"]).rule_of("1.1") == BoxRule(-500)
    assert Labels(LabelOptions("refined"), ["1.1"]).rule_of("1.1") == RefinedRule(-600)
    assert Labels(LabelOptions("refined", -500), ["1.1"]).rule_of("1.1") == RefinedRule(-500)
    labels = Labels(LabelOptions("lidc", -500, tmp_path), ["1.1", "1.2"])
    assert labels.rule_of("1.2") == LidcRule(XmlFile(tmp_path / "a.xml"))
    assert labels.rule_of("1.1") == BoxRule(-500)
    assert labels.series_list == ["1.1", "1.2"]
    assert labels.notes == ["Labels: readers' contours of 1 of 2 scans; the others are marked with the box."]
    assert Labels(LabelOptions("lidc", lidc_xml=tmp_path), ["1.2"]).notes == [
        "Labels: readers' contours of 1 of 1 scans."
    ]


def test_scans_without_xml_are_skipped_on_request(tmp_path):
    write_readings(tmp_path / "a.xml", "1.2", [[]])
    labels = Labels(LabelOptions("lidc", lidc_xml=tmp_path, missing_xml="leave-out"), ["1.1", "1.2", "1.3"])
    assert labels.series_list == ["1.2"]
    assert labels.notes == ["Labels: readers' contours of 1 of 3 scans; the others are left out."]
    with refused(tmp_path, "--lidc-xml"):
        Labels(LabelOptions("lidc", lidc_xml=tmp_path, missing_xml="leave-out"), ["1.1"])


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"labels": "box", "lidc_xml": Path("x")}, "--lidc-xml"),
        ({"labels": "oval"}, "--labels"),
        ({"missing_xml": "guess"}, "--missing-xml"),
    ],
)
def test_options_without_sense(options, option):
    with refused(option=option):
        LabelOptions(**options)


def test_options_of_a_training_run():
    assert TrainingConfig().label_options == LabelOptions()
    config = TrainingConfig(labels="lidc", threshold_hu=-500, lidc_xml=Path("x"), missing_xml="leave-out")
    assert config.label_options == LabelOptions("lidc", -500, Path("x"), "leave-out")


def test_a_scan_is_released_at_once(tmp_path):
    """Its regions must not refer to it: the memory map of its file would stay open."""
    ct = make_ct(tmp_path, make_hu([BALL]), [BALL], BoxRule())
    assert ct.positive_indexes
    gone = weakref.ref(ct)
    gc.disable()
    try:
        del ct
        assert gone() is None
    finally:
        gc.enable()


def test_a_scan_without_nodules_is_not_read(tmp_path):
    ct = make_ct(tmp_path, np.full(SHAPE_IRC, LUNG_HU, dtype=np.int16), [], BoxRule())
    assert ct.positive_indexes == []
    assert "hu" not in ct.__dict__
