"""The U-Net of Ronneberger et al. (2015), https://arxiv.org/abs/1505.04597, with the book's parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(inplace=True),  # slope 0.01
}
MAX_DEPTH = MAX_WF = 12  # a file can claim any number


class UNet(nn.Module):
    """A contracting and an expanding path of convolution blocks, joined level by level.

    The defaults give the network of the paper. Attribute names (`down_path.0.block.0`, `up_path.0.up`, `last`) are
    those of the network that the book uses, so that its published weights load.

    Args:
        in_channels, n_classes: channels of the input and of the output.
        depth: levels of resolution; each halves the one above.
        wf: the first level has `2**wf` filters, every further one twice as many.
        padding: keep height and width in every 3x3 convolution; without it each one removes a pixel at every edge.
        batch_norm: normalize after each activation.
        up_mode: "upconv" learns the upsampling, "upsample" interpolates and mixes the channels.
        activation: "relu", as in the paper and the book, or "leaky_relu" with a slope of 0.01.
    Raises: ValueError if `up_mode` or `activation` is unknown, or `depth` or `wf` out of range.
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 2,
        depth: int = 5,
        wf: int = 6,
        padding: bool = False,
        batch_norm: bool = False,
        up_mode: str = "upconv",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; it can be {' or '.join(map(repr, ACTIVATIONS))}")
        if up_mode not in ("upconv", "upsample"):
            raise ValueError(f"up_mode is {up_mode!r}; it can be 'upconv' or 'upsample'")
        if not 1 <= depth <= MAX_DEPTH or not 0 <= wf <= MAX_WF:
            raise ValueError(f"depth {depth} and wf {wf}; they can be 1 to {MAX_DEPTH} and 0 to {MAX_WF}")
        self.depth = depth
        filters = [2 ** (wf + level) for level in range(depth)]
        self.down_path = nn.ModuleList(
            UNetConvBlock(in_size, out_size, padding, batch_norm, activation)
            for in_size, out_size in zip([in_channels, *filters], filters, strict=False)
        )
        self.up_path = nn.ModuleList(
            UNetUpBlock(filters[level + 1], filters[level], up_mode, padding, batch_norm, activation)
            for level in reversed(range(depth - 1))
        )
        self.last = nn.Conv2d(filters[0], n_classes, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, row, col) -> (batch, n_classes, row, col), float32; without padding fewer rows and cols.

        The last convolution is float32 under autocast too: bfloat16 has 129 values from 8 to 16, so that many different
        results would be equal.
        """
        bridges: list[torch.Tensor] = []
        for down in self.down_path[:-1]:
            x = down(x)
            bridges.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.down_path[-1](x)
        for up in self.up_path:
            x = up(x, bridges.pop())
        with torch.autocast(x.device.type, enabled=False):
            return self.last(x.to(self.last.weight.dtype))  # type: ignore[no-any-return]


class UNetConvBlock(nn.Module):
    """Two 3x3 convolutions, each followed by an activation and, optionally, batch normalization."""

    def __init__(self, in_size: int, out_size: int, padding: bool, batch_norm: bool, activation: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_size, out_size):
            layers += [nn.Conv2d(channels, out_size, kernel_size=3, padding=int(padding)), ACTIVATIONS[activation]()]
            if batch_norm:
                layers.append(nn.BatchNorm2d(out_size))
        self.block = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)  # type: ignore[no-any-return]


class UNetUpBlock(nn.Module):
    """Double the resolution, halve the channels, and join the level's own features (`bridge`)."""

    def __init__(
        self, in_size: int, out_size: int, up_mode: str, padding: bool, batch_norm: bool, activation: str
    ) -> None:
        super().__init__()
        self.up: nn.Module
        if up_mode == "upconv":
            self.up = nn.ConvTranspose2d(in_size, out_size, kernel_size=2, stride=2)
        else:
            self.up = nn.Sequential(
                nn.Upsample(mode="bilinear", scale_factor=2, align_corners=False),
                nn.Conv2d(in_size, out_size, kernel_size=1),
            )
        self.conv_block = UNetConvBlock(in_size, out_size, padding, batch_norm, activation)

    def forward(self, x: torch.Tensor, bridge: torch.Tensor) -> torch.Tensor:
        up = self.up(x)
        return self.conv_block(torch.cat([up, center_crop(bridge, up.shape[2:])], dim=1))  # type: ignore[no-any-return]


def center_crop(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Crop the middle `size` (rows, cols) of `x`: without padding, features shrink on their way down and up."""
    top, left = (x.shape[2] - size[0]) // 2, (x.shape[3] - size[1]) // 2
    return x[:, :, top : top + size[0], left : left + size[1]]
