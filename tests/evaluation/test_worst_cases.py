import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as PillowImage

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.evaluation.scoring import NoduleScore, score_scan
from p2ch13.evaluation.worst_cases import CASE_COUNT, WorstCases, describe, draw_cross, find_voxel, severity_of
from tests.support.scan_files import Ball, as_nodule, make_hu, to_xyz, write_scan

SHAPE = (10, 40, 44)
BALL = Ball((5, 12, 12), 4)


@pytest.fixture
def ct(tmp_path):
    return Ct(write_scan(tmp_path / "1.2.mhd", make_hu([BALL], SHAPE)), [as_nodule("1.2", BALL)])


def false_positive(center_xyz, probability, logit=math.nan):
    return Finding("1.2", 1, center_xyz, logit, probability, math.nan, math.nan, -1, -1)


def test_the_largest_miss_is_the_worst():
    def nodule(diameter_mm, probability, dice):
        return NoduleScore("1.2", (0, 0, 0), diameter_mm, probability, dice=dice)

    good, bad, unknown = nodule(9, 0.9, 0.8), nodule(9, 0.9, 0.3), nodule(9, 0.9, math.nan)
    small_miss, large_miss = nodule(4, math.nan, 0.0), nodule(20, math.nan, 0.4)
    order = sorted([good, small_miss, unknown, large_miss, bad], key=severity_of, reverse=True)
    assert order == [large_miss, small_miss, bad, good, unknown]


def test_the_most_probable_false_positives_are_kept(ct, tmp_path):
    findings = [false_positive(to_xyz((0, 30, 30)), probability / 10) for probability in range(9)]
    worst = WorstCases()
    for finding in findings:
        worst.add(ct, None, score_scan(ct, None, [finding]))
    assert [case.severity[0] for case in worst.false_positives] == [0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    assert len(worst.false_positives) == len(worst.nodules) == CASE_COUNT


def test_certain_false_positives_are_ranked_by_their_logits(ct):
    worst = WorstCases()
    for logit in (30.0, 50.0, 40.0):
        worst.add(ct, None, score_scan(ct, None, [false_positive(to_xyz((0, 30, 30)), 1.0, logit)]))
    assert [case.severity[0] for case in worst.false_positives] == [50, 40, 30]
    text = describe(false_positive((0, 0, 0), 1.0, 50.0))
    assert "probability 1.00" in text
    assert "logit 50.0" in text
    nodule = NoduleScore("1.2", (0, 0, 0), 9, probability=1.0, logit=12.25)
    assert "probability 1.00, logit 12.2" in describe(nodule)
    assert "logit" not in describe(false_positive((0, 0, 0), 0.75))


def test_figures_show_the_finding(ct, tmp_path):
    # The left half of the ball is marked, cols below 12: green left, pink right.
    labels = (ct.positive_mask & (np.arange(SHAPE[2]) < 12)).astype(np.int32)
    worst = WorstCases()
    worst.add(ct, labels, score_scan(ct, labels, []))
    worst.write(tmp_path)
    picture = np.asarray(PillowImage.open(tmp_path / "worst_nodules.png"))
    height = len(picture) - 512
    assert height > 40  # a caption of two lines
    assert picture.shape[1:] == (3 * 512, 3)
    assert picture[:height].max() == 255  # the caption
    # 0 HU is gray 230, blended with green or pink; each pixel is enlarged to 4 x 4, the center is at 256.
    middle = height + 256
    assert picture[middle, 512 + 256].tolist() == [230, 230, 230]
    assert picture[middle, 1024 + 255].tolist() == [115, 215, 155]
    assert picture[middle, 1024 + 256].tolist() == [242, 160, 225]
    assert not (tmp_path / "worst_false_alarms.png").exists()


def test_a_point_outside_is_moved_to_the_edge(ct):
    assert find_voxel(ct, to_xyz((5, 12, 12))) == (5, 12, 12)
    assert find_voxel(ct, to_xyz((99, -5, 12))) == (9, 0, 12)


def test_what_is_below_the_threshold_is_missed_or_not_shown(ct):
    """Nodules and false positives at 0.9 and 0.3."""
    near = Ball((5, 12, 13), 1)
    findings = [false_positive(to_xyz(near.center_irc), 0.3), false_positive(to_xyz((0, 30, 30)), 0.9)]
    findings.append(false_positive(to_xyz((0, 30, 10)), 0.4))
    for threshold, is_missed, shown in ((0.5, True, [0.9]), (0.35, True, [0.9, 0.4]), (0.3, False, [0.9, 0.4])):
        worst = WorstCases()
        worst.add(ct, None, replace(score_scan(ct, None, findings), threshold=threshold))
        assert ("missed: probability 0.30 is below" in worst.nodules[0].text) == is_missed
        assert [case.severity[0] for case in worst.false_positives] == shown
    assert severity_of(NoduleScore("1.2", (0, 0, 0), 9, 0.3), 0.5) > severity_of(NoduleScore("1.2", (0, 0, 0), 4), 0.5)


def test_a_case_says_where_it_is(ct):
    worst = WorstCases()
    worst.add(ct, None, score_scan(ct, None, []))
    x, y, z = to_xyz(BALL.center_irc)
    assert (
        worst.nodules[0].place == f"slice 5 of 0 to 9, center {x:.1f}, {y:.1f}, {z:.1f} mm (LPS), 90 x 90 mm enlarged"
    )


def test_a_cross_leaves_its_pixel_free():
    cross = draw_cross((20, 30), 10, 2)
    rows, cols = np.nonzero(cross)
    # Arms from 6 to 14 pixels away, as far as they are in the picture: 5 up, 4 down, 9 to the right.
    assert set(zip(rows.tolist(), cols.tolist(), strict=True)) == {
        *((row, 2) for row in (0, 1, 2, 3, 4, 16, 17, 18, 19)), *((10, col) for col in range(8, 17))
    }  # fmt: skip
