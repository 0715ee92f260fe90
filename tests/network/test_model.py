import numpy as np
import pytest
import torch

import p2ch13.config
import p2ch13.util.unet
from p2ch13.config import Folders
from p2ch13.data.ct import Ct
from p2ch13.data.datasets import Luna2dSegmentationDataset
from p2ch13.network.checkpoint import load_checkpoint, load_model
from p2ch13.network.model import BOOK_MODEL, UNetWrapper
from p2ch13.util.unet import UNet, UNetConvBlock


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


def test_blocks_of_pixels_and_projections_give_whole_slices():
    """Rows and cols that are no multiple of anything; one pixel's change reaches the output."""
    torch.manual_seed(0)
    model = UNetWrapper(intensity_projections=True, space_to_depth=2, **{**BOOK_MODEL, "n_classes": 3}).eval()
    ct_slices = torch.randn(2, 7, 37, 50)
    assert model(ct_slices).shape == (2, 3, 37, 50)
    assert model.unet.down_path[0].block[0].in_channels == (7 + 2) * 4
    assert model.unet.last.out_channels == 3 * 4
    assert model.size_multiple == 8


@pytest.mark.parametrize("arguments", [{"intensity_projections": True}, {"space_to_depth": 2, "n_classes": 7}])
def test_the_network_sees_projections_and_blocks_are_put_back_in_place(arguments):
    """The unet replaced by one that gives back its input's channels."""
    model = UNetWrapper(**{**BOOK_MODEL, **arguments}).eval()
    model.unet = torch.nn.Identity()
    ct_slices = torch.randn(1, 7, 8, 12)
    expected = [ct_slices]
    if "intensity_projections" in arguments:
        expected += [ct_slices.amax(1, keepdim=True), ct_slices.amin(1, keepdim=True)]
    torch.testing.assert_close(model.logits(ct_slices), torch.cat(expected, 1), rtol=1e-4, atol=1e-4)


def test_batch_norm_makes_of_hu_what_a_network_can_use():
    torch.manual_seed(0)
    model = UNetWrapper(**BOOK_MODEL)
    normalized = model.input_batchnorm(torch.randn(16, 7, 64, 64) * 400 - 600)
    assert normalized.mean().item() == pytest.approx(0, abs=1e-4)
    assert normalized.std().item() == pytest.approx(1, abs=1e-3)


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


def test_the_books_weights_compute_what_the_books_code_does(book_checkpoint, luna_sample):
    """The book's own network has marked this slice; see the README beside it."""
    reference = np.load(book_checkpoint.parent / "reference_lidc0001_slice7.npz")["prob"]
    (path,) = luna_sample.rglob("*179049373636438705059720603192.mhd")
    hu = torch.from_numpy(Ct(path).get_slice(7, 3)).float()
    with torch.inference_mode():
        prob = load_model(book_checkpoint)(hu[np.newaxis])[0, 0].numpy()
    assert np.abs(prob - reference).max() < 1e-3
    assert (prob > 0.5).sum() == (reference > 0.5).sum() == 4001


def book_unet_by_hand(x: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """The book's network, written out in NumPy and float64: (7, row, col) HU -> (row, col) probability.

    A convolution is a sum over the nine places of its kernel, each a shifted copy of the input with zeros around it.
    """

    def batch_norm(x, name):
        mean, var, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    def convolve(x, name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        reach = weight.shape[2] // 2
        padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
        rows, cols = x.shape[1:]
        places = [(row, col) for row in range(weight.shape[2]) for col in range(weight.shape[3])]
        shifted = [np.tensordot(weight[:, :, r, c], padded[:, r : r + rows, c : c + cols], 1) for r, c in places]
        return sum(shifted) + bias[:, None, None]

    def block(x, name):
        for first in (0, 3):
            x = batch_norm(np.maximum(convolve(x, f"{name}.block.{first}"), 0), f"{name}.block.{first + 2}")
        return x

    def up(x, name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]  # (in, out, 2, 2)
        y = np.empty((weight.shape[1], 2 * x.shape[1], 2 * x.shape[2]))
        for row in range(2):
            for col in range(2):
                y[:, row::2, col::2] = np.tensordot(weight[:, :, row, col].T, x, 1)
        return y + bias[:, None, None]

    def pool(x):
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4

    top = block(batch_norm(x, "input_batchnorm"), "unet.down_path.0")
    middle = block(pool(top), "unet.down_path.1")
    x = block(pool(middle), "unet.down_path.2")
    for ndx, bridge in enumerate((middle, top)):
        x = np.concatenate([up(x, f"unet.up_path.{ndx}.up"), bridge])
        x = block(x, f"unet.up_path.{ndx}.conv_block")
    return 1 / (1 + np.exp(-convolve(x, "unet.last")[0]))


def test_the_books_network_by_hand():
    """Seeded weights and statistics, against an implementation of its own."""
    rng = np.random.default_rng(0)
    model = UNetWrapper(**BOOK_MODEL).double().eval()
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.dtype != torch.float64:  # the count of batches
            continue
        spread = 2 / tensor[0].numel() ** 0.5 if tensor.ndim > 1 else 0.5
        tensor.copy_(torch.from_numpy(rng.normal(0, spread, tuple(tensor.shape))))
        if name.endswith("running_var"):
            tensor.abs_().add_(0.5)
    state["input_batchnorm.running_mean"].fill_(-600)
    state["input_batchnorm.running_var"].fill_(400.0**2)
    hu = rng.normal(-600, 400, (7, 16, 20))
    with torch.inference_mode():
        prob = model(torch.from_numpy(hu)[np.newaxis])[0, 0].numpy()
    expected = book_unet_by_hand(hu, {name: tensor.numpy() for name, tensor in state.items()})
    assert expected.std() > 0.01
    np.testing.assert_allclose(prob, expected, rtol=1e-5)


@pytest.mark.parametrize(("activation", "expected"), [("relu", 0.0), ("leaky_relu", -0.0001)])
def test_activations_by_hand(activation, expected):
    """A block that turns 1 into -1, and gives what the activation leaves of it to another activation."""
    block = UNetConvBlock(1, 1, padding=True, batch_norm=False, activation=activation)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.block[0].weight[0, 0, 1, 1] = -1
        block.block[2].weight[0, 0, 1, 1] = 1
    assert block(torch.ones(1, 1, 1, 1)).item() == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ValueError, match="activation is 'tanh'"):
        UNet(activation="tanh")


def test_every_activation_of_the_command_line_exists():
    assert tuple(p2ch13.util.unet.ACTIVATIONS) == p2ch13.config.ACTIVATIONS


def test_logits_are_float32_under_autocast():
    """In bfloat16 those from 8 to 16 would have 129 values."""
    torch.manual_seed(0)
    model = UNetWrapper(**BOOK_MODEL).eval()
    seen = []
    model.unet.last.register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    ct_slices = torch.randn(1, 7, 64, 64) * 400 - 600
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        logits = model.logits(ct_slices)
        prob = model(ct_slices)
    assert seen == [(torch.float32, torch.float32)] * 2
    assert logits.dtype == prob.dtype == torch.float32
    assert len(logits.unique()) > 3000
    torch.testing.assert_close(prob, logits.sigmoid())


def test_reach_of_networks_by_hand():
    """Two convolutions of a pixel each, of 1, 2 and 4 pixels' size: down 14, up 6, and 4 for where pooling begins."""
    assert UNetWrapper(**BOOK_MODEL).receptive_field == 2 * 24 + 1
    assert UNetWrapper(**BOOK_MODEL, space_to_depth=2).receptive_field == 2 * 48 + 1
    assert UNetWrapper(**{**BOOK_MODEL, "depth": 5}).receptive_field == 2 * 108 + 1
    assert UNetWrapper(**{**BOOK_MODEL, "depth": 1}).receptive_field == 2 * 3 + 1


def test_the_books_weights_find_a_nodule(book_checkpoint, luna_sample, tmp_path):
    model = load_model(book_checkpoint)
    val_ds = Luna2dSegmentationDataset(3, True, folders=Folders(luna_sample, tmp_path))
    hu, label, _, slice_ndx = val_ds[5]
    with torch.inference_mode():
        is_predicted = model(hu.unsqueeze(0))[0] > 0.5
    assert slice_ndx == 7
    assert (is_predicted & label).sum() > 0.9 * label.sum()
    assert is_predicted.float().mean() < 0.05
