import numpy as np
import pytest
import torch

from p2ch13.network.compute import Compute
from p2ch13.network.finding_scorer import Validation
from p2ch13.training import second_stage
from p2ch13.training.finding_examples import Examples, FindingExamples
from p2ch13.training.second_stage import (
    FOLDS,
    MOST_LOSS,
    HardDraws,
    augment,
    build_scorer,
    choose_operating_points,
    split_groups,
    train_second_stage,
    validate,
)
from p2ch13.util.threads import ThreadTuner

COMPUTE = Compute(torch.device("cpu"), torch.float32)


def make_threads():
    return ThreadTuner([1], torch.set_num_threads)


def make_scan(seed, nodules=6, others=6, missed=0):
    """Nodules are bright balls in the middle of their cubes; the others' cubes are even."""
    rng = np.random.default_rng(seed)
    cubes = rng.normal(-0.8, 0.05, (nodules + others, 1, 2, 2, 32, 32, 32)).astype(np.float16)
    cubes[:nodules, ..., 12:20, 12:20, 12:20] = 0.8
    is_nodule = np.arange(nodules + others) < nodules
    features = np.column_stack([rng.normal(size=len(is_nodule)), rng.normal(2, 0.3, len(is_nodule))])
    return FindingExamples(features, is_nodule, [[ndx] for ndx in range(nodules)], missed), cubes


def join(folder, scans):
    """Each scan is a group of its own."""
    examples = Examples(folder)
    for group, (scan, cubes) in enumerate(scans):
        examples.add(scan, cubes, group)
    return examples


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(second_stage, "BATCH_SIZE", 12)


def test_learns_what_a_nodule_looks_like(tmp_path):
    """Trained on two scans, it tells the nodules of a third."""
    examples = join(tmp_path, [make_scan(0), make_scan(1), make_scan(2)])
    model = train_second_stage(examples, examples.groups < 2, 25, seed=0, compute=COMPUTE, threads=make_threads())
    scores = model.score(examples.take(np.flatnonzero(examples.groups == 2)))
    assert scores[:6].min() > scores[6:].max()
    assert not model.training


@pytest.mark.slow
def test_scores_of_calibration_come_from_networks_without_the_scan(tmp_path):
    """Two groups, of contrary labels: each is scored by the network that the other taught, and so the wrong way."""
    wrong, cubes = make_scan(9)
    flipped = FindingExamples(wrong.features, ~wrong.is_nodule, [[6]], 5)
    examples = join(tmp_path, [make_scan(0), (flipped, cubes)])
    scorer = build_scorer(examples, 0.1, 16, seed=0, compute=COMPUTE, threads=make_threads())
    assert scorer.calibration.weights[0] < 0
    assert scorer.validation.scan_count == 2
    assert len(scorer.validation.nodules) == 6 + 1 + 5
    assert scorer.validation.nodules[:5] == (0, 0, 0, 0, 0)
    assert len(scorer.validation.false_positives) == 2 * 6
    assert scorer.validation.false_positives_at(scorer.operating_points["default"]) <= 1


def test_operating_points_of_real_lungs():
    """Two scans of ten are real: of all false positives, two may be shown, and sixteen where eight a scan may be."""
    validation = Validation((), tuple(ndx / 20 for ndx in range(20)), scan_count=10)
    points = choose_operating_points(validation, scan_count=2)
    assert points == pytest.approx({"default": 0.875, "sensitive": 0.175})
    assert choose_operating_points(validation, scan_count=10) == pytest.approx({"default": 0.475, "sensitive": 0.0})


def test_folds_keep_groups_together():
    groups = np.repeat([5, 7, 9, 11], [4, 1, 3, 2]).tolist()
    folds = split_groups(groups, seed=0)
    assert set(folds) == set(range(FOLDS))
    pairs = set(zip(groups, folds.tolist(), strict=True))
    assert len(pairs) == 4
    assert np.bincount([fold for _, fold in pairs]).tolist() == [2, 2]


def test_small_groups_are_drawn_as_often_as_large_ones_in_a_half():
    groups = np.repeat([0, 1], [98, 2])
    drawn = HardDraws(np.arange(100), groups).draw(np.random.default_rng(0), 40_000)
    assert len(drawn) == 40_000
    assert np.mean(groups[drawn] == 1) == pytest.approx(0.5 * 0.02 + 0.5 * 0.5, abs=0.01)


def test_hard_examples_are_drawn_more_often():
    """Of ten examples, three of the kind; their losses are 0.1, 0.3 and above the most that counts."""
    rng = np.random.default_rng(0)
    draws = HardDraws(np.array([2, 5, 9]), np.zeros(10, dtype=int))
    losses = {2: 0.1, 5: 0.3, 9: 50.0}
    drawn = draws.draw(rng, 600)
    assert set(drawn) == {2, 5, 9}
    draws.learn(np.array([losses[ndx] for ndx in drawn], dtype=np.float32))
    counts = np.bincount(draws.draw(rng, 60_000)[30_000:], minlength=10)
    shares = np.array([0.1, 0.3, MOST_LOSS]) / (0.1 + 0.3 + MOST_LOSS)
    assert counts[[2, 5, 9]] / 30_000 == pytest.approx(shares, abs=0.01)
    assert counts.sum() == 30_000


def test_augmentation():
    """Values stay within the network's range, and a cube's voxels are only moved, but for noise and contrast."""
    torch.manual_seed(0)
    cubes = torch.full((64, 2, 2, 32, 32, 32), -0.5)
    cubes[:, :, :, :4] = 0.5  # the lowest slices, which a flip moves to the top
    changed = augment(cubes)
    assert changed.shape == cubes.shape
    assert changed[:, :, 0].abs().max() <= 1
    is_hidden = (changed[:, :, 1] == -1).flatten(1).all(dim=1)
    assert 0.1 < is_hidden.float().mean() < 0.35
    logits = changed[~is_hidden][:, 0, 1]
    assert torch.equal(logits.flatten(1).sort(dim=1).values[0], cubes[0, 0, 1].flatten().sort().values)
    at_bottom = logits[:, 0, 16, 16] == 0.5
    assert 0.3 < at_bottom.float().mean() < 0.7


def test_validation():
    """The best candidate of each nodule counts, a nodule without one as 0; others by scan."""
    first = FindingExamples(np.empty((3, 2)), np.array([True, True, False]), [[0, 1]], 1)
    second = FindingExamples(np.empty((2, 2)), np.array([True, False]), [[0]], 0)
    is_nodule = np.concatenate([first.is_nodule, second.is_nodule])
    result = validate([first, second], np.array([0.2, 0.9, 0.4, 0.6, 0.1]), is_nodule)
    assert result.nodules == (0.0, 0.6, 0.9)
    assert result.false_positives == (0.1, 0.4)
    assert result.scan_count == 2
