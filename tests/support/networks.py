"""Networks whose logits are known, and a predictor that needs none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from p2ch13.network.checkpoint import save_checkpoint
from p2ch13.network.model import BOOK_MODEL, UNetWrapper

CARD = {
    "name": "tiny 1",
    "trained_on": "two\nlungs",
    "limits": "for tests alone",
    "operating_point": "a probability of 0.5",
}
PIXEL_MODEL = {**BOOK_MODEL, "depth": 1, "wf": 0}


def make_pixel_network(threshold_hu: float, weight: float = 1.0, bias: float = 0.0) -> UNetWrapper:
    """Build a U-Net of one level and one filter; the logit of a pixel is weight * max(HU - threshold, 0) + bias."""
    model = UNetWrapper(**PIXEL_MODEL)
    with torch.no_grad():
        for layer, channel in ((0, 3), (3, 0)):  # both convolutions hand on one pixel of one channel
            kernel = model.unet.get_parameter(f"down_path.0.block.{layer}.weight")
            kernel.zero_()[0, channel, 1, 1] = 1
        model.unet.get_parameter("down_path.0.block.0.bias").fill_(-threshold_hu)
        model.unet.get_parameter("last.weight").fill_(weight)
        model.unet.get_parameter("last.bias").fill_(bias)
    return model.eval()


def write_pixel_network(
    path: Path, threshold_hu: float, weight: float = 1.0, bias: float = 0.0, **more: object
) -> Path:
    """Write the .state file of such a network. Args: more: further keys of the file."""
    model_state = make_pixel_network(threshold_hu, weight, bias).state_dict()
    save_checkpoint(path, {"model_state": model_state, "model_args": PIXEL_MODEL, **more})
    return path


def write_released_network(path: Path, trained_series: Sequence[str] = (), **more: Any) -> Path:
    """Write a network, as the package's own is, that marks all balls of the tiny scans."""
    return write_pixel_network(path, -700, card=CARD, trained_series=list(trained_series), **more)


def is_dense(ct_slices: torch.Tensor) -> torch.Tensor:
    """Predict the masks of all balls of the tiny scans: (batch, 7, row, col) HU -> (batch, 1, row, col) bool."""
    return ct_slices[:, 3:4] > -700
