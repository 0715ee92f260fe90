import json
import math

import numpy as np
import pytest

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding, find_nodules
from p2ch13.evaluation.scoring import score_findings, score_scan
from p2ch13.evaluation.summary import summarize
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.lidc_database import list_series
from p2ch13.labels.lidc_xml import XmlFile
from p2ch13.labels.rules import LidcRule
from p2ch13.util.logits import to_probability
from tests.support.lidc_files import block, write_database, write_readings
from tests.support.scan_files import VX_SIZE_XYZ, Ball, as_nodule, ball_mask, make_hu, to_xyz, write_scan

SHAPE = (10, 40, 44)
LARGE, SMALL = Ball((5, 12, 12), 4), Ball((4, 30, 30), 3)


@pytest.fixture
def ct(tmp_path):
    """Open a scan whose label masks are exactly its balls: lung around them ends every box."""
    path = write_scan(tmp_path / "1.2.mhd", make_hu([LARGE, SMALL], SHAPE))
    return Ct(path, [as_nodule("1.2", LARGE), as_nodule("1.2", SMALL)])


def marks(*boxes):
    """Label boxes (index, rows, cols) 1, 2, ..."""
    labels = np.zeros(SHAPE, dtype=np.int32)
    for number, box in enumerate(boxes, 1):
        labels[box] = number
    return labels


def finding(center_irc, probability=1.0, logit=math.nan):
    """Return a finding of 5 mm, 65 mm3, in one slice."""
    return Finding("1.2", 1, to_xyz(center_irc), logit, probability, 5.0, 65.0, center_irc[0], center_irc[0])


def test_the_label_mask_scores_1(ct):
    logits = np.where(ct.positive_mask, 20, -20).astype(np.float32)
    scores = score_scan(ct, *find_nodules(ct, logits, threshold=0.5, min_diameter_mm=0.0))
    assert (scores.voxels.tp, scores.voxels.fn, scores.voxels.fp) == (int(ct.positive_mask.sum()), 0, 0)
    assert [(nodule.recall, nodule.dice) for nodule in scores.nodules] == [(1, 1), (1, 1)]
    assert [nodule.is_found for nodule in scores.nodules] == [True, True]
    assert [(nodule.probability, nodule.logit) for nodule in scores.nodules] == [(to_probability(20), 20)] * 2
    assert scores.false_positives == []
    values = summarize([scores]).as_dict()
    assert (values["froc"]["cpm"], values["nodules"]["recall"], values["nodules"]["mean_dice"]) == (1, 1, 1)


def test_voxels_by_hand(ct):
    # Two voxels of the large ball, three of lung.
    scores = score_scan(ct, marks(np.s_[5, 12, 12:14], np.s_[0, 0, 0:3]), [])
    label_count = int((ball_mask(LARGE, SHAPE) | ball_mask(SMALL, SHAPE)).sum())
    assert (scores.voxels.tp, scores.voxels.fn, scores.voxels.fp) == (2, label_count - 2, 3)
    assert scores.voxels.scores.precision == pytest.approx(2 / 5)
    assert scores.voxels.scores.recall == pytest.approx(2 / label_count)
    assert scores.voxels.scores.f1 == pytest.approx(2 * 2 / (5 + label_count))
    assert summarize([scores]).as_dict()["voxels"]["false_positives_per_slice"] == pytest.approx(3 / 10)


def test_the_dice_of_a_nodule_counts_overlapping_findings_whole(ct):
    # Label 1 has 4 voxels of the large ball and 6 outside, label 2 has 1 of it and 1 outside; 3 overlaps none.
    size = int(ball_mask(LARGE, SHAPE).sum())
    labels = marks(np.s_[5, 12, 13:23], np.s_[5, 16:18, 12], np.s_[0, 0, 0:7])
    large, small = score_scan(ct, labels, []).nodules
    assert large.recall == pytest.approx(5 / size)
    assert large.dice == pytest.approx(2 * 5 / (size + 10 + 2))
    assert not large.is_found
    assert (small.recall, small.dice) == (0, 0)


# Slices 4 and 5; the three readers' rows begin at 10, 12 and 14: 2 x 10, 8 and 6 rows x 5 cols. A fourth drew nothing
# here. The consensus are rows 12 to 19.
OUTLINES = [[block((4, 5), (first, 19), (20, 24))] for first in (10, 12, 14)]
ELSEWHERE = block((1, 1), (30, 32), (30, 32))


def read_by(tmp_path, readings, make_source):
    path = write_scan(tmp_path / "1.2.mhd", make_hu([], SHAPE))
    return Ct(path, [as_nodule("1.2", Ball((4, 15, 22), 4))], LidcRule(make_source(tmp_path, readings)))


def from_xml(tmp_path, readings):
    return XmlFile(write_readings(tmp_path / "a.xml", "1.2", readings))


def from_database(tmp_path, readings):
    return list_series(write_database(tmp_path / "a.sqlite", {"1.2": readings}))["1.2"]


@pytest.mark.parametrize("make_source", [from_xml, from_database])
def test_readers_among_themselves_by_hand(tmp_path, make_source):
    ct = read_by(tmp_path, [*OUTLINES, [ELSEWHERE]], make_source)
    # Label 1: rows 12 to 15 of both slices, 40 voxels. Label 2: two voxels of the first reader's, two outside.
    labels = marks(np.s_[4:6, 12:16, 20:25], np.s_[2:6, 10, 20])
    scores = score_scan(ct, labels, [])
    (nodule,) = scores.nodules
    assert nodule.reader_count == 3
    # Of 100 and 80 voxels 80 are common, of 100 and 60 60, of 80 and 60 60.
    between = (2 * 80 / 180 + 2 * 60 / 160 + 2 * 60 / 140) / 3
    assert nodule.inter_reader_dice == pytest.approx(between)
    with_readers = (2 * (40 + 2) / (100 + 40 + 4) + 2 * 40 / (80 + 40) + 2 * 20 / (60 + 40)) / 3
    assert nodule.dice_with_readers == pytest.approx(with_readers)
    assert nodule.dice == pytest.approx(2 * 40 / (80 + 40))
    values = summarize([scores]).as_dict()["nodules"]
    assert values["outlined"] == 1
    assert values["mean_inter_reader_dice"] == pytest.approx(between)
    assert values["mean_dice_with_readers"] == pytest.approx(with_readers)


def test_a_nodule_that_one_reader_outlined_has_no_inter_reader_dice(tmp_path):
    ct = read_by(tmp_path, OUTLINES[:1], from_xml)
    scores = score_scan(ct, marks(np.s_[4:6, 10:20, 20:25]), [])
    (nodule,) = scores.nodules
    assert (nodule.reader_count, nodule.dice) == (1, 1)
    assert math.isnan(nodule.inter_reader_dice)
    assert math.isnan(nodule.dice_with_readers)
    assert summarize([scores]).as_dict()["nodules"]["outlined"] == 0


def test_a_reader_who_outlined_two_parts_of_a_nodule(tmp_path):
    """One reader split what the others outlined as one; the database does not say that both parts are the same's."""
    split = [block((4, 5), (10, 14), (20, 24)), block((4, 5), (15, 19), (20, 24))]
    readings = [OUTLINES[0], split, [], []]
    labels = marks(np.s_[0, 0, 0])
    (nodule,) = score_scan(read_by(tmp_path, readings, from_xml), labels, []).nodules
    assert (nodule.reader_count, nodule.inter_reader_dice) == (2, 1)
    (nodule,) = score_scan(read_by(tmp_path, readings, from_database), labels, []).nodules
    assert nodule.reader_count == 3
    assert nodule.inter_reader_dice == pytest.approx((2 * 50 / 150 + 2 * 50 / 150 + 0) / 3)


def test_readers_who_agree_on_no_voxel(tmp_path):
    """The refined rule marks the nodule; each of two readers outlined another part of it."""
    readings = [[block((4, 4), (12, 14), (20, 24))], [block((5, 5), (16, 18), (20, 24))], [], []]
    ball = Ball((4, 15, 22), 4)
    path = write_scan(tmp_path / "1.2.mhd", make_hu([ball], SHAPE))
    ct = Ct(path, [as_nodule("1.2", ball)], LidcRule(from_xml(tmp_path, readings)))
    (nodule,) = score_scan(ct, ct.positive_mask.astype(np.int32), []).nodules
    assert (nodule.reader_count, nodule.inter_reader_dice, nodule.dice) == (2, 0, 1)


def test_readers_of_a_turned_scan(tmp_path):
    """LUNA16 has scans whose rows and columns run the other way; outlines are turned with the scan."""
    turned = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
    path = write_scan(tmp_path / "1.2.mhd", make_hu([], SHAPE), direction=turned)
    nodule = as_nodule("1.2", Ball((4, 15, 22), 4), turned)
    ct = Ct(path, [nodule], LidcRule(from_xml(tmp_path, OUTLINES)))
    labels = ct.positive_mask.astype(np.int32)
    (score,) = score_scan(ct, labels, []).nodules
    assert score.dice == 1
    assert score.dice_with_readers == pytest.approx((2 * 80 / 180 + 1 + 2 * 60 / 140) / 3)


def test_one_finding_over_two_nodules_has_both_in_its_dice(ct):
    labels = (ball_mask(LARGE, SHAPE) | ball_mask(SMALL, SHAPE)).astype(np.int32)
    sizes = [int(ball_mask(ball, SHAPE).sum()) for ball in (LARGE, SMALL)]
    dices = [nodule.dice for nodule in score_scan(ct, labels, []).nodules]
    assert dices == pytest.approx([2 * size / (size + sum(sizes)) for size in sizes])


def test_findings_by_luna16s_rule(ct):
    # The large ball has a radius of 4 voxels in the plane: 3 cols off its center is a hit, 5 cols are not.
    findings = [finding((5, 12, 15), 0.6), finding((5, 12, 17), 0.9), finding((4, 30, 30), 0.4)]
    assert VX_SIZE_XYZ[0] * 3 < LARGE.diameter_mm / 2 < VX_SIZE_XYZ[0] * 5
    scores = score_scan(ct, None, findings)
    assert [nodule.probability for nodule in scores.nodules] == [0.6, 0.4]
    assert scores.false_positives == [findings[1]]
    excluded = CandidateInfoTuple(False, True, None, 10.0, "1.2", to_xyz((5, 12, 17)))
    assert score_scan(ct, None, findings, [excluded]).false_positives == []


def test_logits_rank(ct):
    # Both hit the large ball with equal probabilities; the second has the higher logit.
    findings = [finding((5, 12, 12), 1.0, logit=30.0), finding((5, 12, 13), 1.0, logit=40.0)]
    nodule = score_scan(ct, None, findings).nodules[0]
    assert (nodule.probability, nodule.logit) == (1, 40)
    missed = score_scan(ct, None, findings).nodules[1]
    assert not missed.is_found
    assert math.isnan(missed.logit)
    values = summarize([score_scan(ct, None, findings)]).as_dict()
    assert values["froc"]["threshold_unit"] == "logit"
    assert values["froc"]["curve"]["threshold"] == [40]
    of_others = summarize([score_scan(ct, None, [finding((5, 12, 12), 250.0)])]).as_dict()  # on another scale
    assert (of_others["froc"]["threshold_unit"], of_others["froc"]["curve"]["threshold"]) == ("probability", [250])
    assert summarize([score_scan(ct, None, [])]).as_dict()["froc"]["threshold_unit"] is None


def test_findings_are_scored_without_their_scan(ct):
    findings = [finding((5, 12, 12), 0.6), finding((0, 0, 0), 0.9)]
    alone, with_scan = score_findings("1.2", ct.nodules, findings), score_scan(ct, None, findings)
    assert alone.false_positives == with_scan.false_positives == [findings[1]]
    assert alone.nodules[0].probability == 0.6
    assert (alone.slice_count, with_scan.slice_count) == (None, 10)
    assert summarize([alone]).as_dict()["slices"] is None


def test_all_findings_and_those_on_the_curve(ct):
    # 150 false positives of different scores: the tables count all, the curve a hundred.
    findings = [finding((0, 0, 0), 0.9 - ndx / 1000) for ndx in range(150)]
    values = summarize([score_scan(ct, None, findings), score_scan(ct, None, [])]).as_dict()
    assert values["findings"]["false_positives_per_scan"] == 75
    assert values["froc"]["end"] == {
        "false_positives_per_scan": 50, "sensitivity": 0, "scans_with_more_findings": 1
    }  # fmt: skip


def test_networks_that_score_scans_of_their_own(ct):
    scans = [score_findings(uid, ct.nodules, [finding((5, 12, 12))]) for uid in ("1", "2", "3")]
    networks = summarize(scans, scored_by={"1": ["fold1"], "2": ["fold0"], "3": ["fold1"]}).networks
    assert [(name, len(summary.scans)) for name, summary in networks.items()] == [("fold0", 1), ("fold1", 2)]
    for names in ([], ["fold0"], ["fold0", "fold1"]):
        assert summarize(scans, scored_by=dict.fromkeys("123", names)).networks == {}


def test_without_a_mask_there_are_no_voxel_scores(ct):
    scores = score_scan(ct, None, [finding((5, 12, 12))])
    assert scores.voxels is None
    assert [math.isnan(nodule.dice) for nodule in scores.nodules] == [True, True]
    values = summarize([scores]).as_dict()
    assert values["voxels"] is None
    assert values["nodules"] == {
        "count": 2, "found": 1, "recall": 0.5, "touched": None, "mean_dice": None,
        "mean_dice_low": None, "mean_dice_high": None,
        "outlined": None, "mean_inter_reader_dice": None, "mean_dice_with_readers": None
    }  # fmt: skip


def test_a_summary_pools_scans_by_hand(ct, tmp_path):
    empty = Ct(write_scan(tmp_path / "1.3.mhd", make_hu([], (5, 40, 44))))
    first = score_scan(ct, marks(np.s_[5, 12, 12:14], np.s_[0, 0, 0:3]), [finding((5, 12, 13), 0.8)])
    second = score_scan(empty, np.ones((5, 40, 44), dtype=np.int32), [finding((2, 20, 20), 0.9)])
    values = summarize([first, second]).as_dict()
    assert (values["slices"], values["voxels"]["true_positives"]) == (15, 2)
    assert values["voxels"]["false_positives"] == 3 + 5 * 40 * 44
    assert values["voxels"]["false_positives_per_slice"] == pytest.approx((3 + 5 * 40 * 44) / 15)
    assert values["voxels"]["mean_dice_of_scans"] == pytest.approx(first.voxels.scores.f1)  # the other has no nodule
    dice = (first.nodules[0].dice + 0) / 2
    assert values["nodules"] == {
        "count": 2, "found": 1, "recall": 0.5, "touched": 1, "mean_dice": dice,
        "mean_dice_low": None, "mean_dice_high": None,  # one scan alone has nodules
        "outlined": 0, "mean_inter_reader_dice": None, "mean_dice_with_readers": None
    }  # fmt: skip
    assert values["findings"] == {
        "count": 2, "irrelevant": 0, "false_positives": 1, "false_positives_per_scan": 0.5
    }  # fmt: skip
    # A false positive of 0.9 in one of two scans, then one of two nodules: nothing at 1/8 and 1/4, half from 1/2 on.
    assert values["froc"]["cpm"] == pytest.approx(5 * 0.5 / 7)
    assert values["froc"]["sensitivity"] == [0, 0, 0.5, 0.5, 0.5, 0.5, 0.5]
    json.dumps(values, allow_nan=False)


def test_undefined_scores_are_null_in_json(tmp_path):
    empty = Ct(write_scan(tmp_path / "1.3.mhd", make_hu([], (5, 40, 44))))
    values = summarize([score_scan(empty, np.zeros((5, 40, 44), dtype=np.int32), [])]).as_dict()
    assert values["voxels"]["dice"] is None
    assert values["nodules"]["recall"] is None
    assert values["froc"]["cpm"] is None
    assert values["froc"]["sensitivity_low"] == [None] * 7
    json.dumps(values, allow_nan=False)


def test_shapes_and_sizes_of_a_scan(ct):
    """A finding is the large ball and as many voxels beside it; the small ball is missed."""
    label = ball_mask(LARGE, SHAPE)
    size = int(label.sum())
    labels = label.astype(np.int32)
    beside = np.argwhere(~label)[-size:]
    labels[tuple(beside.T)] = 1
    large, small = score_scan(ct, labels, []).nodules
    assert large.volume_error == pytest.approx(1)
    assert large.surface_distance_mm > 1
    assert math.isnan(small.volume_error)
    sizes = summarize([score_scan(ct, labels, [])]).as_dict()["sizes"]
    assert (sizes["compared"], sizes["volume_bias"], sizes["volume_spread"]) == (1, pytest.approx(1), 0)
    # Balls of 5.6 and 4.2 mm.
    assert [part["count"] for part in sizes["classes"]] == [0, 2, 0, 0]
    without_mask = summarize([score_scan(ct, None, [])]).as_dict()["sizes"]
    assert (without_mask["compared"], without_mask["classes"][1]["count"]) == (0, 2)
    assert without_mask["classes"][1]["mean_dice"] is None
