"""MONAI as a peer does what the package does: same crops, batches, loss and, window by window, logits."""

from itertools import islice

import numpy as np
import pytest
import torch

from benchmarks.measure import SMOKE, Setup
from benchmarks.monai_peer import (
    MonaiTraining,
    is_installed,
    keep_middle_slice,
    make_augmentation,
    make_loader,
    make_searcher,
    make_transforms,
)
from benchmarks.plain import BATCH_SIZE
from p2ch13.config import BOOK_AUGMENTATION, HU_MIN, LossOptions
from p2ch13.network.model import BOOK_MODEL, BOOK_NETWORK, build_network
from p2ch13.training.losses import segmentation_loss

pytestmark = pytest.mark.skipif(not is_installed(), reason="needs MONAI")


@pytest.fixture
def scan():
    """A scan (index, row, col) of noise whose label is where it is dense, in its middle slice and away from edges."""
    hu = np.random.default_rng(0).integers(-1000, -500, size=(7, 100, 110)).astype(np.float32)
    hu[3, 40:60, 45:60] = 1200
    return {"image": hu, "label": hu > 0}


def test_crops(scan):
    from monai.transforms import Compose

    crops = Compose(make_transforms().transforms[: -len(make_augmentation())])(scan)
    assert len(crops) == 4
    for crop in crops:
        image, label = np.asarray(crop["image"]), np.asarray(crop["label"])
        assert (image.shape, label.shape) == ((7, 64, 64), (1, 64, 64))
        assert np.array_equal(label[0].astype(bool), image[3] == 1000)  # clipped
        assert label[0, 32, 32]  # around a voxel of the nodule


def test_augmentation(scan):
    (crop, *_) = make_transforms()(scan)
    assert crop["image"].shape == (7, 64, 64)
    assert set(np.unique(crop["label"])) <= {0, 1}
    noise = make_augmentation()[-1]
    flat = noise({"image": torch.full((7, 64, 64), float(HU_MIN))})["image"]
    assert float(flat.std()) == pytest.approx(BOOK_AUGMENTATION["noise"], rel=0.05)


def test_middle_slice():
    assert keep_middle_slice(torch.arange(7).reshape(7, 1, 1)).tolist() == [[[3]]]


def test_loss():
    """Dice and cross-entropy have the same weight in both; the package's Dice has a term against 0/0 of 1."""
    from monai.losses import DiceCELoss

    logits, label = torch.randn(4, 1, 16, 16), torch.rand(4, 1, 16, 16) > 0.9
    theirs = DiceCELoss(sigmoid=True, smooth_nr=1, smooth_dr=1)(logits, label.float())
    ours = segmentation_loss(logits, label, LossOptions(fn_weight=0.0, cross_entropy=1.0))[0].mean()
    torch.testing.assert_close(theirs, ours)


@pytest.mark.parametrize("worker_count", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_training(folders, tmp_path, worker_count):
    setup = Setup(folders.data_dir, tmp_path / "cache", val_stride=2, sizes=SMOKE)
    training = MonaiTraining(make_loader(setup, worker_count))
    before = [parameter.clone() for parameter in training.model.parameters()]
    batches = list(islice(training.train(20), 9))
    assert sum(map(len, batches)) == 20
    assert max(map(len, batches)) <= BATCH_SIZE
    assert all(crops.shape[1:] == (7, 64, 64) and crops.dtype == torch.float32 for crops in batches)
    assert any(not torch.equal(*pair) for pair in zip(before, training.model.parameters(), strict=True))


def test_search():
    """Whole slices where one window holds them, else nearly the same: windows end within the network's reach."""
    model = build_network(BOOK_NETWORK, BOOK_MODEL).eval()
    search = make_searcher(model)
    slices = torch.randn(1, 7, 64, 64) * 300
    with torch.inference_mode():
        torch.testing.assert_close(search(slices), model.logits(slices))
        wide = torch.randn(1, 7, 64, 112) * 300
        found, whole = search(wide), model.logits(wide)
    assert found.shape == whole.shape
    reach = model.receptive_field // 2
    torch.testing.assert_close(found[..., : 48 - reach], whole[..., : 48 - reach], rtol=1e-3, atol=1e-3)
