"""Networks that map slices in HU to logits; UNetWrapper is the book's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from p2ch13.config import CONTEXT_SLICES_COUNT, NETWORKS
from p2ch13.util.errors import InputError
from p2ch13.util.names import find_class
from p2ch13.util.unet import UNet

BOOK_NETWORK = "unet"  # a key of NETWORKS
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
# The activation of files written before `model_args` named it.
UNNAMED_ACTIVATION = "leaky_relu"


class SegmentationNetwork(nn.Module):
    """Base class of networks: a subclass computes logits from HU, and declares what detection has to know.

    `--network package.module:Class` trains a subclass. Its constructor takes plain arguments; training gives
    `slice_spacing_mm` alone. Losses, thresholds and rankings use logits: above 16.6 a float32 sigmoid is 1, which
    loses the rank of a certain finding and the gradient of a certain error.

    Args: slice_spacing_mm: spacing of the context slices, see `Ct.context_indexes`; 0: adjacent slices.
    Attributes:
        in_channels, n_classes: slices of the input, channels of the output.
        has_padding: whether the output has the rows and columns of the input.
        size_multiple: rows and columns are processed in blocks of this many pixels.
        receptive_field: pixels across of the square of input that an output pixel depends on.
    Raises: ValueError if the spacing is negative or not finite.
    """

    in_channels: int = 2 * CONTEXT_SLICES_COUNT + 1
    n_classes: int = 1
    has_padding: bool = True
    size_multiple: int = 1
    receptive_field: int

    def __init__(self, slice_spacing_mm: float = 0.0) -> None:
        super().__init__()
        if not 0 <= slice_spacing_mm < math.inf:
            raise ValueError(f"slices {slice_spacing_mm} mm apart")
        self.slice_spacing_mm = slice_spacing_mm

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def logits(self, input_batch: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, row, col) in HU -> (batch, n_classes, row, col), float32: log(p / (1 - p))."""
        raise NotImplementedError

    def forward(self, input_batch: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, row, col) in HU -> (batch, n_classes, row, col), float32, each 0..1."""
        return self.logits(input_batch).sigmoid()


class UNetWrapper(SegmentationNetwork):
    """BatchNorm2d -> UNet -> Sigmoid, as in the book.

    With `padding=True` the output has the rows and columns of the input, whatever these are; without it the output is
    smaller, as in the original U-Net (572 -> 388 at depth 5).

    Args:
        intensity_projections: add the maximum and minimum intensity projections of the normalized slices as channels.
            In the maximum, a vessel that crosses the slices is a line; in the minimum, one that is upright remains.
        space_to_depth: fold n x n pixels into channels before the U-Net and unfold them after it, which costs less for
            the same rows and columns. Source: Shi et al. (2016), https://arxiv.org/abs/1609.05158
        slice_spacing_mm: see `SegmentationNetwork`.
        kwargs: those of `p2ch13.util.unet.UNet`; `in_channels` are the slices, `n_classes` the channels of the output.
    """

    def __init__(
        self,
        intensity_projections: bool = False,
        space_to_depth: int = 1,
        slice_spacing_mm: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(slice_spacing_mm)
        self.intensity_projections = intensity_projections
        self.space_to_depth = space_to_depth
        self.in_channels, self.n_classes = kwargs["in_channels"], kwargs["n_classes"]
        self.input_batchnorm = nn.BatchNorm2d(self.in_channels)
        folded_channels = {
            "in_channels": (self.in_channels + 2 * intensity_projections) * space_to_depth**2,
            "n_classes": self.n_classes * space_to_depth**2,
        }
        self.unet = UNet(**{**kwargs, **folded_channels})
        self.has_padding = bool(kwargs.get("padding"))
        depth = self.unet.depth
        # Every level but the lowest halves rows and columns, which must come out even for the way back up.
        self.size_multiple = space_to_depth * (2 ** (depth - 1) if self.has_padding else 1)
        self.receptive_field = 2 * space_to_depth * find_reach(depth, kwargs.get("up_mode", "upconv")) + 1
        self._init_weights()

    def _init_weights(self) -> None:
        """Kaiming normal, fan_out, for ReLU; He et al. (2015), https://arxiv.org/abs/1502.01852. Biases start at 0."""
        if self.input_batchnorm.weight.is_meta:  # has no values; PyTorch would import its compiler to draw none
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

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
        return x[:, :, :rows, :cols]  # type: ignore[no-any-return]


class LogitNetwork(nn.Module):
    """A network whose call gives logits: DistributedDataParallel and torch.compile wrap a module's call alone."""

    def __init__(self, model: SegmentationNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_batch: torch.Tensor) -> torch.Tensor:
        """See `SegmentationNetwork.logits`."""
        return self.model.logits(input_batch)


def build_network(name: str, arguments: Mapping[str, Any]) -> SegmentationNetwork:
    """Build a network, one of `NETWORKS` or `package.module:Class`, whose module is imported.

    Raises: InputError if there is no such class of networks; ValueError, TypeError or LookupError for arguments that
        it does not take.
    """
    network_class = find_class(name, NETWORKS, "--network")
    if not (isinstance(network_class, type) and issubclass(network_class, SegmentationNetwork)):
        raise InputError(f"{name} is no subclass of {__name__}.SegmentationNetwork", option="--network")
    network = network_class(**arguments)
    if not hasattr(network, "receptive_field"):
        raise InputError(f"{name} declares no receptive_field", option="--network")
    return network


def find_reach(depth: int, up_mode: str) -> int:
    """Count the pixels, along rows and columns, over which a U-Net's input pixel can change an output pixel.

    Two 3x3 convolutions at each level on the way down and on the way up, whose pixels are twice as large at each level;
    the position in a pooled pixel; and, for "upsample", the neighbors that are interpolated.
    """
    size: int = 2 ** (depth - 1)  # of a pixel of the lowest level
    down, up = 2 * (2 * size - 1), 2 * (size - 1)
    return down + up + size + (2 * size if up_mode == "upsample" else 0)
