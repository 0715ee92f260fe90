import pytest
import torch
from torch import nn

from p2ch13.checkpoint import load_checkpoint, load_model
from p2ch13.config import Folders
from p2ch13.datasets import Luna2dSegmentationDataset
from p2ch13.model import BOOK_MODEL, UNetWrapper
from util.unet import Conv2d, ConvTranspose2d, UNet


def test_keeps_the_size_of_any_slice():
    model = UNetWrapper(**BOOK_MODEL).eval()
    for rows, cols in [(64, 64), (33, 50), (5, 7)]:
        prob = model(torch.randn(2, 7, rows, cols))
        assert prob.shape == (2, 1, rows, cols)
        assert prob.dtype == torch.float32
        assert 0 <= prob.min() <= prob.max() <= 1


def test_padding_to_an_even_size_changes_nothing_far_from_the_edge():
    torch.manual_seed(0)
    model = UNetWrapper(**BOOK_MODEL).eval()
    ct_slices = torch.randn(1, 7, 96, 96)
    with torch.inference_mode():
        whole, cut = model(ct_slices), model(ct_slices[:, :, :95, :94])
    assert torch.allclose(whole[:, :, :60, :60], cut[:, :, :60, :60], atol=1e-5)


def test_the_papers_network_turns_572_pixels_into_388():
    assert UNet(depth=5, wf=1)(torch.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    wrapper = UNetWrapper(in_channels=1, n_classes=2, depth=5, wf=1, padding=False)
    assert wrapper(torch.zeros(2, 1, 572, 572)).shape == (2, 2, 388, 388)


def test_upsampling_in_place_of_transposed_convolution():
    model = UNetWrapper(**{**BOOK_MODEL, "up_mode": "upsample"})
    assert model(torch.zeros(2, 7, 64, 64)).shape == (2, 1, 64, 64)
    assert "unet.up_path.0.up.1.weight" in model.state_dict()
    with pytest.raises(ValueError, match="up_mode is 'magic'"):
        UNet(up_mode="magic")


def test_names_and_shapes_of_the_published_weights():
    state = UNetWrapper(**BOOK_MODEL).state_dict()
    assert len(state) == 81
    assert state["unet.down_path.2.block.3.weight"].shape == (64, 64, 3, 3)
    assert state["unet.up_path.0.up.weight"].shape == (64, 32, 2, 2)
    assert state["unet.up_path.1.conv_block.block.5.running_var"].shape == (16,)
    assert state["unet.last.weight"].shape == (1, 16, 1, 1)


@pytest.mark.parametrize(
    ("layer", "reference", "channels"),
    [
        (Conv2d(5, 3, 3, padding=1), nn.Conv2d(5, 3, 3, padding=1), (2, 3)),
        (Conv2d(5, 3, 3), nn.Conv2d(5, 3, 3), (5,)),
        (ConvTranspose2d(4, 2, 2, stride=2), nn.ConvTranspose2d(4, 2, 2, stride=2), (4,)),
    ],
)
def test_fast_convolutions_are_convolutions(layer, reference, channels):
    """Of several inputs as of their channels one after the other; with the same gradients."""
    torch.manual_seed(0)
    reference.load_state_dict(layer.state_dict())
    inputs = [torch.randn(2, count, 6, 8) for count in channels]
    y, expected = layer(*inputs), reference(torch.cat(inputs, dim=1))
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    for ours, theirs in zip(
        torch.autograd.grad(y, list(layer.parameters()), grad),
        torch.autograd.grad(expected, list(reference.parameters()), grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_blocks_of_pixels_and_projections_give_whole_slices():
    """Rows and cols that are no multiple of anything; one pixel's change reaches the output."""
    torch.manual_seed(0)
    model = UNetWrapper(projections=True, pixel_block=2, **{**BOOK_MODEL, "n_classes": 3}).eval()
    ct_slices = torch.randn(2, 7, 37, 50)
    assert model(ct_slices).shape == (2, 3, 37, 50)
    assert model.unet.down_path[0].block[0].in_channels == (7 + 2) * 4
    assert model.unet.last.out_channels == 3 * 4
    assert model.size_multiple == 8


def test_the_network_sees_projections():
    """The unet replaced by one that gives back its input's channels."""
    model = UNetWrapper(projections=True, **BOOK_MODEL).eval()
    model.unet = torch.nn.Identity()
    model.final = torch.nn.Identity()
    ct_slices = torch.randn(1, 7, 8, 8)
    out = model(ct_slices)
    expected = torch.cat([ct_slices, ct_slices.max(1, keepdim=True).values, ct_slices.min(1, keepdim=True).values], 1)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_blocks_of_pixels_are_put_back_in_place():
    model = UNetWrapper(pixel_block=2, **{**BOOK_MODEL, "n_classes": 7}).eval()
    model.unet = torch.nn.Identity()
    model.final = torch.nn.Identity()
    ct_slices = torch.randn(1, 7, 8, 12)
    torch.testing.assert_close(model(ct_slices), ct_slices, rtol=1e-4, atol=1e-4)


def test_batch_norm_makes_of_hu_what_a_network_can_use():
    torch.manual_seed(0)
    model = UNetWrapper(**BOOK_MODEL)
    normalised = model.input_batchnorm(torch.randn(16, 7, 64, 64) * 400 - 600)
    assert normalised.mean().item() == pytest.approx(0, abs=1e-4)
    assert normalised.std().item() == pytest.approx(1, abs=1e-3)


def test_weights_start_from_kaiming_normal():
    """Standard deviation sqrt(2 / fan_out); fan_out of a 3x3 convolution to 64 channels is 9 * 64."""
    torch.manual_seed(0)
    model = UNetWrapper(**BOOK_MODEL)
    weight = model.unet.down_path[2].block[3].weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    assert weight.mean().item() == pytest.approx(0, abs=0.002)
    assert not model.unet.last.bias.any()


def test_learns_one_sample():
    torch.manual_seed(0)
    model = UNetWrapper(**BOOK_MODEL)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    ct_slices = torch.full((4, 7, 32, 32), -900.0) + 20 * torch.randn(4, 7, 32, 32)
    label = torch.zeros(4, 1, 32, 32)
    label[:, :, 10:20, 12:22] = 1
    ct_slices[:, :, 10:20, 12:22] += 900
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy(model(ct_slices), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_the_books_weights_load(book_checkpoint):
    model = load_model(book_checkpoint)
    published = load_checkpoint(book_checkpoint)["model_state"]
    model.load_state_dict(published, strict=True)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in published.items())
    assert not model.training


def test_the_books_weights_find_a_nodule(book_checkpoint, luna_sample, tmp_path):
    """Were a layer, its order or an activation another than the book's, they would not."""
    model = load_model(book_checkpoint)
    val_ds = Luna2dSegmentationDataset(3, True, folders=Folders(luna_sample, tmp_path))
    hu, label, _, slice_ndx = val_ds[5]
    with torch.inference_mode():
        is_predicted = model(hu.unsqueeze(0))[0] > 0.5
    assert slice_ndx == 7
    assert (is_predicted & label).sum() > 0.9 * label.sum()
    assert is_predicted.float().mean() < 0.05
