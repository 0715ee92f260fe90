"""The benchmarks' plain version does what the package does: the speed of two different things cannot be compared."""

from itertools import islice

import numpy as np
import pytest
import torch

from benchmarks.plain import PlainCt, PlainData, PlainTraining, PlainTrainingDataset, PlainValidationDataset, precache
from p2ch13.config import Folders
from p2ch13.data.cache import CtCache
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.graphs import seed_epoch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compares float32 on a CPU")

SAMPLES = 96  # six steps


@pytest.fixture
def plain(folders, tmp_path):
    plain_folders = Folders(folders.data_dir, tmp_path / "plain-cache")
    data = PlainData(plain_folders)
    precache(plain_folders, sorted(data.scans))
    return data


@pytest.fixture
def app(data_options):
    options = ["--samples-per-epoch", str(SAMPLES), "--augmented", "--precision", "fp32"]
    return SegmentationTrainingApp([*data_options, *options])


def test_masks(folders, plain):
    ct_cache = CtCache.open(folders)
    for series_uid, path in plain.scans.items():
        ct = ct_cache.index.get_ct(series_uid)
        assert np.array_equal(PlainCt(path, plain.nodules[series_uid]).positive_mask, ct.positive_mask)
        assert plain.get_positive_indexes(series_uid) == ct.positive_indexes


def assert_same_samples(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for ndx in range(len(ours)):
        for ours_part, theirs_part in zip(ours[ndx][:2], theirs[ndx], strict=True):
            assert ours_part.dtype == theirs_part.dtype
            assert torch.equal(ours_part, theirs_part)


def test_training_samples(folders, plain):
    ours = TrainingLuna2dSegmentationDataset(2, False, samples_per_epoch=20, seed=3, folders=folders)
    theirs = PlainTrainingDataset(plain, plain.split(2, False), samples_per_epoch=20, seed=3)
    theirs.shuffle_samples(1)
    assert_same_samples(ours, theirs)


def test_validation_samples(folders, plain):
    ours = Luna2dSegmentationDataset(2, True, folders=folders)
    theirs = PlainValidationDataset(plain, plain.split(2, True))
    assert ours.sample_list == theirs.sample_list
    assert_same_samples(ours, theirs)


def copy_weights(source, target):
    """Parameters and running statistics; the two networks have theirs in the same order."""
    ours, theirs = ((*network.parameters(), *network.buffers()) for network in (source, target))
    for from_value, to_value in zip(ours, theirs, strict=True):
        to_value.data.copy_(from_value.data)


@pytest.fixture
def both(app, plain):
    """The same first weights and the same samples, in float64: the package's training, plain training, their data."""
    training = PlainTraining(app.learner.augmentation_model)
    copy_weights(app.segmentation_model, training.model)
    for network in (app.segmentation_model, training.model):
        network.double()
    train_ds, plain_ds = app.init_train_ds(), PlainTrainingDataset(plain, plain.split(2, False), SAMPLES)
    for dataset in (train_ds, plain_ds):
        dataset.shuffle_samples(1)
    app.learner.training_model.train()
    samples = (plain_ds[ndx] for ndx in range(SAMPLES))
    return app, training, train_ds, [(hu.double(), mask) for hu, mask in samples]


def test_losses_step_by_step(both):
    """With the same weights in both before every step, and in float64.

    In float32 BatchNorm enlarges the rounding of channels that hardly vary in scans as simple as these, and Adam's
    first steps follow the sign of gradients that are next to zero.
    """
    app, training, train_ds, plain_ds = both
    plain_losses = training.train(plain_ds)
    for step, (ct_slices, label_mask, *_) in enumerate(islice(train_ds.batches(app.config.batch_size), 3)):
        copy_weights(app.segmentation_model, training.model)
        seed_epoch(0, step, 0)
        result = app.learner.train_step(ct_slices.double(), label_mask)
        seed_epoch(0, step, 0)
        torch.testing.assert_close(result.losses, next(plain_losses), rtol=1e-6, atol=0)
    assert step == 2


@pytest.mark.slow
def test_losses_of_two_runs(both):
    """In float64, where six steps are too few for rounding to grow: the two runs go their own ways."""
    app, training, train_ds, plain_ds = both
    seed_epoch(0, 1, 0)
    ours = [
        app.learner.train_step(ct_slices.double(), label_mask).losses
        for ct_slices, label_mask, *_ in train_ds.batches(app.config.batch_size)
    ]
    seed_epoch(0, 1, 0)
    theirs = list(training.train(plain_ds))
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-4, atol=0)
    assert ours[-1].mean() < 0.9 * ours[0].mean()  # the steps have moved the weights
