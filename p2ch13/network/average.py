"""Several networks as one, whose logits are the mean of theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from p2ch13.network.model import SegmentationNetwork


class AveragedNetworks(SegmentationNetwork):
    """Average the logits of networks that see the same context slices.

    Args: members: at least one, on the same device.
    Attributes: see `SegmentationNetwork`. The largest `receptive_field` makes a margin that is wide enough for each
        member; the least common multiple of `size_multiple` aligns a box with the blocks of each.
    Raises: ValueError if the members differ in slice spacing, in the slices of the input or the channels of the output.
    """

    def __init__(self, members: Sequence[SegmentationNetwork]) -> None:
        if len({(each.slice_spacing_mm, each.in_channels, each.n_classes) for each in members}) != 1:
            raise ValueError("networks of different inputs or outputs")
        super().__init__(members[0].slice_spacing_mm)
        self.members = nn.ModuleList(members)
        self.in_channels, self.n_classes = members[0].in_channels, members[0].n_classes
        self.has_padding = all(each.has_padding for each in members)
        self.size_multiple = math.lcm(*(each.size_multiple for each in members))
        self.receptive_field = max(each.receptive_field for each in members)

    def logits(self, input_batch: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, row, col) in HU -> (batch, n_classes, row, col), float32: the members' mean."""
        logits = torch.stack([member.logits(input_batch) for member in self.members])  # type: ignore[operator]
        return logits.mean(dim=0)
