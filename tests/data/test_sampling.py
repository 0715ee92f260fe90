import numpy as np
import pytest
import torch

from p2ch13.data.sampling import EpochSampler, deal, find_steps, share_steps
from p2ch13.util.launch import Launch


def draw(crop_count=3, samples_per_epoch=40, epoch_ndx=1, nodule_crop_counts=(1, 1, 1), step_size=8, **choices):
    """Of three nodules, whose crops are the first ones."""
    sampler = EpochSampler(nodule_crop_counts, (12, 10, 6), crop_count, (33, 20), samples_per_epoch, **choices)
    return sampler.draw(epoch_ndx, find_steps(samples_per_epoch, step_size, 1))


def most_often(crop_ndxs):
    """How often the most frequent one comes."""
    return np.bincount(crop_ndxs).max()


def test_every_place_of_the_window_occurs():
    samples = draw(samples_per_epoch=5000)
    crops, row_offsets, col_offsets = samples.places
    assert crops.tolist() == samples.crop_ndxs.tolist()
    assert set(row_offsets.tolist()) == set(range(33))
    assert set(col_offsets.tolist()) == set(range(20))


def test_every_nodule_is_seen_as_often():
    assert np.bincount(draw(samples_per_epoch=30).crop_ndxs).tolist() == [10, 10, 10]


def test_every_nodule_is_seen_as_often_with_several_crops():
    counts = np.bincount(draw(13, 900, nodule_crop_counts=(5, 5, 3)).crop_ndxs)
    assert len(counts) == 13
    assert counts.min() > 0
    assert [counts[:5].sum(), counts[5:10].sum(), counts[10:].sum()] == [300, 300, 300]


def test_a_large_nodule_is_drawn_more_often():
    counts = np.bincount(draw(samples_per_epoch=7000, weight_by_diameter=True).crop_ndxs)
    assert counts == pytest.approx([3000, 2500, 1500], abs=200)  # standard deviations of up to 41


def test_negatives_are_spread_evenly():
    samples = draw(crop_count=13, negatives=0.5)
    assert samples.is_negative.tolist() == [False, True] * 20
    assert np.bincount(samples.crop_ndxs[::2]).min() == 6
    assert np.bincount(samples.crop_ndxs[1::2]).tolist() == [0, 0, 0] + [2] * 10
    assert draw(crop_count=13, negatives=0.25).is_negative.tolist() == [False, False, False, True] * 10


def test_each_pass_has_an_order_of_its_own():
    """Of 7 items in steps of 3, some of which a pass ends in."""
    dealt = np.concatenate(deal(np.random.default_rng(1), 7, [3] * 70))
    passes = {tuple(dealt[start : start + 7].tolist()) for start in range(0, 210, 7)}
    assert len(passes) == 30
    assert all(sorted(one) == list(range(7)) for one in passes)


@pytest.mark.parametrize("step_size", [1, 2, 3, 4, 5, 7, 11, 16])
def test_nothing_is_dealt_twice_in_a_step_if_there_is_enough(step_size):
    """Of 7 items; or if there is not, as often as it must be: 2 times in 11, 3 times in 16."""
    steps = deal(np.random.default_rng(2), 7, [step_size] * 200)
    assert max(most_often(step) for step in steps) == -(-step_size // 7)
    counts = np.bincount(np.concatenate(steps))
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("batch_size", "processes"), [(8, 1), (8, 2), (16, 1)])
def test_no_nodule_comes_twice_in_a_step(batch_size, processes):
    """20 nodules, in an epoch of 25 passes."""
    sampler = EpochSampler([1] * 20, [8.0] * 20, 20, (33, 33), 500)
    steps = find_steps(500, batch_size, processes)
    crop_ndxs = sampler.draw(1, steps).crop_ndxs
    assert max(most_often(step) for step in np.split(crop_ndxs, steps[1:-1])) == 1
    assert np.bincount(crop_ndxs).tolist() == [25] * 20


@pytest.mark.parametrize("negative_crops", [24, 50, 97])
def test_no_negative_has_a_crop_that_another_of_its_step_has(negative_crops):
    """6 candidates for each of 4 in a step: 24 crops, which are as many as there are, or fewer."""
    crop_count = 3 + negative_crops
    samples = draw(crop_count, 800, negatives=0.5, hard_negative_candidates=6)
    candidates = samples.candidates[0, :, 1::2].T.reshape(100, 24).numpy()  # of each step
    assert all(most_often(step) == 1 for step in candidates)
    counts = np.bincount(candidates.ravel(), minlength=crop_count)[3:]
    assert counts.max() - counts.min() <= 1


def test_with_few_crops_negatives_have_several_places_in_one():
    """10 crops for 4 negatives of 6 candidates each: 2 crops for each, which no other one has."""
    samples = draw(13, 400, negatives=0.5, hard_negative_candidates=6)
    candidates = samples.candidates[:, :, 1::2].reshape(3, 6, 50, 4)
    for step_ndx in range(50):
        crops_of_each = [set(candidates[0, :, step_ndx, ndx].tolist()) for ndx in range(4)]
        assert [len(crops) for crops in crops_of_each] == [2] * 4
        assert len(set.union(*crops_of_each)) == 8
    places = {tuple(place) for place in candidates[:, :, 0, 0].T.tolist()}
    assert len(places) == 6  # of one negative: 2 crops, each cut at several places


def test_each_negative_takes_its_own_hardest():
    """2 negatives with 3 places each; the 3 hardest of all 6 are the first one's."""
    samples = draw(crop_count=13, samples_per_epoch=4, step_size=4, negatives=0.5, hard_negative_candidates=3)
    by_hand = torch.tensor([[0.7, 0.2], [0.9, 0.1], [0.8, 0.3]])  # (place, negative)
    hardest = samples.find_hardest(slice(0, 4), lambda _: by_hand.flatten())
    assert torch.equal(hardest[:, ::2], samples.places[:, ::2])  # nodules stay as they are drawn
    assert torch.equal(hardest[:, 1], samples.candidates[:, 1, 1])
    assert torch.equal(hardest[:, 3], samples.candidates[:, 2, 3])


def test_the_hardest_by_a_rating_that_tells_places_apart():
    """Here their row."""
    samples = draw(crop_count=13, negatives=0.5, hard_negative_candidates=3)
    hardest = samples.find_hardest(slice(8, 16), lambda places: places[1])
    assert torch.equal(hardest[:, ::2], samples.places[:, 8:16:2])
    assert hardest[1, 1::2].tolist() == samples.candidates[1, :, 9:16:2].amax(0).tolist()
    assert set(samples.candidates[0, :, 1::2].flatten().tolist()) == set(range(3, 13))


def test_without_a_rating_the_first_place_is_taken():
    samples = draw(crop_count=13, negatives=0.5, hard_negative_candidates=3)
    same = samples.find_hardest(slice(0, 8), lambda places: torch.zeros(places.shape[1]))
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
    assert find_steps(33, 8, 2) == [0, 16, 33]  # the last sample is not enough for a step of two processes
    assert find_steps(5, 8, 4) == [0, 5]


def test_processes_share_every_step():
    assert share_steps(40, 16, Launch()) == [slice(0, 16), slice(16, 32), slice(32, 40)]
    assert share_steps(33, 8, Launch(rank=0, world_size=2)) == [slice(0, 8), slice(16, 24)]
    assert share_steps(33, 8, Launch(rank=1, world_size=2)) == [slice(8, 16), slice(24, 33)]
