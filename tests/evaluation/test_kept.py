"""A scan's scores as a file are those that were packed."""

from dataclasses import asdict

import numpy as np

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import find_marked
from p2ch13.evaluation.kept import pack, unpack
from p2ch13.evaluation.scoring import score_scan
from p2ch13.evaluation.worst_cases import WorstCases
from p2ch13.util.disk import decode, encode
from tests.support.scan_files import Ball, as_nodule, ball_mask, make_hu, write_scan

BALLS = [Ball((3, 20, 20), 4), Ball((4, 40, 30), 3)]
SHAPE = (8, 60, 64)


def test_scores_and_worst_cases_come_back(tmp_path):
    ct = Ct(write_scan(tmp_path / "1.2.mhd", make_hu(BALLS, SHAPE)), [as_nodule("1.2", ball) for ball in BALLS])
    marked = ball_mask(BALLS[0], SHAPE) | ball_mask(Ball((3, 50, 50), 2), SHAPE)  # a nodule, and a false positive
    labels, findings = find_marked(ct, marked)
    scores, worst = score_scan(ct, labels, findings), WorstCases()
    worst.add(ct, labels, scores)
    assert (len(worst.nodules), len(worst.false_positives)) == (2, 1)

    again = WorstCases()
    unpacked = unpack(decode(encode(pack(scores, worst))), again)
    np.testing.assert_equal(asdict(unpacked), asdict(scores))
    assert unpacked.nodules[0].center_xyz._fields == scores.nodules[0].center_xyz._fields
    for kind in ("nodules", "false_positives"):
        for case, expected in zip(getattr(again, kind), getattr(worst, kind), strict=True):
            np.testing.assert_equal(vars(case), vars(expected))


def test_cases_of_other_scans_stay_with_them(tmp_path):
    ct = Ct(write_scan(tmp_path / "1.2.mhd", make_hu(BALLS, SHAPE)), [as_nodule("1.2", ball) for ball in BALLS])
    empty = Ct(write_scan(tmp_path / "1.3.mhd", make_hu([], SHAPE)))
    worst = WorstCases()
    worst.add(ct, None, score_scan(ct, None, []))
    again = WorstCases()
    unpacked = unpack(decode(encode(pack(score_scan(empty, None, []), worst))), again)
    assert (unpacked.series_uid, unpacked.voxels, again.nodules) == ("1.3", None, [])
