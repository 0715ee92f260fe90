import pytest
import torch
from torch import nn

from p2ch13.network.checkpoint import UNREADABLE
from p2ch13.network.compute import Compute
from p2ch13.network.model import BOOK_MODEL, UNetWrapper
from p2ch13.training.mining import HardNegatives, batch_statistics, score_crops
from p2ch13.util.process_rank import ProcessRank


@pytest.fixture
def model():
    torch.manual_seed(0)
    return UNetWrapper(**BOOK_MODEL)


def test_a_batch_is_normalized_by_its_own_statistics():
    """By hand: 0 and 2 HU have mean 1 and deviation 1; running statistics begin at 0 and 1."""
    norm = nn.BatchNorm2d(1)
    norm.eval()
    with batch_statistics(norm):
        values = norm(torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)).flatten()
    assert values.tolist() == pytest.approx([-1, 1], abs=1e-4)


@pytest.mark.parametrize("is_training", [True, False])
def test_a_model_computes_as_in_training_and_is_left_as_it_was(model, is_training):
    crops = torch.randn(6, 7, 64, 64) * 300 - 600
    model.train(is_training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad(), batch_statistics(model):
        prediction = model(crops)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(module.training is is_training for module in model.modules())
    model.train()
    with torch.no_grad():
        assert torch.allclose(prediction, model(crops), atol=1e-6)


def test_statistics_come_back_after_an_error(model):
    with pytest.raises(ZeroDivisionError), batch_statistics(model):
        _ = 1 / 0
    assert model.input_batchnorm.running_mean is not None


NODULE_COUNT, NEGATIVE_COUNT = 3, 20


class Brightness(nn.Module):
    """A network whose logit is a pixel's HU and a bias."""

    bias = 0.0

    def logits(self, ct_slices):
        return ct_slices[:, 3:4] + self.bias


class Store:
    """Crops of air; negative n has a square of n HU in its middle, and 900 HU at its margin and in its nodule."""

    nodule_crop_counts = (2, 1)
    crop_list = range(NODULE_COUNT + NEGATIVE_COUNT)
    windows = torch.empty(1).expand(len(crop_list), 7, 33, 33, 64, 64)

    def cut_windows(self, places):
        assert places[1:].unique().tolist() == [16]  # the middle of 96 rows and cols
        hu = torch.full((places.shape[1], 7, 64, 64), -1000.0)
        masks = torch.zeros(len(hu), 1, 64, 64, dtype=torch.bool)
        hu[:, 3, 20:40, 20:40] = (places[0] - NODULE_COUNT).view(-1, 1, 1).float()
        hu[:, 3, :16], hu[:, 3, 44:48, 44:48], masks[:, :, 44:48, 44:48] = 900, 900, True
        return hu, masks


def make_mining(network=None, sample_count=0):
    compute = Compute(torch.device("cpu"), torch.float32)
    return HardNegatives(Store(), network or Brightness(), compute, ProcessRank(), sample_count)


def test_crops_are_scored_one_after_the_other():
    """16 of them for 32 samples of training, and 4 more complete a pass over 20."""
    mining = make_mining()
    scored = []
    for sample_count in (0, 31, 32, 63, 64, 96):
        mining.follow(sample_count)
        scored.append(int((mining.hardness > -1000).sum()))
    assert scored == [0, 0, 16, 16, 20, 20]
    assert sorted(mining.negatives.tolist()) == list(range(NODULE_COUNT, NODULE_COUNT + NEGATIVE_COUNT))
    assert (mining.hardness[:NODULE_COUNT] < -1000).all()  # nodules are no negatives
    assert mining.hardness[NODULE_COUNT:].tolist() == list(range(NEGATIVE_COUNT))


def test_the_middle_is_scored():
    """A score is the mean of the 20 highest pixels, 16 from the edge at least; pixels 8 from the edge are computed."""

    class Seen(Brightness):
        def logits(self, ct_slices):
            self.shape = ct_slices.shape
            return super().logits(ct_slices)

    network, hu = Seen(), torch.zeros(1, 7, 64, 64)
    hu[:, :, 16, 16:48], hu[:, :, 15] = 10.0, 1000.0
    compute = Compute(torch.device("cpu"), torch.float32)
    assert score_crops(hu, torch.zeros(1, 1, 64, 64, dtype=torch.bool), network, compute).tolist() == [10.0]
    nodule = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    nodule[..., 16, 16:38] = True  # 10 of the 32 high pixels are left
    assert score_crops(hu, nodule, network, compute).tolist() == [5.0]
    assert network.shape == (1, 7, 48, 48)


def test_scores_follow_the_network():
    network = Brightness()
    mining = make_mining(network)
    mining.follow(64)  # 32 crops: all 20, and 12 once more
    network.bias = 5.0
    mining.follow(96)  # the other 8 of the second pass, and 8 of the third
    rise = mining.hardness[NODULE_COUNT:] - torch.arange(float(NEGATIVE_COUNT))
    expected = torch.zeros(NEGATIVE_COUNT)
    expected[mining.negatives[12:] - NODULE_COUNT] = expected[mining.negatives[:8] - NODULE_COUNT] = 5.0
    assert torch.equal(rise, expected)


def test_a_saved_state_continues():
    one, other = make_mining(), make_mining()
    one.follow(32)
    other.load_state_dict(one.state_dict())
    for mining in (one, other):
        mining.follow(64)
    assert torch.equal(one.hardness, other.hardness)
    assert one.scored_count == other.scored_count == 32


def test_a_run_that_had_no_scores_begins_where_it_is():
    """It does not score for all samples before; 1,000 of them would be 500 crops."""
    mining = make_mining(sample_count=1000)
    mining.follow(1031)
    assert (mining.hardness < -1000).all()
    mining.follow(1032)
    assert int((mining.hardness > -1000).sum()) == 16


@pytest.mark.parametrize("state", [7, {}, {"hardness": torch.zeros(1), "scored_count": 0}, {"hardness": [1.0]}])
def test_a_corrupt_state_is_refused(state):
    with pytest.raises(UNREADABLE):
        make_mining().load_state_dict(state)
