"""Samples of backgrounds in the batches of a training, and the hard places that a network finds."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from p2ch13.config import TrainingConfig
from p2ch13.network.checkpoint import UNREADABLE
from p2ch13.network.compute import Compute
from p2ch13.training.background_samples import (
    FIRST_SCORED,
    LEAST_LOGIT,
    SLICE_SAMPLES,
    BackgroundSamples,
    find_peaks,
    round_at_random,
)
from p2ch13.training.painter import Painter, draw_size, find_width, is_visible
from p2ch13.training.painting import PaintedVoxels, ScannerLook
from p2ch13.training.shapes import make_shapes
from p2ch13.util.process_rank import ProcessRank
from tests.support.background_files import read_one
from tests.support.painted_shapes import make_ball

SHAPES = make_shapes(30, seed=0)
OTHER_HU = 77.0  # of samples that are not of backgrounds


class Marks(nn.Module):
    """A network whose logit is 3 at the voxels of so many HU, and -9 elsewhere."""

    def __init__(self, hu):
        super().__init__()
        self.hu = hu

    def logits(self, ct_slices):
        return torch.where(ct_slices[:, 3:4] == self.hu, 3.0, -9.0)


def make_samples(backgrounds, share=0.5, rank=0, seed=0, model=None):
    learner = SimpleNamespace(
        process=ProcessRank(rank, 2),
        evaluated_model=model or Marks(999),
        compute=Compute(torch.device("cpu"), torch.float32),
    )
    config = TrainingConfig(background_share=share, seed=seed)
    return BackgroundSamples(backgrounds, Painter(SHAPES), config, learner)


def make_batches(size, count):
    for _ in range(count):
        hu, masks = torch.full((size, 7, 64, 64), OTHER_HU), torch.zeros(size, 1, 64, 64, dtype=torch.bool)
        yield hu, masks, ["other"] * size, torch.full((size,), -1)


def mix(samples, size=8, count=1, epoch_ndx=1, first_step=0):
    return list(samples.mix_in(make_batches(size, count), epoch_ndx, first_step))


@pytest.fixture(scope="module")
def background(tmp_path_factory):
    return read_one(tmp_path_factory.mktemp("lungs"))


@pytest.mark.parametrize(
    ("share", "size", "replaced", "painted"),
    [(0.5, 8, 4, 2), (1, 8, 8, 4), (0, 8, 0, 0), (0.25, 8, 2, 1), (0.5, 4, 2, 1), (1, 2, 2, 1)],
)
def test_a_share_of_each_batch_is_replaced(background, share, size, replaced, painted):
    for ct_slices, masks, series_uids, slice_ndxs in mix(make_samples([background], share), size, count=4):
        is_other = (ct_slices == OTHER_HU).flatten(1).all(dim=1)
        assert is_other.tolist() == [*replaced * [False], *(size - replaced) * [True]]
        assert masks.flatten(1).any(dim=1)[painted:].sum() == 0
        assert series_uids == [*replaced * ["a"], *(size - replaced) * ["other"]]
        assert (slice_ndxs[:replaced] >= 0).all()
        assert (slice_ndxs[replaced:] == -1).all()
        assert ct_slices.dtype == torch.float32
        assert (ct_slices.abs() <= 1000).all()


@pytest.mark.parametrize(("share", "size"), [(0.5, 1), (1, 1), (0.5, 3), (0.3, 5)])
def test_odd_numbers_are_kept_on_average(background, share, size):
    """So are batches of one sample: half of those of backgrounds hold a nodule."""
    batches = mix(make_samples([background], share), size, count=300)
    of_backgrounds = sum(uids.count("a") for _, _, uids, _ in batches)
    painted = sum(int(masks.flatten(1).any(dim=1).sum()) for _, masks, _, _ in batches)
    assert of_backgrounds / (300 * size) == pytest.approx(share, abs=0.1)
    assert painted / of_backgrounds == pytest.approx(0.5, abs=0.15)  # a few have none in the slice itself


def test_painted_samples_have_twins_without_the_nodule(background):
    """8 of 16 are painted, 4 of these once more without; beyond the nodule's blur the pair is the same."""
    ((hu, masks, _, slice_ndxs),) = mix(make_samples([background], 1.0), 16)
    for painted, twin in zip(range(4), range(8, 12), strict=True):
        differs = hu[painted] != hu[twin]
        assert 0 < differs.float().mean() < 0.5
        assert slice_ndxs[painted] == slice_ndxs[twin]
        marked = masks[painted, 0]
        assert not masks[twin].any()
        if marked.any():
            assert (hu[painted, 3][marked] - hu[twin, 3][marked]).mean() > 50
        assert not differs.any(dim=0).all()
    assert not any(torch.equal(hu[one], hu[other]) for one in range(8) for other in range(8) if one != other)


def test_a_step_draws_the_same_again_and_others_others(background):
    samples = make_samples([background])
    one, again = (mix(samples, count=2)[1][0] for _ in range(2))
    assert torch.equal(one, again)
    assert torch.equal(one, mix(samples, first_step=1)[0][0])  # as resumed after a step
    others = [
        mix(samples, epoch_ndx=2, first_step=1),
        mix(samples, first_step=2),
        mix(make_samples([background], seed=1), first_step=1),
        mix(make_samples([background], rank=1), first_step=1),
    ]
    assert not any(torch.equal(one, batch[0]) for (batch,) in others)


def test_negatives_and_nodules_keep_clear_of_lesions(tmp_path):
    """Of a scan that is 384 mm wide; windows are 192 mm: those over one lung may show a lesion of the other's edge."""
    background = read_one(tmp_path, [((4, 40, 30), 20.0)])
    batches = mix(make_samples([background], 1.0), 8, count=12)
    of_lung = [uids.count("a") for _, _, uids, _ in batches]
    assert sum(of_lung) > 40
    hidden = background.hu.copy()
    hidden[:, 34:47, 24:37] = 555  # the lesion, 10 mm and a margin of 4 mm around it
    background.hu[:] = hidden
    for ct_slices, *_ in mix(make_samples([background], 1.0), 8, count=12):
        shown = (ct_slices[:, 3] == 555).flatten(1)
        corner_voxels = 4 * 13**2 / 4  # of the square, which is larger than the ball and its margin
        assert (shown.sum(dim=1) < corner_voxels).all()


def test_a_lung_that_is_all_lesion_gives_no_samples(tmp_path):
    background = read_one(tmp_path, [((4, 40, 64), 600.0)])
    ((hu, _, series_uids, _),) = mix(make_samples([background], 1.0), 4)
    assert (hu == OTHER_HU).all()
    assert series_uids == ["other"] * 4


def test_a_network_finds_hard_places(tmp_path):
    """Two spots of 300 HU in slice 4, of which one lies in a known lesion."""
    background = read_one(tmp_path, [((4, 40, 86), 20.0)])
    background.hu[4, 50, 44] = background.hu[4, 41, 86] = 300
    samples = make_samples([background], model=Marks(300))
    samples.follow(FIRST_SCORED - 1)
    assert len(samples.hard_places) == 0
    samples.follow(FIRST_SCORED + SLICE_SAMPLES * 8)
    assert samples.scored_count == 8  # all slices
    assert samples.hard_places.tolist() == [[0, 4, 50, 44, 3]]
    windows = [samples._draw_negative(np.random.default_rng(seed)) for seed in range(60)]
    shows = [bool((window.hu[3] == 300).any()) for window in windows]
    assert np.mean(shows) > 0.6  # three quarters, and some by chance
    assert not any(window.mask.any() for window in windows)
    background.hu[4, 50, 44] = -860  # what is no longer marked is no longer hard
    samples.follow(FIRST_SCORED + SLICE_SAMPLES * 16)
    assert len(samples.hard_places) == 0


def test_scoring_leaves_the_model_as_it_was(background):
    model = Marks(300).train()
    samples = make_samples([background], model=model)
    samples.follow(FIRST_SCORED + SLICE_SAMPLES)
    assert model.training


def test_a_saved_state_continues(background):
    background_samples_ = [make_samples([background], model=Marks(-1000)) for _ in range(2)]
    one, other = background_samples_
    one.follow(FIRST_SCORED + 3 * SLICE_SAMPLES)
    assert len(one.hard_places) > 0
    other.load_state_dict(one.state_dict())
    for samples in background_samples_:
        samples.follow(FIRST_SCORED + 5 * SLICE_SAMPLES)
    assert np.array_equal(one.hard_places, other.hard_places)
    assert one.scored_count == other.scored_count == 5
    batches = [mix(samples, first_step=7)[0][0] for samples in background_samples_]
    assert torch.equal(*batches)


@pytest.mark.parametrize(
    "state",
    [
        7,
        {},
        {"hard_places": torch.zeros(3, 4), "scored_count": 0},
        {"hard_places": [1.0], "scored_count": 0},
        {"hard_places": torch.tensor([[1.0, 0, 0, 0, 0]]), "scored_count": 0},  # of a second background
    ],
)
def test_a_corrupt_state_is_refused(background, state):
    with pytest.raises(UNREADABLE):
        make_samples([background]).load_state_dict(state)


def test_peaks_are_apart():
    """Two beside each other are one; a lone one below -6 is none."""
    logits = np.full((100, 100), -9.0, np.float32)
    logits[20, 20], logits[20, 30], logits[70, 20], logits[70, 80] = 2, 1, 4, LEAST_LOGIT - 1
    assert find_peaks(logits) == [(70, 20, 4.0), (20, 20, 2.0)]


def test_rounding_keeps_whole_numbers_and_means():
    rng = np.random.default_rng(0)
    assert [round_at_random(rng, number) for number in (0, 1.0, 4)] == [0, 1, 4]
    assert np.mean([round_at_random(rng, 2.25) for _ in range(4000)]) == pytest.approx(2.25, abs=0.03)


def test_sizes_are_those_in_scope():
    rng = np.random.default_rng(0)
    sizes = np.array([draw_size(rng) for _ in range(2000)])
    assert (sizes.min() >= 3, sizes.max() <= 35) == (True, True)
    assert 0.2 < (sizes < 6).mean() < 0.6
    assert 0.05 < (sizes > 15).mean() < 0.4


def test_shapes_are_of_the_size_that_is_painted():
    """Within a factor of 1.3; of the 20 next ones where there are fewer."""
    shapes = [make_ball(diameter_mm) for diameter_mm in np.linspace(3, 33, 301)]
    painter = Painter(shapes)
    chosen = [painter.choose_shape(np.random.default_rng(seed), 10.0).diameter_mm for seed in range(200)]
    assert 10 / 1.3 <= min(chosen) < 8.5
    assert 12 < max(chosen) <= 13
    chosen = [painter.choose_shape(np.random.default_rng(seed), 60.0).diameter_mm for seed in range(200)]
    assert set(np.round(chosen, 1)) == {round(31.1 + ndx / 10, 1) for ndx in range(20)}
    assert Painter(shapes[:3]).choose_shape(np.random.default_rng(0), 20.0) in shapes[:3]


@pytest.mark.parametrize(
    ("rise_hu", "voxels", "noise_hu", "diameter_mm", "expected"),
    [
        (410, 4, 20, 3, True),
        (390, 4, 20, 3, False),
        (130, 400, 20, 10, True),
        (110, 400, 20, 10, False),
        (260, 1, 90, 8, False),
        (260, 4, 90, 8, True),
        (0, 0, 20, 8, False),
    ],
)
def test_visible_nodules(rise_hu, voxels, noise_hu, diameter_mm, expected):
    """More than 1200 HU mm, and than 3 deviations of the mean over its voxels: 270 HU of one with a noise of 90 HU."""
    before = np.zeros((1, 20, 20), dtype=np.int16)
    side = math.isqrt(voxels)
    mask = np.zeros(before.shape, dtype=bool)
    mask[0, :side, :side] = True
    scanner = SimpleNamespace(look=ScannerLook(0.5, noise_hu), vx_size_irc=np.array([5.0, 4.0, 4.0]))
    assert is_visible(before, before + rise_hu * mask, PaintedVoxels(mask, diameter_mm), scanner) == expected


@pytest.mark.parametrize(("width", "expected"), [(9, True), (5, True), (3, False), (1, False)])
def test_a_rim_of_the_wall_is_not_visible(width, expected):
    """Of a nodule of 9 mm, the wall leaves so many pixels of 0.9 mm: at least half of its diameter must be left."""
    before = np.zeros((2, 20, 20), dtype=np.int16)
    mask = np.zeros(before.shape, dtype=bool)
    mask[0, 2:11, :width] = True
    assert find_width(mask, 0.9) == pytest.approx(width * 0.9)
    scanner = SimpleNamespace(look=ScannerLook(0.5, 20.0), vx_size_irc=np.array([5.0, 0.9, 0.9]))
    assert is_visible(before, before + 800 * mask, PaintedVoxels(mask, 9.0), scanner) == expected
