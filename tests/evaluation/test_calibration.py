import math
from dataclasses import replace

import numpy as np
import pytest

from p2ch13.detection.findings import Finding
from p2ch13.evaluation.calibration import measure_calibration, resample_error
from p2ch13.evaluation.scoring import score_findings
from p2ch13.evaluation.summary import summarize
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.network.calibration import expected_calibration_error
from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.logits import to_logit


def make_scan(series_uid, probabilities, nodule_count, excluded_count=0, threshold=None):
    """Score findings 20 mm apart: the first are nodules of 10 mm, the next excluded, the others false positives."""
    places = [XyzTuple(20.0 * ndx, 0.0, 0.0) for ndx in range(len(probabilities))]
    findings = [
        # before calibration, logits are twice as high
        Finding(series_uid, ndx, place, to_logit(p), p, second_stage_logit=2 * to_logit(p))
        for ndx, (place, p) in enumerate(zip(places, probabilities, strict=True), 1)
    ]
    annotated = [CandidateInfoTuple(True, False, False, 10.0, series_uid, place) for place in places]
    nodules, excluded = annotated[:nodule_count], annotated[nodule_count : nodule_count + excluded_count]
    return replace(score_findings(series_uid, nodules, findings, excluded), threshold=threshold)


def test_before_and_after_by_hand():
    """Nodules at 0.75 and 0.6, false positives at 0.65 and 0.25; an excluded finding does not count."""
    scans = [make_scan("1", [0.75, 0.9, 0.65], 1, excluded_count=1), make_scan("2", [0.6, 0.25], 1)]
    measured = measure_calibration(scans)
    assert (measured["after"]["findings"], measured["after"]["nodules"], measured["scans"]) == (4, 2, 2)
    assert measured["after_shown"]["ece"] == measured["after"]["ece"]  # all are
    # 0.6 and 0.65 share a bin with a mean of 0.625, half of them nodules; the others are alone.
    assert measured["after"]["ece"] == pytest.approx((2 * 0.125 + 0.25 + 0.25) / 4)
    assert measured["after"]["curve"][6] == {
        "low": 0.6, "high": 0.7, "finding_count": 2, "mean_probability": pytest.approx(0.625), "nodule_share": 0.5
    }  # fmt: skip
    # Odds of 3, 1.5, 13/7 and 1/3, squared: 0.9, 0.692, 0.775, 0.1
    sharper = [9 / 10, 2.25 / 3.25, 169 / (169 + 49), 1 / 10]
    assert measured["before"]["ece"] == pytest.approx((1 - sharper[0] + 1 - sharper[1] + sharper[2] + sharper[3]) / 4)
    assert measured["after"]["ece_low"] <= measured["after"]["ece"] <= measured["after"]["ece_high"]


def test_shown_findings_by_hand():
    """From 0.62 on: a nodule at 0.75 and a false positive at 0.65; in the other scan there is none."""
    scans = [make_scan("1", [0.75, 0.65, 0.1], 1, threshold=0.62), make_scan("2", [0.6, 0.25], 1, threshold=0.62)]
    shown = measure_calibration(scans)["after_shown"]
    assert (shown["findings"], shown["nodules"]) == (2, 1)
    assert shown["ece"] == pytest.approx((0.25 + 0.65) / 2)
    assert math.isnan(shown["ece_low"]) and math.isnan(shown["ece_high"])  # findings of one scan have no spread
    nothing = measure_calibration([make_scan("1", [0.4], 1, threshold=0.5)])["after_shown"]
    assert nothing["findings"] == 0
    assert math.isnan(nothing["ece"])


def test_one_scan_has_no_interval():
    after = measure_calibration([make_scan("1", [0.75, 0.65, 0.1], 1)])["after"]
    assert after["ece"] > 0
    assert math.isnan(after["ece_low"]) and math.isnan(after["ece_high"])


def test_draws_of_scans_by_hand():
    """Each draw's error is that of its findings, repeated as often as their scan was drawn."""
    rng = np.random.default_rng(0)
    probabilities, is_nodule, scan_ndxs = rng.random(30), rng.random(30) < 0.4, rng.integers(4, size=30)
    draws = np.array([[1, 1, 1, 1], [3, 0, 1, 0], [0, 0, 0, 4]])
    for draw, error in zip(draws, resample_error(probabilities, is_nodule, scan_ndxs, draws), strict=True):
        repeated = np.repeat(np.arange(30), draw[scan_ndxs])
        assert error == pytest.approx(expected_calibration_error(probabilities[repeated], is_nodule[repeated]))
    nothing = np.array([[0, 0, 0, 0, 2]])
    assert math.isnan(resample_error(probabilities, is_nodule, scan_ndxs, nothing)[0])


def test_findings_without_a_second_stage():
    finding = Finding("1", 1, XyzTuple(0.0, 0.0, 0.0), 1.0, 0.7)
    assert measure_calibration([score_findings("1", [], [finding])]) is None
    assert measure_calibration([score_findings("1", [], [])]) is None


def test_the_operating_point_by_hand():
    scans = [make_scan("1", [0.75, 0.3, 0.65, 0.2], 2, threshold=0.5), make_scan("2", [0.6, 0.5], 1, threshold=0.5)]
    values = summarize(scans).as_dict()
    assert values["operating_point"] == {
        "threshold": 0.5,
        "found": 2,  # 0.75, 0.6; not 0.3
        "sensitivity": pytest.approx(2 / 3),
        "false_positives": 2,  # 0.65, and 0.5 exactly
        "false_positives_per_scan": 1.0,
    }
    assert (values["nodules"]["found"], values["findings"]["false_positives"]) == (3, 3)  # of all candidates
    assert summarize([make_scan("1", [0.75], 1)]).as_dict()["operating_point"] is None


def test_different_thresholds_of_scans():
    scans = [make_scan("1", [0.75, 0.65], 1, threshold=0.8), make_scan("2", [0.75, 0.65], 1, threshold=0.7)]
    point = summarize(scans).operating_point
    assert (point["threshold"], point["found"], point["false_positives"]) == (None, 1, 0)
