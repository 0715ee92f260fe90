"""Which of the processes this is that torchrun has started, read from what it leaves in the environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Launch:
    """A process's place among all of a run; a process that was started by hand is the only one.

    Attributes:
        rank, world_size: its number among all processes, on all machines.
        local_rank, local_world_size: the same on its own machine.
        by_torchrun: whether torchrun has started it.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    by_torchrun: bool = False

    @classmethod
    def from_environment(cls) -> Launch:
        """Source of the names: https://docs.pytorch.org/docs/stable/elastic/run.html"""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, world_size, local_rank, local_world_size = (int(os.environ[name]) for name in names)
        return cls(rank, world_size, local_rank, local_world_size, by_torchrun=True)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, where one of them does it for all."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.world_size == 1

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's part, every `world_size`-th: over all processes each item comes once."""
        return list(items[self.rank :: self.world_size])
