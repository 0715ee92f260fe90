"""Second stage: a small 3-D network that scores a finding from its surroundings, as chapter 14 of the book does."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import nn

# The network's input: cubes around a finding's center, cut by `p2ch13.detection.cubes`.
CUBE_SIZE = 32  # voxels along each edge
CUBE_SPACINGS_MM = (1.0, 2.0)  # of the cubes' voxels: 32 mm and 64 mm across
CUBE_HU = (-1000, 400)  # scaled to -1..1; values beyond are clipped
CUBE_LOGIT = 10.0  # logits of the first stage are clipped to -10..10, and scaled to -1..1
CHANNEL_COUNT = 2  # HU, logit
BLOCK = 2  # voxels along each edge that the network folds into channels

AXES = (-3, -2, -1)  # index, row, col
FLIPS = tuple(axes for count in range(4) for axes in combinations(AXES, count))  # all 8, the first is none
SCORED_AT_ONCE = 16  # findings; more take memory and no less time


class SecondStage(nn.Module):
    """Score findings: the logit of being a nodule.

    A branch for each scale: 3x3x3 convolutions with BatchNorm and ReLU, at 16 and 8 voxels across. Of its features
    at 4 voxels across, it hands on the mean over the cube and the mean of the 2 x 2 x 2 voxels at the center: without
    the latter, a finding beside a nodule would look like the nodule.

    Args: filters: half of those of the first convolution, a third of those of deeper ones; dropout: share of dropped
        features in training.
    Attributes: model_args: the arguments, for a checkpoint.
    Raises: ValueError for less than one filter, and a dropout outside of 0..1.
    """

    def __init__(self, filters: int = 16, dropout: float = 0.3) -> None:
        super().__init__()
        if filters < 1:
            raise ValueError(f"{filters} filters")
        self.model_args = {"filters": filters, "dropout": dropout}
        self.branches = nn.ModuleList(make_branch(filters) for _ in CUBE_SPACINGS_MM)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(len(CUBE_SPACINGS_MM) * 2 * 3 * filters, 2 * filters),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * filters, 1),
        )

    def forward(self, cubes: torch.Tensor) -> torch.Tensor:
        """(batch, 2 scales, 2 channels, 32, 32, 32), see `CUBE_HU` and `CUBE_LOGIT` -> logits (batch,), float32."""
        features = []
        for branch, cube in zip(self.branches, cubes.unbind(dim=1), strict=True):
            x = branch(cube)  # (batch, channel, 4, 4, 4)
            features += [x.mean(dim=AXES), x[..., 1:3, 1:3, 1:3].mean(dim=AXES)]
        return self.head(torch.cat(features, dim=1))[:, 0].float()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def score(self, cubes: torch.Tensor) -> torch.Tensor:
        """Average the logits over all flips, in evaluation mode.

        Args: cubes: see `forward`, on any device.
        Returns: (batch,), on the CPU.
        """
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        scores = [
            torch.stack([self(part.flip(axes)) for axes in FLIPS]).mean(dim=0).cpu()
            for part in (some.to(device) for some in torch.split(cubes, SCORED_AT_ONCE))
        ]
        self.train(was_training)
        return torch.cat(scores) if scores else torch.zeros(0)


def make_branch(filters: int) -> nn.Sequential:
    """Build (batch, 2, 32, 32, 32) -> (batch, 3 * filters, 4, 4, 4).

    Convolutions of all 32 x 32 x 32 voxels would take three quarters of the time: blocks of 2 x 2 x 2 become channels.
    """
    layers: list[nn.Module] = [SpaceToDepth()]
    channels = CHANNEL_COUNT * BLOCK**3
    for own, is_pooled in ((2 * filters, True), (3 * filters, False), (3 * filters, True)):
        layers.append(nn.Conv3d(channels, own, 3, padding=1, bias=False))
        layers += [nn.MaxPool3d(2)] * is_pooled  # before BatchNorm and ReLU, which then have an eighth of the voxels
        layers += [nn.BatchNorm3d(own), nn.ReLU()]
        channels = own
    return nn.Sequential(*layers)


class SpaceToDepth(nn.Module):
    """Fold blocks of voxels into channels: (batch, channel, 2 i, 2 j, 2 k) -> (batch, 8 channel, i, j, k).

    The result is channels-last, which convolutions on a CPU are fastest with. Source: Shi et al. (2016),
    https://arxiv.org/abs/1609.05158; PyTorch's `pixel_unshuffle` is for images alone.
    """

    def forward(self, cube: torch.Tensor) -> torch.Tensor:
        batch, channels, *sizes = cube.shape
        blocks = cube.reshape(batch, channels, *(part for size in sizes for part in (size // BLOCK, BLOCK)))
        folded = blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(
            batch, channels * BLOCK**3, *(size // BLOCK for size in sizes)
        )
        return folded.contiguous(memory_format=torch.channels_last_3d)
