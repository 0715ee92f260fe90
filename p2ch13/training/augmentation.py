"""Random augmentation of crops, on the training device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from p2ch13.config import HU_MAX, HU_MIN

UNSURE = (0.2, 0.8)  # values of an interpolated mask that the label's area decides


class SegmentationAugmentation(nn.Module):
    """Flip, shift, scale and rotate crop and mask together, and add noise to the crop: drawn anew for each sample.

    Args:
        flip: mirror rows and columns, each with probability 1/2.
        offset: shift by up to this share of half the crop's height and width; 0.03 is 1 pixel of 64.
        scale: shrink or enlarge by up to this share.
        rotate: rotate by any angle about the head-foot axis.
        noise: standard deviation of the noise added, in HU.
        intensity: change the contrast by up to this share, and the level by up to this share of 1000 HU.
        blur: mix each pixel with the mean of its neighbors, by up to this share; sharpen a third of the samples.
        resolution: share of samples with pixels of up to twice the size, and down to half the slice spacing.
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
        intensity: float = 0.0,
        blur: float = 0.0,
        resolution: float = 0.0,
    ) -> None:
        super().__init__()
        self.flip, self.offset, self.scale, self.rotate = flip, offset, scale, rotate
        self.noise, self.intensity, self.blur, self.resolution = noise, intensity, blur, resolution

    def forward(self, ct_slices: torch.Tensor, label_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, channel, row, col) in HU and (batch, 1, row, col) bool -> the same shapes and types.

        Pixels from beyond the crop's edge repeat the edge. HU stay within -1000..1000, as they do in prediction.
        """
        if self.flip or self.offset or self.scale or self.rotate:
            transform = self._draw_transforms(ct_slices)
            both = torch.cat([ct_slices, label_mask.to(ct_slices.dtype)], dim=1)
            grid = F.affine_grid(transform, list(both.shape), align_corners=False)
            both = F.grid_sample(both, grid, padding_mode="border", align_corners=False)
            ct_slices, label_mask = both[:, :-1], threshold_by_area(both[:, -1:])
        if self.resolution:
            ct_slices = self._coarsen(ct_slices)
        if self.blur:
            ct_slices = self._blur(ct_slices)
        if self.intensity:
            ct_slices = self._change_intensity(ct_slices)
        if self.noise:
            ct_slices = ct_slices.add(torch.randn_like(ct_slices), alpha=self.noise)
        return ct_slices.clamp(HU_MIN, HU_MAX), label_mask

    def _coarsen(self, ct_slices: torch.Tensor) -> torch.Tensor:
        """Enlarge pixels, and reduce the slice spacing by interpolating between the middle slice and its neighbors."""
        is_chosen = draw(ct_slices) < self.resolution  # (batch, 1, 1, 1)
        coarse = F.interpolate(
            mean_of_blocks(ct_slices), size=ct_slices.shape[2:], mode="bilinear", align_corners=False
        )
        coarse = ct_slices.lerp(coarse, draw(ct_slices) * is_chosen)
        count = ct_slices.shape[1]
        offsets = torch.arange(count, dtype=ct_slices.dtype, device=ct_slices.device) - count // 2
        distance = 1 - 0.5 * draw(ct_slices).view(-1, 1, 1) * is_chosen.view(-1, 1, 1)  # of slices, 0.5..1 of the old
        weights = (1 - (distance * offsets.view(-1, 1) - offsets).abs()).clamp(min=0)  # (batch, new slice, old slice)
        return torch.einsum("bnc,bchw->bnhw", weights, coarse)

    def _blur(self, ct_slices: torch.Tensor) -> torch.Tensor:
        """Mix each pixel with the mean of its 3x3 neighborhood, or subtract some of it, which sharpens."""
        return ct_slices.lerp(mean_of_neighbors(ct_slices), self.blur * (1.5 * draw(ct_slices) - 0.5))

    def _change_intensity(self, ct_slices: torch.Tensor) -> torch.Tensor:
        """Change the contrast about the HU of air, to which scanners are calibrated, and the level."""
        contrast = 1 + self.intensity * (2 * draw(ct_slices) - 1)
        level = 1000 * self.intensity * (2 * draw(ct_slices) - 1)
        return torch.addcmul(HU_MIN - HU_MIN * contrast + level, ct_slices, contrast)

    def _draw_transforms(self, ct_slices: torch.Tensor) -> torch.Tensor:
        """Draw transforms, (batch, 2, 3), from a pixel of the new crop to its position in the old one, -1..1 (x, y)."""

        def draw_signed(*shape: int) -> torch.Tensor:
            return 2 * torch.rand(len(ct_slices), *shape, dtype=ct_slices.dtype, device=ct_slices.device) - 1  # -1..1

        factors = ct_slices.new_ones(len(ct_slices), 2)
        if self.flip:
            factors = factors.copysign(draw_signed(2))
        if self.scale:
            factors = factors * (1 + self.scale * draw_signed(1))
        transform = ct_slices.new_zeros(len(ct_slices), 2, 3)
        transform[:, :, :2] = torch.diag_embed(factors)
        if self.rotate:
            angle = math.pi * draw_signed()
            sine, cosine = angle.sin(), angle.cos()
            rotation = torch.stack([cosine, -sine, sine, cosine], dim=1).view(-1, 2, 2)
            transform[:, :, :2] = transform[:, :, :2] @ rotation
        if self.offset:
            # The last column, not the last row as in the book's 3x3 matrix, where the offset is cut off.
            transform[:, :, 2] = self.offset * draw_signed(2)
        return transform


def draw(ct_slices: torch.Tensor) -> torch.Tensor:
    """Draw a number from 0 to 1 for each sample: (batch, 1, 1, 1)."""
    return torch.rand(len(ct_slices), 1, 1, 1, dtype=ct_slices.dtype, device=ct_slices.device)


# On a CPU `F.avg_pool2d` takes 7 and 15 times as long as these two: it computes pixel by pixel.


def mean_of_blocks(ct_slices: torch.Tensor) -> torch.Tensor:
    """Compute the mean of each block of 2x2 pixels, at an odd edge of what there is: (batch, channel, row, col)."""
    rows, cols = ct_slices.shape[2:]
    even = F.pad(ct_slices, (0, cols % 2, 0, rows % 2), mode="replicate")
    of_rows = even[..., ::2, :] + even[..., 1::2, :]
    return (of_rows[..., ::2] + of_rows[..., 1::2]) / 4


def mean_of_neighbors(ct_slices: torch.Tensor) -> torch.Tensor:
    """Compute the mean of each pixel's 3x3 neighborhood; beyond the edge pixels repeat: (batch, channel, row, col)."""
    padded = F.pad(ct_slices, (1, 1, 1, 1), mode="replicate")
    of_cols = padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]
    return (of_cols[..., :-2, :] + of_cols[..., 1:-1, :] + of_cols[..., 2:, :]) / 9


def threshold_by_area(soft_mask: torch.Tensor) -> torch.Tensor:
    """Mark the largest values of each interpolated mask, as many as their sum: (batch, 1, row, col), 0..1 -> bool.

    The label keeps its area, times the change of scale, however small it is. The area decides values within `UNSURE`
    alone: a pixel that is hardly covered stays unmarked. A fixed threshold loses labels of a pixel or enlarges all
    labels, and so does nearest-neighbor interpolation.
    """
    values = soft_mask.flatten(1)
    areas = values.sum(1, keepdim=True).round().long()
    descending = values.sort(dim=1, descending=True).values
    thresholds = descending.gather(1, (areas - 1).clamp(min=0)).clamp(*UNSURE)
    return ((values >= thresholds) & (areas > 0)).view(soft_mask.shape)
