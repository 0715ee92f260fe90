import pytest
import torch
from torch import nn

from p2ch13.network.model import BOOK_MODEL, UNetWrapper
from p2ch13.training.mining import batch_statistics


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
