import math

import numpy as np
import pytest
import torch

from p2ch13.data.ct import Ct
from p2ch13.detection.detector import Detector, average, detect, load_detector
from p2ch13.detection.segment import segment
from p2ch13.network.checkpoint import PIXEL_MM, load_checkpoint, load_model, save_checkpoint
from p2ch13.network.finding_scorer import SECOND_STAGE
from p2ch13.network.model import UNetWrapper
from p2ch13.util.logits import to_logit, to_probability
from tests.support.checks import Intruder, refused
from tests.support.networks import (
    PIXEL_MODEL,
    Denser,
    FakeNetwork,
    make_finding_scorer,
    write_pixel_network,
    write_two_stages,
)
from tests.support.scan_files import IDENTITY, Ball, make_hu, write_scan

VX_SIZE_XYZ = (3.0, 3.0, 3.0)


class Balls(FakeNetwork):
    """The logit is a hundredth of HU: of lung -9, of tissue what it is made of."""

    def logits(self, input_batch):
        return input_batch[:, 3:4] / 100


@pytest.fixture
def hu():
    """Three boxes of 27 voxels at logits of 3, 1 and -1; a fragment of the first, joined to it at a logit of -1.5."""
    hu = make_hu([], (12, 40, 44))
    for center, value in (((5, 8, 8), 300), ((5, 8, 34), 100), ((5, 30, 8), -100), ((5, 8, 13), 300)):
        hu[tuple(slice(at - 1, at + 2) for at in center)] = value
    hu[5, 8, 10:12] = -150
    return hu


def open_scan(tmp_path, hu, direction=IDENTITY, vx_size_xyz=VX_SIZE_XYZ):
    return Ct(write_scan(tmp_path / "1.2.3.mha", hu, direction, vx_size_xyz=vx_size_xyz))


def load(paths):
    return {path: load_detector(path) for path in paths}


def test_several_checkpoints(tmp_path, chest):
    """The logit of a voxel is the mean of both networks' own; one checkpoint is its network alone, bit for bit."""
    paths = [write_pixel_network(tmp_path / "a.state", -700), write_pixel_network(tmp_path / "b.state", -900, 0.5, -3)]
    ct = open_scan(tmp_path, chest)
    own = [segment(ct, load_model(path), lung_mask=False) for path in paths]
    np.testing.assert_array_equal(segment(ct, average(load(paths[:1])).network, lung_mask=False), own[0])
    mean = segment(ct, average(load(paths)).network, lung_mask=False)
    np.testing.assert_allclose(mean, (own[0].astype(np.float64) + own[1]) / 2, rtol=1e-6)
    assert not np.array_equal(mean, own[0])


def test_several_checkpoints_of_different_slice_spacings(tmp_path):
    first, second = write_pixel_network(tmp_path / "a.state", -700), tmp_path / "b.state"
    state = UNetWrapper(**PIXEL_MODEL).state_dict()
    save_checkpoint(second, {"model_state": state, "model_args": {**PIXEL_MODEL, "slice_spacing_mm": 2.0}})
    with refused(path=second):
        average(load([first, second]))
    assert average(load([second])).network.slice_spacing_mm == 2.0


def test_a_finding_is_scored_before_its_map_is_rounded(tmp_path):
    """Logits of 9 and 9.001 are equal in float16, as are the probabilities 0.9998766 and 0.9998767."""

    class Graded(FakeNetwork):
        def logits(self, input_batch):
            cols = torch.arange(input_batch.shape[3])
            certain = torch.where(cols < 30, 9.0, 9.001).expand_as(input_batch[:, 3:4])
            return torch.where(input_batch[:, 3:4] > -700, certain, torch.tensor(-9.0))

    hu = make_hu([Ball((3, 10, 10), 3), Ball((3, 10, 50), 3)], (8, 20, 60))
    found = detect(open_scan(tmp_path, hu), Detector(Graded()), lung_mask=False)
    assert found.logits.dtype == np.float16
    assert np.float16(9.001) == np.float16(9.0)
    assert [finding.logit for finding in found.findings] == [9.001, 9.0]
    assert found.findings[0].center_xyz.x > found.findings[1].center_xyz.x
    assert found.labels[3, 10, 50] == 1


def test_low_thresholds_also_use_the_lung_mask(tmp_path, chest):
    """At a probability of 0.0005, below `LOWEST_THRESHOLD`."""

    class Faint(Denser):
        def logits(self, input_batch):
            return super().logits(input_batch) - 14.0  # -6 and -22

    chest[3:6, 10:14, 60:68] = -800
    chest[4, 11:13, 62:66] = 0  # no lung around it
    ct = open_scan(tmp_path, chest)
    found = detect(ct, Detector(Faint()), threshold=0.0005, min_diameter_mm=0.0)
    assert found.labels[4, 11, 63] == 0
    assert found.labels[4, 41, 41] > 0


def test_both_stages_by_hand(tmp_path, hu):
    """At a threshold of 0.1, a logit of -2.2: three candidates; the calibrated logit is twice the first one, plus 1."""
    scorer = make_finding_scorer((0.0, 2.0, 0.0), bias=1.0)
    found = detect(open_scan(tmp_path, hu), Detector(Balls(), (scorer,)), lung_mask=False)
    assert [finding.logit for finding in found.findings] == pytest.approx([7, 3], abs=1e-5)  # -1 is below 0.5
    first, second = found.findings
    assert first.probability == pytest.approx(1 / (1 + math.exp(-7)), abs=1e-6)
    assert (first.number, second.number) == (1, 2)
    assert (first.first_stage_logit, second.first_stage_logit) == pytest.approx((3, 1), abs=1e-5)
    # The fragments are one finding, without the bridge between them.
    np.testing.assert_array_equal(found.labels, np.select([hu == 300, hu == 100], [1, 2]))
    assert first.volume_mm3 == 2 * 27 * 27
    everything = detect(open_scan(tmp_path, hu), Detector(Balls(), (scorer,)), threshold=0.0, lung_mask=False)
    assert [finding.logit for finding in everything.findings] == pytest.approx([7, 3, -1], abs=1e-5)
    assert np.count_nonzero(everything.labels == 3) == 27  # none is above 0.5: all voxels of the candidate
    alone = detect(open_scan(tmp_path, hu), Detector(Balls()), lung_mask=False)
    assert len(alone.findings) == 3  # both fragments, and the second box
    assert all(math.isnan(finding.second_stage_logit) for finding in alone.findings)


def test_the_second_stage_sees_each_candidate(tmp_path, hu):
    """Its logits differ between candidates, and between second stages; two are averaged."""
    scorers = [make_finding_scorer((1.0, 0.0, 0.0), seed=seed) for seed in (1, 2)]
    ct = open_scan(tmp_path, hu)
    one, other, both = (
        {finding.center_xyz: finding for finding in detect(ct, Detector(Balls(), own), 0.0, lung_mask=False).findings}
        for own in ((scorers[0],), (scorers[1],), tuple(scorers))
    )
    assert len({finding.second_stage_logit for found in (one, other) for finding in found.values()}) == 6
    for center_xyz, finding in both.items():
        expected = (one[center_xyz].second_stage_logit + other[center_xyz].second_stage_logit) / 2
        assert finding.logit == finding.second_stage_logit == pytest.approx(expected, abs=2e-6)


def test_small_candidates_are_dropped(tmp_path, hu):
    detector = Detector(Balls(), (make_finding_scorer(),))
    assert len(detect(open_scan(tmp_path, hu), detector, 0.0, min_diameter_mm=11.0, lung_mask=False).findings) == 3
    # 27 voxels of 27 mm3 are a sphere of 11.17 mm, both fragments one of 14.07; with the bridge there are 56 voxels.
    (only,) = detect(open_scan(tmp_path, hu), detector, 0.0, min_diameter_mm=12.0, lung_mask=False).findings
    assert only.volume_mm3 == 54 * 27
    (only,) = detect(open_scan(tmp_path, hu), detector, 0.0, min_diameter_mm=14.2, lung_mask=False).findings
    assert only.volume_mm3 == 56 * 27


def test_no_candidate(tmp_path):
    hu = make_hu([], (6, 20, 22))
    hu[0, 0, 0] = -890
    found = detect(open_scan(tmp_path, hu), Detector(Balls(), (make_finding_scorer(),)), lung_mask=False)
    assert found.findings == []
    assert not found.labels.any()


def test_thresholds():
    alone, one = Detector(Balls()), Detector(Balls(), (make_finding_scorer(default=0.4),))
    two = Detector(Balls(), (make_finding_scorer(default=0.2), make_finding_scorer(default=0.8)))
    assert alone.choose_threshold() == 0.5
    assert one.choose_threshold() == 0.4
    assert one.choose_threshold("sensitive") == 0.1
    assert two.choose_threshold() == pytest.approx(0.5)  # logits of -1.39 and 1.39
    assert two.choose_threshold("sensitive") == pytest.approx(
        to_probability((to_logit(0.05) + to_logit(0.2)) / 2), abs=1e-9
    )
    assert [each.choose_threshold(0.7) for each in (alone, one, two)] == [0.7] * 3
    # 19 nodules: (misses + 1) / 20 <= 0.2 allows 3, of 0, 0.05 and 0.1.
    assert one.choose_threshold(sensitivity=0.8) == 0.15
    with refused(option="--sensitivity"):
        one.choose_threshold(sensitivity=0.99)
    for detector in (alone, two):
        with refused(option="--sensitivity"):
            detector.choose_threshold(sensitivity=0.8)
    with refused(option="--threshold"):
        alone.choose_threshold("sensitive")


def test_what_a_threshold_reached_in_validation():
    """Of 19 nodules, 0.5 to 0.9 are 9: 47%; of 8 false positives in 4 scans, 0.5 to 0.8 are 4."""
    words = Detector(Balls(), (make_finding_scorer(),)).describe(0.5)
    assert "47% of 19 nodules" in words
    assert "1 false positives per scan" in words


def test_saved_and_loaded(tmp_path, hu):
    scorer = make_finding_scorer((0.5, 1.0, -0.2), candidate_threshold=0.2)
    path = write_two_stages(tmp_path / "two.state", -700, scorer, weight=0.01, bias=-2.0)
    detector = load_detector(path)
    assert detector.scorers[0].calibration == scorer.calibration
    assert detector.candidate_threshold == 0.2
    ct = open_scan(tmp_path, hu)
    expected = detect(ct, Detector(load_model(path), (scorer,)), lung_mask=False)
    assert len(expected.findings) > 1
    assert detect(ct, detector, lung_mask=False).findings == expected.findings
    assert load_detector(path, second_stage=False).scorers == ()


def test_one_of_several_checkpoints_has_a_second_stage(tmp_path):
    with_it = write_two_stages(tmp_path / "a.state", -700, make_finding_scorer())
    without = write_pixel_network(tmp_path / "b.state", -700)
    with refused(path=without) as caught:
        average(load([with_it, without]))
    assert "--no-second-stage" in str(caught.value)
    other = write_two_stages(tmp_path / "c.state", -700, make_finding_scorer())
    assert len(average(load([with_it, other])).scorers) == 2


def write_with_pixels(path, pixel_mm):
    write_pixel_network(path, -700)
    save_checkpoint(path, {**load_checkpoint(path), PIXEL_MM: pixel_mm})
    return path


def test_the_size_of_pixels_is_the_checkpoints_or_the_users(tmp_path, hu):
    """Pixels of 3 mm, enlarged to 1 mm: the border of a box lies between voxels then, and its voxels stay its own."""

    class Seeing(Balls):
        def logits(self, input_batch):
            self.seen = tuple(input_batch.shape[2:])
            return super().logits(input_batch)

    assert load_detector(write_pixel_network(tmp_path / "none.state", -700)).pixel_mm == 0
    assert load_detector(write_with_pixels(tmp_path / "one.state", 1.0)).pixel_mm == 1
    ct, network = open_scan(tmp_path, hu), Seeing()
    plain = detect(ct, Detector(network), lung_mask=False)
    assert network.seen == (40, 44)
    enlarged = detect(ct, Detector(network, pixel_mm=1.0), lung_mask=False)
    assert network.seen == (120, 132)
    np.testing.assert_array_equal(enlarged.labels > 0, plain.labels > 0)
    detect(ct, Detector(network, pixel_mm=1.0), pixel_mm=2.0, lung_mask=False)
    assert network.seen == (60, 66)


@pytest.mark.parametrize("pixel_mm", [-1.0, math.nan, math.inf, "1"])
def test_pixels_of_no_size(tmp_path, pixel_mm):
    path = write_with_pixels(tmp_path / "a.state", pixel_mm)
    with refused(path=path):
        load_detector(path)


def test_networks_that_see_other_pixels_are_not_averaged(tmp_path):
    paths = [write_with_pixels(tmp_path / f"{size}.state", size) for size in (0.5, 0.7)]
    with refused(path=paths[1]):
        average(load(paths))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_args": {"filters": 10**9}},  # no memory is taken for them
        {"model_args": {"filters": 0}},
        {"model_args": {"levels": 3}},
        {"model_args": None},
        {"model_state": {"weights": torch.zeros(3)}},
        {"calibration": {"names": ["a"], "weights": [1.0], "bias": 0.0}},
        {"calibration": 3},
        {"candidate_threshold": 0.0},
        {"candidate_threshold": float("nan")},
        {"operating_points": {"default": 0.5}},
        {"operating_points": {"default": 0.5, "sensitive": 7}},
        {"validation": {"nodules": [0.5, 2.0], "false_positives": [], "scan_count": 1}},
        {"validation": {"nodules": [0.5], "false_positives": [], "scan_count": 0}},
        {"validation": {"nodules": [], "false_positives": [], "scan_count": 1}},
        {"validation": ["no", "dict"]},
    ],
)
def test_a_second_stage_that_makes_no_sense(tmp_path, changes):
    path = write_two_stages(tmp_path / "a.state", -700, make_finding_scorer())
    state = load_checkpoint(path)
    save_checkpoint(path, {**state, SECOND_STAGE: {**state[SECOND_STAGE], **changes}})
    with refused(path=path):
        load_detector(path)
    assert load_detector(path, second_stage=False).scorers == ()


def test_a_second_stage_of_other_kinds(tmp_path):
    state = load_checkpoint(write_pixel_network(tmp_path / "plain.state", -700))
    path = tmp_path / "a.state"
    for content in (None, 3, [1], "text", {}):
        save_checkpoint(path, {**state, SECOND_STAGE: content})
        with refused(path=path):
            load_detector(path)


def test_weights_that_are_not_finite(tmp_path):
    scorer = make_finding_scorer()
    with torch.no_grad():
        next(scorer.network.parameters()).fill_(torch.nan)
    path = write_two_stages(tmp_path / "a.state", -700, scorer)
    with refused(path=path):
        load_detector(path)


def test_code_in_a_second_stage_does_not_run(tmp_path):
    path = write_two_stages(tmp_path / "a.state", -700, make_finding_scorer())
    torch.save({**load_checkpoint(path), SECOND_STAGE: Intruder(tmp_path / "intruder_was_here")}, path)
    with refused(path=path):
        load_detector(path)
    assert not (tmp_path / "intruder_was_here").exists()
