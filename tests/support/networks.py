"""Networks whose logits are known."""

from pathlib import Path

import torch

from p2ch13.network.checkpoint import save_checkpoint
from p2ch13.network.model import BOOK_MODEL, UNetWrapper

PIXEL_MODEL = {**BOOK_MODEL, "depth": 1, "wf": 0}


def make_pixel_network(threshold_hu: float, weight: float = 1.0, bias: float = 0.0) -> UNetWrapper:
    """Build a U-Net of one level and one filter; the logit of a pixel is weight * max(HU - threshold, 0) + bias."""
    model = UNetWrapper(**PIXEL_MODEL)
    with torch.no_grad():
        first, _, _, second, _, _ = model.unet.down_path[0].block.children()
        for convolution, channel in ((first, 3), (second, 0)):
            convolution.get_parameter("weight").zero_()
            convolution.weight[0, channel, 1, 1] = 1
        first.get_parameter("bias").fill_(-threshold_hu)
        model.unet.last.get_parameter("weight").fill_(weight)
        model.unet.last.get_parameter("bias").fill_(bias)
    return model.eval()


def write_pixel_network(path: Path, threshold_hu: float, weight: float = 1.0, bias: float = 0.0) -> Path:
    model_state = make_pixel_network(threshold_hu, weight, bias).state_dict()
    save_checkpoint(path, {"model_state": model_state, "model_args": PIXEL_MODEL})
    return path
