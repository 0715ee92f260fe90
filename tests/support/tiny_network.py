"""A user's own network, as `--network tests.support.tiny_network:TinyNetwork` names it."""

import torch
from torch import nn

from p2ch13.network.model import SegmentationNetwork


class TinyNetwork(SegmentationNetwork):
    receptive_field = 5

    def __init__(self, slice_spacing_mm: float = 0.0) -> None:
        super().__init__(slice_spacing_mm)
        self.norm = nn.BatchNorm2d(self.in_channels)
        self.conv = nn.Conv2d(self.in_channels, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def logits(self, input_batch: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(self.norm(input_batch)).relu()).float()  # type: ignore[no-any-return]
