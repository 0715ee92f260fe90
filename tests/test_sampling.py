import numpy as np
import pytest
import torch

from p2ch13.sampling import EpochSampler, find_steps, share_steps
from util.launch import Launch


def draw(crop_count=3, samples_per_epoch=40, epoch_ndx=1, nodule_crop_counts=(1, 1, 1), **choices):
    """Of three nodules, whose crops are the first ones."""
    sampler = EpochSampler(nodule_crop_counts, (12, 10, 6), crop_count, (33, 20), samples_per_epoch, **choices)
    return sampler.draw(epoch_ndx)


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
    counts = np.bincount(draw(samples_per_epoch=7000, balance_sizes=True).crop_ndxs)
    assert counts == pytest.approx([3000, 2500, 1500], abs=200)  # standard deviations of up to 41


def test_negatives_are_spread_evenly():
    samples = draw(crop_count=13, negatives=0.5)
    assert samples.is_negative.tolist() == [False, True] * 20
    assert np.bincount(samples.crop_ndxs[::2]).min() == 6
    assert np.bincount(samples.crop_ndxs[1::2]).tolist() == [0, 0, 0] + [2] * 10
    assert draw(crop_count=13, negatives=0.25).is_negative.tolist() == [False, False, False, True] * 10


def test_the_hardest_of_all_places_is_taken():
    """By a rating that tells places apart, here their row; nodules stay as they are drawn."""
    samples = draw(crop_count=13, negatives=0.5, hard_negatives=3)
    hardest = samples.find_hardest(slice(8, 16), lambda places: places[1])
    assert torch.equal(hardest[:, ::2], samples.places[:, 8:16:2])
    rows = samples.places[1, 9:16:2].tolist() + samples.rivals[1, :, 9:16:2].flatten().tolist()
    assert hardest[1, 1::2].tolist() == sorted(rows, reverse=True)[:4]
    assert set(samples.rivals[0].flatten().tolist()) == set(range(3, 13))


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
