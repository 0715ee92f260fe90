"""Steps, epochs and validations of any network, on batches that are made up of tensors alone."""

from functools import partial

import pytest
import torch
from torch import nn

from p2ch13.config import NODULE_LOGIT, LossOptions
from p2ch13.network.compute import Compute
from p2ch13.network.model import LogitNetwork
from p2ch13.training.loop import train_one_epoch, train_step, validate
from p2ch13.training.losses import segmentation_loss
from p2ch13.training.totals import EpochTotals
from p2ch13.util.threads import ThreadTuner
from tests.support.tiny_network import TinyNetwork

COMPUTE = Compute(torch.device("cpu"), torch.float32)
THREADS = ThreadTuner([1], lambda count: None)
LOSS = partial(segmentation_loss, options=LossOptions(cross_entropy=1.0))


class NoAugmentation(nn.Module):
    def forward(self, *batch):
        return batch


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TinyNetwork()


@pytest.fixture
def batches():
    """Tissue is nodule; the second batch has none."""
    label = torch.zeros(2, 4, 1, 16, 16, dtype=torch.bool)
    label[0, :, :, 4:9, 5:11] = True
    ct_slices = torch.where(label, 0.0, -900.0).expand(-1, -1, 7, -1, -1) + 10 * torch.randn(2, 4, 7, 16, 16)
    return [(*batch, ["1.2.3"] * 4, torch.arange(4)) for batch in zip(ct_slices, label, strict=True)]


def make_step(network):
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    arguments = {"loss": LOSS, "optimizer": optimizer, "augment": NoAugmentation(), "compute": COMPUTE}
    return partial(train_step, model=LogitNetwork(network), **arguments)


def test_an_epoch_learns_and_reports_each_step(network, batches):
    step, losses, seen = make_step(network), [], []
    for _ in range(30):
        totals = EpochTotals(COMPUTE.device)
        train_one_epoch(
            step, batches, totals, lambda batch, result: seen.append((batch, result.losses.mean().item())), THREADS
        )
        losses.append(totals.scores().loss)
        assert losses[-1] == pytest.approx(sum(loss for _, loss in seen[-2:]) / 2)
    assert all(batch is expected for (batch, _), expected in zip(seen, batches, strict=False))
    assert losses[-1] < 0.3 * losses[0]


def test_a_step_that_is_not_finite_changes_nothing(network, batches):
    step = make_step(network)
    step(*batches[0][:2])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = step(batches[0][0] * torch.inf, batches[0][1])
    assert result.faults.tolist() == [True, True, True]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_validation_by_hand(network, batches):
    network.eval()
    of_nodules, of_all = validate(network, batches, LOSS, COMPUTE, lambda *_: None, THREADS)
    assert (of_nodules.sample_count, of_all.sample_count) == (4, 8)
    predicted = torch.cat([network.logits(ct_slices) for ct_slices, *_ in batches]) > NODULE_LOGIT
    label = torch.cat([label for _, label, *_ in batches])
    scores = of_all.reduce(LossOptions(), "a validation")
    assert scores.recall == pytest.approx(predicted[label].float().mean().item())
    assert scores.precision == pytest.approx(label[predicted].float().mean().item())
    losses = [LOSS(network.logits(ct_slices), label)[0] for ct_slices, label, *_ in batches]
    assert scores.loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)
