"""UNetWrapper: from slices in HU to the probability that each pixel is nodule."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from p2ch13.config import CONTEXT_SLICES_COUNT
from p2ch13.util.unet import UNet

# The network of the chapter, and of every .state file that the book published.
BOOK_MODEL: dict[str, Any] = {
    "in_channels": 2 * CONTEXT_SLICES_COUNT + 1,
    "n_classes": 1,
    "depth": 3,
    "wf": 4,
    "padding": True,
    "batch_norm": True,
    "up_mode": "upconv",
    "activation": "relu",
}
# Files that were written before `model_args` named the activation hold networks of this one.
UNNAMED_ACTIVATION = "leaky_relu"


class UNetWrapper(nn.Module):
    """BatchNorm2d -> UNet -> Sigmoid: takes HU as they are and gives probabilities, or the logits before the sigmoid.

    Training, thresholds and rankings use the logits: above 16.6 a float32 sigmoid is 1, and all that is left of a
    certain finding's rank, and of a certain error's gradient, is lost in it.

    With `padding=True` the output has the rows and columns of the input, whatever these are; without it the output is
    smaller, as in the original U-Net (572 -> 388 at depth 5).

    Args:
        intensity_projections: add the maximum and minimum intensity projections of the normalized slices as channels.
            In the maximum, a vessel that crosses the slices is a line; in the minimum, one that is upright remains.
        space_to_depth: fold n x n pixels into channels before the U-Net and unfold them after it, which costs less for
            the same rows and columns. Source: Shi et al. (2016), https://arxiv.org/abs/1609.05158
        kwargs: those of `p2ch13.util.unet.UNet`; `in_channels` are the slices, `n_classes` the channels of the output.
    """

    def __init__(self, intensity_projections: bool = False, space_to_depth: int = 1, **kwargs: Any) -> None:
        super().__init__()
        self.intensity_projections = intensity_projections
        self.space_to_depth = space_to_depth
        self.in_channels, self.n_classes = kwargs["in_channels"], kwargs["n_classes"]
        self.input_batchnorm = nn.BatchNorm2d(self.in_channels)
        channels_in_block = {
            "in_channels": (self.in_channels + 2 * intensity_projections) * space_to_depth**2,
            "n_classes": self.n_classes * space_to_depth**2,
        }
        self.unet = UNet(**{**kwargs, **channels_in_block})
        self.final = nn.Sigmoid()
        self.slice_spacing_mm = 0.0  # between the slices that it has been trained on, see `Ct.context_indexes`
        self.has_padding = bool(kwargs.get("padding"))
        depth = self.unet.depth
        # Every level but the lowest halves rows and columns, which must come out even for the way back up.
        self.size_multiple = space_to_depth * (2 ** (depth - 1) if self.has_padding else 1)
        self.reach = space_to_depth * find_reach(depth, kwargs.get("up_mode", "upconv"))
        self._init_weights()

    @property
    def device(self) -> torch.device:
        return self.unet.last.weight.device

    def _init_weights(self) -> None:
        """Kaiming normal, fan_out, for ReLU; He et al. (2015), https://arxiv.org/abs/1502.01852. Biases start at 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, input_batch: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, row, col) in HU -> (batch, n_classes, row, col), float32, each 0..1."""
        return self.final(self.logits(input_batch))  # type: ignore[no-any-return]

    def logits(self, input_batch: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, row, col) in HU -> (batch, n_classes, row, col), float32: log(p / (1 - p))."""
        rows, cols = input_batch.shape[2:]
        extra_rows, extra_cols = -rows % self.size_multiple, -cols % self.size_multiple
        x = self.input_batchnorm(input_batch)
        if extra_rows or extra_cols:
            x = F.pad(x, (0, extra_cols, 0, extra_rows), mode="replicate")
        if self.intensity_projections:
            x = torch.cat([x, x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True)], dim=1)
        if self.space_to_depth > 1:
            x = F.pixel_shuffle(self.unet(F.pixel_unshuffle(x, self.space_to_depth)), self.space_to_depth)
        else:
            x = self.unet(x)
        if extra_rows or extra_cols:
            x = x[:, :, :rows, :cols]
        return x  # type: ignore[no-any-return]


class LogitNetwork(nn.Module):
    """A `UNetWrapper` whose call gives logits: what training wraps, which replaces a module's call and nothing else."""

    def __init__(self, model: UNetWrapper) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_batch: torch.Tensor) -> torch.Tensor:
        """See `UNetWrapper.logits`."""
        return self.model.logits(input_batch)


def find_reach(depth: int, up_mode: str) -> int:
    """How many pixels away, along rows and cols, an input pixel can be that a U-Net's output pixel depends on.

    Two 3x3 convolutions at each level on the way down and on the way up, whose pixels are twice as large at each level;
    where in a pooled pixel it lies; and of "upsample" the neighbors that are interpolated.
    """
    size: int = 2 ** (depth - 1)  # of a pixel of the lowest level
    down, up = 2 * (2 * size - 1), 2 * (size - 1)
    return down + up + size + (2 * size if up_mode == "upsample" else 0)
