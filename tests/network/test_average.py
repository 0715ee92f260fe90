"""Several networks as one."""

import pytest
import torch

from p2ch13.network.average import AveragedNetworks
from p2ch13.network.model import BOOK_MODEL, UNetWrapper
from tests.support.networks import PIXEL_MODEL, make_pixel_network
from tests.support.tiny_network import TinyNetwork

# HU of one row, and the logits of two networks: weight * max(HU - threshold, 0) + bias
HU = [-1000.0, -500.0, 0.0, 100.0]
LOGITS_BY_HAND = [
    [-1.0, -1.0, 999.0, 1199.0],  # threshold -500, weight 2, bias -1
    [2.0, 2.0, 2.0, -23.0],  # threshold 0, weight -0.25, bias 2
]
MEAN_BY_HAND = [0.5, 0.5, 500.5, 588.0]


def test_the_mean_of_the_logits_pixel_by_pixel():
    members = [make_pixel_network(-500, 2, -1), make_pixel_network(0, -0.25, 2)]
    for member in members:  # the normalization of the input as it is before training: x / sqrt(1 + 1e-5)
        member.input_batchnorm.eps = 0.0
        member.unet.down_path[0].block[2].eps = member.unet.down_path[0].block[5].eps = 0.0
    ct_slices = torch.tensor(HU).view(1, 1, 1, 4).expand(2, 7, 3, 4)
    averaged = AveragedNetworks(members).eval()
    with torch.inference_mode():
        for member, expected in zip(members, LOGITS_BY_HAND, strict=True):
            assert member.logits(ct_slices)[1, 0, 2].tolist() == pytest.approx(expected, abs=1e-3)
        assert averaged.logits(ct_slices)[1, 0, 2].tolist() == pytest.approx(MEAN_BY_HAND, abs=1e-3)
        assert torch.equal(averaged(ct_slices), averaged.logits(ct_slices).sigmoid())


def test_one_member_is_itself():
    torch.manual_seed(0)
    member = TinyNetwork().eval()
    ct_slices = torch.randn(1, 7, 8, 9) * 300
    with torch.inference_mode():
        assert torch.equal(AveragedNetworks([member]).logits(ct_slices), member.logits(ct_slices))


def test_what_detection_has_to_know():
    """Blocks of 12 pixels are whole blocks of 4 and of 6; the margin is that of the deeper network."""
    folded = UNetWrapper(**{**PIXEL_MODEL, "depth": 2}, space_to_depth=3, slice_spacing_mm=2.0)
    deep = UNetWrapper(**BOOK_MODEL, slice_spacing_mm=2.0)
    assert (folded.size_multiple, deep.size_multiple) == (6, 4)
    averaged = AveragedNetworks([folded, deep])
    assert (averaged.size_multiple, averaged.slice_spacing_mm, averaged.has_padding) == (12, 2.0, True)
    assert averaged.receptive_field == max(folded.receptive_field, deep.receptive_field)
    assert (averaged.in_channels, averaged.n_classes, averaged.device) == (7, 1, torch.device("cpu"))


@pytest.mark.parametrize("other", [{"slice_spacing_mm": 2.0}, {"in_channels": 3}, {"n_classes": 2}])
def test_networks_of_other_inputs_or_outputs(other):
    with pytest.raises(ValueError, match="inputs or outputs"):
        AveragedNetworks([UNetWrapper(**PIXEL_MODEL), UNetWrapper(**{**PIXEL_MODEL, **other})])
