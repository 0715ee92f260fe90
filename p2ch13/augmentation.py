"""SegmentationAugmentation: turns a crop into another one that could have been, on the training device."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class SegmentationAugmentation(nn.Module):
    """Flips, moves, scales and turns crop and mask together, and adds noise to the crop: drawn anew for each sample.

    Args:
        flip: mirror rows and columns, each with probability 1/2.
        offset: move by up to this share of half the crop's height and width; 0.03 is 1 pixel of 64.
        scale: shrink or enlarge by up to this share.
        rotate: turn by any angle about the head-foot axis.
        noise: standard deviation of the noise added, in HU.
    Random numbers come from the device's default generator: `torch.manual_seed` fixes them.
    Source: the book, chapters 12.6.2 and 13.
    """

    def __init__(
        self,
        flip: bool = False,
        offset: float = 0.0,
        scale: float = 0.0,
        rotate: bool = False,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.flip = flip
        self.offset = offset
        self.scale = scale
        self.rotate = rotate
        self.noise = noise

    def forward(self, ct_slices: torch.Tensor, label_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, channel, row, col) in HU and (batch, 1, row, col) bool -> the same shapes and types.

        What comes in from beyond the crop's edge repeats the edge.
        """
        if self.flip or self.offset or self.scale or self.rotate:
            transform = self._draw_transforms(ct_slices)
            both = torch.cat([ct_slices, label_mask.to(ct_slices.dtype)], dim=1)
            grid = F.affine_grid(transform, list(both.shape), align_corners=False)
            both = F.grid_sample(both, grid, padding_mode="border", align_corners=False)
            ct_slices, label_mask = both[:, :-1], both[:, -1:] > 0.5  # an interpolated mask is back to bool
        if self.noise:
            ct_slices = ct_slices + self.noise * torch.randn_like(ct_slices)
        return ct_slices, label_mask

    def _draw_transforms(self, ct_slices: torch.Tensor) -> torch.Tensor:
        """(batch, 2, 3): from a pixel of the new crop to its place in the old one, both as -1..1 (x, then y)."""

        batch_size = ct_slices.shape[0]
        like: dict[str, Any] = {"dtype": ct_slices.dtype, "device": ct_slices.device}

        def draw(*shape: int) -> torch.Tensor:
            return 2 * torch.rand(batch_size, *shape, **like) - 1  # -1..1

        factors = torch.ones(batch_size, 2, **like)
        if self.flip:
            factors = factors.copysign(draw(2))
        if self.scale:
            factors = factors * (1 + self.scale * draw(1))
        transform = torch.zeros(batch_size, 2, 3, **like)
        transform[:, :, :2] = torch.diag_embed(factors)
        if self.rotate:
            angle = math.pi * draw()
            sine, cosine = angle.sin(), angle.cos()
            rotation = torch.stack([cosine, -sine, sine, cosine], dim=1).view(batch_size, 2, 2)
            transform[:, :, :2] = transform[:, :, :2] @ rotation
        if self.offset:
            # The last column, not the last row as in the book's 3x3 matrix, where the offset is cut off.
            transform[:, :, 2] = self.offset * draw(2)
        return transform
