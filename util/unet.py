"""The U-Net of Ronneberger et al. (2015), https://arxiv.org/abs/1505.04597, with the book's parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

MAX_DEPTH = MAX_WF = 12  # a file can claim any


class UNet(nn.Module):
    """A contracting and an expanding path of convolution blocks, joined level by level.

    The defaults give the network of the paper. Attribute names (`down_path.0.block.0`, `up_path.0.up`, `last`) are
    those of the network that the book uses, so that its published weights load.

    Args:
        in_channels: channels of the input.
        n_classes: channels of the output.
        depth: levels of resolution; each halves the one above.
        wf: the first level has `2**wf` filters, every further one twice as many.
        padding: keep height and width in every 3x3 convolution; without it each one takes a pixel off every edge.
        batch_norm: normalise after each activation.
        up_mode: "upconv" learns the upsampling, "upsample" interpolates and mixes the channels.
    Raises: ValueError if `up_mode` is neither, or there would be more levels or filters than any network has.
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
    ) -> None:
        super().__init__()
        if up_mode not in ("upconv", "upsample"):
            raise ValueError(f"up_mode is {up_mode!r}; it can be 'upconv' or 'upsample'")
        if not 1 <= depth <= MAX_DEPTH or not 0 <= wf <= MAX_WF:
            raise ValueError(f"depth {depth} and wf {wf}; they can be 1 to {MAX_DEPTH} and 0 to {MAX_WF}")
        self.depth = depth
        filters = [2 ** (wf + level) for level in range(depth)]
        self.down_path = nn.ModuleList(
            UNetConvBlock(in_size, out_size, padding, batch_norm)
            for in_size, out_size in zip([in_channels, *filters], filters, strict=False)
        )
        self.up_path = nn.ModuleList(
            UNetUpBlock(filters[level + 1], filters[level], up_mode, padding, batch_norm)
            for level in reversed(range(depth - 1))
        )
        self.last = Conv2d(filters[0], n_classes, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, row, col) -> (batch, n_classes, row, col); smaller rows and cols without padding."""
        bridges: list[torch.Tensor] = []
        for down in self.down_path[:-1]:
            x = down(x)
            bridges.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.down_path[-1](x)
        for up in self.up_path:
            x = up(x, bridges.pop())
        return self.last(x)  # type: ignore[no-any-return]


class UNetConvBlock(nn.Module):
    """Two 3x3 convolutions, each followed by a leaky ReLU and, if asked for, by batch normalisation."""

    def __init__(self, in_size: int, out_size: int, padding: bool, batch_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_size, out_size):
            layers += [Conv2d(channels, out_size, kernel_size=3, padding=int(padding)), nn.LeakyReLU(inplace=True)]
            if batch_norm:
                layers.append(nn.BatchNorm2d(out_size))
        self.block = nn.Sequential(*layers)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Several inputs count as one: their channels, one after the other."""
        first, *others = self.block
        x = first(*inputs)
        for layer in others:
            x = layer(x)
        return x  # type: ignore[no-any-return]


class UNetUpBlock(nn.Module):
    """Twice the resolution, half the channels; the level's own features (`bridge`) come in from the side."""

    def __init__(self, in_size: int, out_size: int, up_mode: str, padding: bool, batch_norm: bool) -> None:
        super().__init__()
        self.up: nn.Module
        if up_mode == "upconv":
            self.up = ConvTranspose2d(in_size, out_size, kernel_size=2, stride=2)
        else:
            self.up = nn.Sequential(
                nn.Upsample(mode="bilinear", scale_factor=2, align_corners=False),
                Conv2d(in_size, out_size, kernel_size=1),
            )
        self.conv_block = UNetConvBlock(in_size, out_size, padding, batch_norm)

    def forward(self, x: torch.Tensor, bridge: torch.Tensor) -> torch.Tensor:
        up = self.up(x)
        return self.conv_block(up, center_crop(bridge, up.shape[2:]))  # type: ignore[no-any-return]


class Conv2d(nn.Conv2d):
    """The same convolution, with zeros for padding and in one group, in less time on a CPU.

    - Inputs that would be concatenated are convolved one by one, each with its part of the weights, and added up: no
      copy of all features is made, neither here nor of their gradients.
    - The bias is added by itself, because oneDNN takes nearly as long over its gradient as over that of the weights.
    """

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        weights = torch.split(self.weight, [x.shape[1] for x in inputs], dim=1)
        y, *others = (
            F.conv2d(x, weight, None, self.stride, self.padding, self.dilation)
            for x, weight in zip(inputs, weights, strict=True)
        )
        for other in others:
            y.add_(other)
        return add_bias(y, self.bias)


class ConvTranspose2d(nn.ConvTranspose2d):
    """The same transposed convolution without padding, its bias added by itself; see `Conv2d`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return add_bias(F.conv_transpose2d(x, self.weight, None, self.stride), self.bias)


def add_bias(y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A convolution's result, (batch, channel, row, col), with the bias of each channel added in place."""
    return y if bias is None else y.add_(bias.to(y.dtype).view(1, -1, 1, 1))


def center_crop(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """The middle `size` (rows, cols) of `x`: without padding, features shrink on their way down and up again."""
    top, left = (x.shape[2] - size[0]) // 2, (x.shape[3] - size[1]) // 2
    return x[:, :, top : top + size[0], left : left + size[1]]
