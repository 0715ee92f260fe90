"""Cases computed by hand. Probabilities fall from left to right in the tables; `fp` is per scan."""

import csv
import gzip

import numpy as np
import pytest

from p2ch13.evaluation import froc as froc_module
from p2ch13.evaluation.froc import (
    BAND_POINTS,
    FINDINGS_PER_SCAN,
    OPERATING_POINTS,
    ScanMatch,
    compute_froc,
    match_findings,
)
from tests.conftest import SHARED

EXAMPLE = SHARED / "luna16" / "example_evaluation"  # what LUNA16's own script wrote


def place(*x):
    """Points on the x axis, mm."""
    return [(value, 0.0, 0.0) for value in x]


def match(findings=(), nodules=(), excluded=()):
    """Args: findings: (x, probability); nodules, excluded: (x, diameter); mm on the x axis."""
    finding_x, probabilities = zip(*findings, strict=True) if findings else ((), ())
    nodule_x, diameters = zip(*nodules, strict=True) if nodules else ((), ())
    excluded_x, excluded_diameters = zip(*excluded, strict=True) if excluded else ((), ())
    return match_findings(
        place(*finding_x), probabilities, place(*nodule_x), diameters, place(*excluded_x), excluded_diameters
    )


def curve_of(*matches):
    curve = compute_froc(matches, bootstrap_count=2).curve
    return curve.false_positives_per_scan.tolist(), curve.sensitivity.tolist(), curve.thresholds.tolist()


def test_a_hit_is_nearer_than_the_radius():
    # A nodule of 10 mm at 0: 4.9 mm away hits, 5 mm away does not (LUNA16's script asks for less than the radius).
    result = match([(4.9, 0.9), (5.0, 0.8), (-3.0, 0.3)], [(0, 10)])
    assert result.hits.tolist() == [[True], [False], [True]]
    assert result.is_false_positive.tolist() == [False, True, False]


def test_the_distance_is_three_dimensional():
    # (3, 4, 12) is 13 mm from the origin.
    assert match_findings([(3, 4, 12)], [1], [(0, 0, 0)], [26.1]).hits.tolist() == [[True]]
    assert match_findings([(3, 4, 12)], [1], [(0, 0, 0)], [25.9]).hits.tolist() == [[False]]


def test_two_findings_on_one_nodule():
    # The nodule counts once, with the higher probability; the other finding counts as nothing.
    result = match([(1, 0.4), (0, 0.7), (50, 0.5)], [(0, 10)])
    assert result.best_hits.tolist() == [1]
    assert result.is_false_positive.tolist() == [False, False, True]
    assert curve_of(result) == ([0, 0, 1], [0, 1, 1], [np.inf, 0.7, 0.5])


def test_one_finding_in_two_nodules():
    # Half way between centres 4 mm apart, with radii of 3 mm: both are found.
    result = match([(2, 0.6)], [(0, 6), (4, 6)])
    assert result.best_hits.tolist() == [0, 0]
    assert curve_of(result) == ([0, 0], [0, 1], [np.inf, 0.6])


def test_excluded_findings_are_ignored():
    # Of four findings one lies in an excluded place (radius 5 mm), one in such a place and in a nodule: a hit.
    result = match([(100, 0.9), (0, 0.8), (50, 0.7), (106, 0.6)], [(0, 6)], [(101, 10), (1, 10)])
    assert result.is_excluded.tolist() == [True, True, False, False]
    assert result.is_ignored.tolist() == [True, False, False, False]
    assert result.is_false_positive.tolist() == [False, False, True, True]
    assert curve_of(result) == ([0, 0, 1, 2], [0, 1, 1, 1], [np.inf, 0.8, 0.7, 0.6])


def test_a_curve_by_hand():
    # Two scans with three nodules, one of which is missed.
    #   probability   0.9   0.8   0.7   0.6   0.2
    #   what          hit   fp    fp    hit   fp
    #   fp / 2 scans  0     0.5   1     1     1.5
    #   hits / 3      1/3   1/3   1/3   2/3   2/3
    first = match([(0, 0.9), (30, 0.8), (60, 0.2)], [(0, 6)])
    second = match([(30, 0.7), (90, 0.6)], [(0, 6), (90, 6)])
    froc = compute_froc([first, second], bootstrap_count=10)
    assert froc.curve.false_positives_per_scan.tolist() == [0, 0, 0.5, 1, 1, 1.5]
    assert froc.curve.sensitivity == pytest.approx(np.array([0, 1, 1, 1, 2, 2]) / 3)
    # At 1/8, 1/4 and 1/2 fp a third is found; at exactly 1 two thirds are; 2, 4 and 8 lie beyond the end.
    assert froc.sensitivities == pytest.approx(np.array([1, 1, 1, 2, 2, 2, 2]) / 3)
    assert froc.cpm == pytest.approx(11 / 21)


def test_between_points_the_curve_is_straight():
    # A false positive of 0.9 in one scan of two, then a hit and a false positive of 0.5 at once: from (0.5, 0) to
    # (1, 1), so that half of the nodules are found at 0.75.
    curve = compute_froc([match([(30, 0.9), (0, 0.5)], [(0, 6)]), match([(30, 0.5)])], bootstrap_count=2).curve
    assert curve.sensitivity_at([0.25, 0.5, 0.75, 1.0, 5.0]) == pytest.approx([0, 0, 0.5, 1, 1])


def test_equal_probabilities_are_one_threshold():
    # As from a mask without probabilities. Whatever their order, there is one point: 2 fp, 1 of 2 nodules.
    # Between (0, 0) and there the curve is straight: 1/32 at 1/8 fp, 1/2 at 2 and beyond.
    findings = [(0, 1.0), (30, 1.0), (60, 1.0)]
    for order in (findings, findings[::-1]):
        froc = compute_froc([match(order, [(0, 6), (100, 6)])], bootstrap_count=2)
        assert froc.curve.false_positives_per_scan.tolist() == [0, 2]
        assert froc.sensitivities == pytest.approx([1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1 / 2, 1 / 2])


def test_scans_without_nodules_count():
    # One false positive in one scan of four is a quarter per scan.
    froc = compute_froc([match([(0, 0.8)], [(0, 6)]), match([(0, 0.9)]), match(), match()], bootstrap_count=2)
    assert froc.curve.false_positives_per_scan.tolist() == [0, 0.25, 0.25]
    assert froc.sensitivities.tolist() == [0, 1, 1, 1, 1, 1, 1]  # at 1/8 no nodule is found yet


def test_no_findings():
    froc = compute_froc([match(nodules=[(0, 6)]), match(nodules=[(0, 6)]), match()], bootstrap_count=20)
    assert froc.sensitivities.tolist() == [0] * 7
    assert froc.cpm == 0
    assert froc.cpm_interval.tolist() == [0, 0]


def test_no_nodules():
    froc = compute_froc([match([(0, 0.9)]), match()], bootstrap_count=20)
    assert np.isnan(froc.sensitivities).all()
    assert np.isnan([froc.cpm, *froc.cpm_interval]).all()
    assert froc.curve.false_positives_per_scan.tolist() == [0, 0.5]


def test_no_false_positives():
    froc = compute_froc([match([(0, 0.9), (40, 0.2)], [(0, 6), (40, 6), (80, 6)])], bootstrap_count=20)
    assert froc.sensitivities == pytest.approx([2 / 3] * 7)


def test_a_hundred_findings_of_a_scan_are_used():
    # 120 false positives above 0.5, then a nodule of 0.1, which comes too late; in a second scan one of 0.4 does not.
    many = match([*((30 + ndx, 0.5 + ndx / 1000) for ndx in range(120)), (0, 0.1)], [(0, 6)])
    other = match([(0, 0.4)], [(0, 6)])
    assert FINDINGS_PER_SCAN == 100
    froc = compute_froc([many, other], bootstrap_count=2)
    assert froc.curve.false_positives_per_scan.tolist() == [*(np.arange(101) / 2), 50]
    assert froc.curve.thresholds[[1, 100, 101]].tolist() == [0.619, 0.52, 0.4]
    assert froc.curve.sensitivity[[100, 101]].tolist() == [0, 0.5]
    assert froc.limited_count == 1
    assert many.best_hits.tolist() == [120]
    assert many.is_false_positive.sum() == 120


@pytest.mark.parametrize(
    ("scores", "kept_count"),
    [
        ([0.5] * 100, 100),  # no more than a hundred: all of them
        ([0.5] * 150, 0),  # none is above that of the 101st
        ([0.9] * 99 + [0.5] * 2, 99),  # the 100th is as high as the 101st
        ([0.9] * 100 + [0.5], 100),
        ([0.9] * 60 + [0.5] * 100 + [0.1], 60),
        ([ndx / 101 for ndx in range(101)], 100),
    ],
)
def test_of_more_than_a_hundred_those_above_the_101st_are_used(scores, kept_count):
    # The rule of LUNA16's script. Whichever of them is the hit, and in whatever order they stand.
    for order in (scores, scores[::-1]):
        kept = match([(ndx, score) for ndx, score in enumerate(order)]).limited_to(100)
        assert sorted(kept.scores) == sorted(scores)[len(scores) - kept_count :]
    for hit in (0, 120):
        findings = [(0 if ndx == hit else 30, 0.5) for ndx in range(150)]
        assert compute_froc([match(findings, [(0, 6)])], bootstrap_count=2).sensitivities.tolist() == [0] * 7


@pytest.fixture
def ten_scans():
    """Ten scans with a nodule each; every other one is found. Each has a less probable false positive."""
    return [match([(0 if ndx % 2 else 20, 0.9), (50, 0.5 - ndx / 100)], [(0, 6)]) for ndx in range(10)]


def test_the_interval_holds_the_estimate(ten_scans):
    # Half of the nodules are found at any rate from 1/2 on (the misses are false positives of 0.9). A draw of ten
    # finds a binomial number of them: 2.5% of the draws find 2 or fewer, 97.5% 8 or fewer.
    froc = compute_froc(ten_scans, seed=3)
    low, high = froc.sensitivity_intervals
    assert (low <= froc.sensitivities).all()
    assert (froc.sensitivities <= high).all()
    assert (low[-1], high[-1]) == pytest.approx((0.2, 0.8), abs=0.1)
    assert froc.cpm_interval[0] < froc.cpm < froc.cpm_interval[1]
    assert froc.band.shape == (2, len(BAND_POINTS))
    # The band and the intervals at the operating points agree where they meet.
    ends = [0, -1]
    assert froc.band[:, ends] == pytest.approx(froc.sensitivity_intervals[:, ends])
    assert BAND_POINTS[ends] == pytest.approx([OPERATING_POINTS[0], OPERATING_POINTS[-1]])


def test_the_seed_fixes_the_interval(ten_scans):
    first, again, other = (compute_froc(ten_scans, 50, seed).band for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


HALF_FOUND = match([(0, 0.9)], [(0, 6), (50, 6)])


@pytest.mark.parametrize(
    "scans",
    [
        pytest.param([HALF_FOUND], id="one scan"),
        pytest.param([HALF_FOUND, match()], id="one scan with nodules, one with nothing"),
        pytest.param([match([(20, 0.9)]), HALF_FOUND, match([(20, 0.5)])], id="one with nodules, two false positives"),
    ],
)
def test_nodules_of_one_scan_have_no_interval(scans):
    froc = compute_froc(scans, bootstrap_count=20)
    assert not froc.has_interval
    assert froc.sensitivities[-1] == 0.5
    for interval in (froc.cpm_interval, froc.sensitivity_intervals, froc.band):
        assert np.isnan(interval).all()
    assert froc.band.shape == (2, len(BAND_POINTS))


def test_a_draw_is_a_set_of_scans():
    # Of two scans, one found and one missed, a draw finds both, one or none. Draws without a nodule are skipped: in
    # the third scan is none, and whatever is drawn with it, a share of 0, 1/2 or 1 is found.
    scans = [match([(0, 0.9)], [(0, 6)]), match(nodules=[(0, 6)]), match()]
    froc = compute_froc(scans, bootstrap_count=200)
    assert froc.has_interval
    assert froc.cpm_interval.tolist() == [0, 1]


def test_every_point_by_counting():
    """Random scans; for every threshold, count the findings above it one by one."""
    rng = np.random.default_rng(0)
    scans = [
        (
            [(x, round(p, 1)) for x, p in zip(rng.uniform(0, 60, 12), rng.uniform(0, 1, 12), strict=True)],
            [(x, 6.0) for x in rng.uniform(0, 60, rng.integers(0, 4))],
            [(x, 10.0) for x in rng.uniform(0, 60, 1)],
        )
        for _ in range(6)
    ]

    def within(x, places):
        return [ndx for ndx, (center, diameter) in enumerate(places) if abs(x - center) < diameter / 2]

    curve = compute_froc([match(*scan) for scan in scans], bootstrap_count=2).curve
    nodule_count = sum(len(nodules) for _, nodules, _ in scans)
    assert len(curve.thresholds) > 8
    for rate, sensitivity, threshold in zip(
        curve.false_positives_per_scan, curve.sensitivity, curve.thresholds, strict=True
    ):
        found, false_count = set(), 0
        for scan_ndx, (findings, nodules, excluded) in enumerate(scans):
            for x in [x for x, probability in findings if probability >= threshold]:
                hits = within(x, nodules)
                found |= {(scan_ndx, ndx) for ndx in hits}
                false_count += not hits and not within(x, excluded)
        assert rate == pytest.approx(false_count / 6)
        assert sensitivity == pytest.approx(len(found) / nodule_count)


def read_example(name):
    open_file = gzip.open if name.endswith(".gz") else open
    with open_file(EXAMPLE / name, "rt") as file:
        return [[float(value) for value in row] for row in csv.reader(file) if row[0][0].isdigit()]


def as_match(nodule_scores, false_positives):
    """Args: nodule_scores: -1e9 for a missed nodule."""
    found_ndxs = [ndx for ndx, score in enumerate(nodule_scores) if score > -1e9]
    hits = np.zeros((len(found_ndxs) + len(false_positives), len(nodule_scores)), dtype=bool)
    hits[range(len(found_ndxs)), found_ndxs] = True
    scores = np.array([*(nodule_scores[ndx] for ndx in found_ndxs), *false_positives])
    return ScanMatch(scores, hits, np.zeros(len(scores), dtype=bool))


@pytest.fixture
def example_scans(monkeypatch):
    """The 888 scans of the example: each scan's nodules, then its false positives, scan after scan.

    Where a scan without nodules begins is not said: false positives are dealt out to as many scans as they suffice for,
    with their mean number in each.
    """
    if not EXAMPLE.is_dir():
        pytest.skip(f"no example of LUNA16's evaluation in {EXAMPLE}")
    monkeypatch.setattr(froc_module, "FINDINGS_PER_SCAN", 10**9)  # it was made without a limit
    scans = []  # (nodules' scores, false positives)
    for is_nodule, score in read_example("froc_gt_prob_vectors_sampleSubmission.csv.gz"):
        if is_nodule and (not scans or scans[-1][1]):
            scans.append(([], []))
        scans[-1][0 if is_nodule else 1].append(score)
    false_positives_per_scan = sum(len(false_positives) for _, false_positives in scans) / 888
    matches = []
    for nodules, false_positives in scans:
        parts = np.array_split(false_positives, max(1, round(len(false_positives) / false_positives_per_scan)))
        matches += [as_match(nodules if ndx == 0 else [], part) for ndx, part in enumerate(parts)]
    assert len(matches) == 888
    return matches


def test_the_curve_is_that_of_luna16s_script(example_scans):
    curve = compute_froc(example_scans, bootstrap_count=2).curve
    expected = np.array(read_example("froc_sampleSubmission.txt")[1:])  # the first line is of no finding
    points = np.searchsorted(-curve.thresholds, -expected[:, 2])
    assert curve.thresholds[points].tolist() == expected[:, 2].tolist()
    assert curve.false_positives_per_scan[points] == pytest.approx(expected[:, 0], abs=1e-9)
    assert curve.sensitivity[points] == pytest.approx(expected[:, 1], abs=1e-9)
    at_points = np.interp(OPERATING_POINTS, expected[:, 0], expected[:, 1])
    assert curve.sensitivity_at(OPERATING_POINTS) == pytest.approx(at_points, abs=1e-8)


def test_the_intervals_are_like_those_of_luna16s_script(example_scans):
    # Both are 1,000 random draws, ours of scans that are partly dealt out: equal to one nodule of 1,186.
    intervals = compute_froc(example_scans).sensitivity_intervals
    expected = np.array(read_example("froc_sampleSubmission_bootstrapping.csv.gz"))
    for rate, low, high in zip(OPERATING_POINTS, *intervals, strict=True):
        of_rate = expected[np.argmin(np.abs(expected[:, 0] - rate))]
        assert (low, high) == pytest.approx(of_rate[2:], abs=1 / 1186)
