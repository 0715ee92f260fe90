import numpy as np
import pytest
import torch

from p2ch13.config import SamplingOptions
from p2ch13.data.sampling import EpochSampler, check_memory, choose_negative_slices, deal, find_steps, share_steps
from p2ch13.util.process_rank import ProcessRank
from tests.support.checks import refused


def draw(
    crop_count=3, samples_per_epoch=40, epoch_ndx=1, nodule_crop_counts=(1, 1, 1), step_size=8, seed=0, **sampling
):
    """Draw an epoch's samples of three nodules and `crop_count` crops, nodules first."""
    options = SamplingOptions(**sampling)
    diameters_mm, offset_counts = (12, 10, 6), (33, 20)
    sampler = EpochSampler(
        nodule_crop_counts, diameters_mm, crop_count, offset_counts, samples_per_epoch, seed, options=options
    )
    return sampler.draw(epoch_ndx, find_steps(samples_per_epoch, step_size, 1))


def most_often(crop_ndxs):
    """Count the most frequent crop."""
    return np.bincount(crop_ndxs).max()


def test_every_window_offset_occurs():
    samples = draw(samples_per_epoch=5000)
    crops, row_offsets, col_offsets = samples.places
    assert crops.tolist() == samples.crop_ndxs.tolist()
    assert set(row_offsets.tolist()) == set(range(33))
    assert set(col_offsets.tolist()) == set(range(20))


def test_nodules_are_sampled_equally_often():
    assert np.bincount(draw(samples_per_epoch=30).crop_ndxs).tolist() == [10, 10, 10]


def test_nodules_are_sampled_equally_often_with_several_crops():
    counts = np.bincount(draw(13, 900, nodule_crop_counts=(5, 5, 3)).crop_ndxs)
    assert len(counts) == 13
    assert counts.min() > 0
    assert [counts[:5].sum(), counts[5:10].sum(), counts[10:].sum()] == [300, 300, 300]


def test_diameter_weighted_sampling():
    counts = np.bincount(draw(samples_per_epoch=7000, weight_by_diameter=True).crop_ndxs)
    assert counts == pytest.approx([3000, 2500, 1500], abs=200)  # standard deviations of up to 41


def test_negatives_are_spread_evenly():
    samples = draw(crop_count=13, negatives=0.5)
    assert samples.is_negative.tolist() == [False, True] * 20
    assert np.bincount(samples.crop_ndxs[::2]).min() == 6
    assert np.bincount(samples.crop_ndxs[1::2]).tolist() == [0, 0, 0] + [2] * 10
    assert draw(crop_count=13, negatives=0.25).is_negative.tolist() == [False, False, False, True] * 10


def test_each_pass_has_an_order_of_its_own():
    """Deal 7 items in steps of 3; passes end inside steps."""
    dealt = np.concatenate(deal(np.random.default_rng(1), 7, [3] * 70))
    passes = {tuple(dealt[start : start + 7].tolist()) for start in range(0, 210, 7)}
    assert len(passes) == 30
    assert all(sorted(one) == list(range(7)) for one in passes)


@pytest.mark.parametrize("step_size", [1, 2, 3, 4, 5, 7, 11, 16])
def test_nothing_is_dealt_twice_in_a_step_if_there_is_enough(step_size):
    """With 7 items, an item comes at most twice in a step of 11 and three times in one of 16."""
    steps = deal(np.random.default_rng(2), 7, [step_size] * 200)
    assert max(most_often(step) for step in steps) == -(-step_size // 7)
    counts = np.bincount(np.concatenate(steps))
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("batch_size", "processes"), [(8, 1), (8, 2), (16, 1)])
def test_no_nodule_comes_twice_in_a_step(batch_size, processes):
    """20 nodules and an epoch of 25 passes."""
    sampler = EpochSampler([1] * 20, [8.0] * 20, 20, (33, 33), 500)
    steps = find_steps(500, batch_size, processes)
    crop_ndxs = sampler.draw(1, steps).crop_ndxs
    assert max(most_often(step) for step in np.split(crop_ndxs, steps[1:-1])) == 1
    assert np.bincount(crop_ndxs).tolist() == [25] * 20


@pytest.mark.parametrize("negative_crops", [24, 50, 97])
def test_negatives_of_a_step_share_no_crop(negative_crops):
    """4 negatives of 6 candidates in a step need 24 crops; there are as many, or more."""
    crop_count = 3 + negative_crops
    samples = draw(crop_count, 800, negatives=0.5, hard_negative_candidates=6)
    candidates = samples.candidates[0, :, 1::2].T.reshape(100, 24).numpy()  # of each step
    assert all(most_often(step) == 1 for step in candidates)
    counts = np.bincount(candidates.ravel(), minlength=crop_count)[3:]
    assert counts.max() - counts.min() <= 1


def test_with_few_crops_a_negative_has_several_places_in_one():
    """10 crops for 4 negatives of 6 candidates: each negative has 2 crops of its own."""
    samples = draw(13, 400, negatives=0.5, hard_negative_candidates=6)
    candidates = samples.candidates[:, :, 1::2].reshape(3, 6, 50, 4)
    for step_ndx in range(50):
        crops_of_each = [set(candidates[0, :, step_ndx, ndx].tolist()) for ndx in range(4)]
        assert [len(crops) for crops in crops_of_each] == [2] * 4
        assert len(set.union(*crops_of_each)) == 8
    places = {tuple(place) for place in candidates[:, :, 0, 0].T.tolist()}
    assert len(places) == 6  # the first negative: 2 crops, each at several places


def test_each_negative_takes_its_own_hardest():
    """2 negatives with 3 candidates each; the 3 hardest of all 6 are the first one's."""
    samples = draw(crop_count=13, samples_per_epoch=4, step_size=4, negatives=0.5, hard_negative_candidates=3)
    by_hand = torch.tensor([[0.7, 0.2], [0.9, 0.1], [0.8, 0.3]])  # (candidate, negative)
    hardness = torch.zeros(13).index_put((samples.candidates[0, :, [1, 3]],), by_hand)
    hardest = samples.find_hardest(slice(0, 4), hardness)
    assert torch.equal(hardest[:, ::2], samples.places[:, ::2])  # nodules keep their place
    assert torch.equal(hardest[:, 1], samples.candidates[:, 1, 1])
    assert torch.equal(hardest[:, 3], samples.candidates[:, 2, 3])


def test_the_hardest_of_all_negatives():
    samples = draw(crop_count=13, negatives=0.5, hard_negative_candidates=3)
    hardest = samples.find_hardest(slice(8, 16), torch.arange(13.0))
    assert torch.equal(hardest[:, ::2], samples.places[:, 8:16:2])
    assert hardest[0, 1::2].tolist() == samples.candidates[0, :, 9:16:2].amax(0).tolist()
    assert set(samples.candidates[0, :, 1::2].flatten().tolist()) == set(range(3, 13))


def test_of_equal_scores_the_first_candidate_is_used():
    samples = draw(crop_count=13, negatives=0.5, hard_negative_candidates=3)
    same = samples.find_hardest(slice(0, 8), torch.zeros(13))
    assert torch.equal(same, samples.places[:, :8])


def test_samples_depend_on_seed_and_epoch():
    places = draw(seed=1).places
    assert torch.equal(places, draw(seed=1).places)
    assert not torch.equal(places, draw(seed=2).places)
    assert not torch.equal(places, draw(seed=1, epoch_ndx=2).places)


def test_steps():
    assert find_steps(40, 16, 1) == [0, 16, 32, 40]
    assert find_steps(32, 16, 1) == [0, 16, 32]
    assert find_steps(40, 8, 2) == [0, 16, 32, 40]
    assert find_steps(33, 8, 2) == [0, 16, 33]  # one sample is too few for a step of two processes
    assert find_steps(5, 8, 4) == [0, 5]


def test_processes_share_every_step():
    assert share_steps(40, 16, ProcessRank()) == [slice(0, 16), slice(16, 32), slice(32, 40)]
    assert share_steps(33, 8, ProcessRank(rank=0, world_size=2)) == [slice(0, 8), slice(16, 24)]
    assert share_steps(33, 8, ProcessRank(rank=1, world_size=2)) == [slice(8, 16), slice(24, 33)]


@pytest.mark.parametrize(
    ("slice_count", "positive_indexes", "share", "expected"),
    [
        (100, [], 1.0, [12, 37, 62, 87]),  # a scan without nodules
        (100, range(10, 20), 0.0, []),
        # the 4th, 13th, ... of 0..9 and 20..99: 90 slices for 10
        (100, range(10, 20), 1.0, [4, 23, 32, 41, 50, 59, 68, 77, 86, 95]),
        (6, [2, 3], 9.0, [0, 1, 4, 5]),
        (3, [0, 1, 2], 1.0, []),
    ],
)
def test_negative_slices(slice_count, positive_indexes, share, expected):
    assert choose_negative_slices(slice_count, positive_indexes, share) == expected


@pytest.mark.parametrize(
    ("sample_count", "options", "fits"),
    [
        (300_000, SamplingOptions(), True),  # 24 MB
        (12_500_000, SamplingOptions(), True),  # 1 GB
        (12_500_001, SamplingOptions(), False),
        (3_125_000, SamplingOptions(negatives=0.5, hard_negative_candidates=4), True),
        (3_125_001, SamplingOptions(negatives=0.5, hard_negative_candidates=4), False),
        (3_000_000_000, SamplingOptions(), False),
        (99_999_999_999_999, SamplingOptions(), False),
    ],
)
def test_samples_that_memory_does_not_hold_are_refused_before_any_is_drawn(sample_count, options, fits):
    if fits:
        check_memory(sample_count, options, available_bytes=1e9)
    else:
        with refused(option="--samples-per-epoch"):
            check_memory(sample_count, options, available_bytes=1e9)
