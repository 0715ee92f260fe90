"""A process's rank and world size, from the environment that torchrun sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class ProcessRank:
    """A process's rank in a run; a process that was started by hand is the only one.

    Attributes:
        rank, world_size: over all machines.
        local_rank, local_world_size: on this machine.
        by_torchrun: whether torchrun started the process; is_restarted: whether not for the first time, since one died.
        launch: the same for all processes of a start, and another one at the next.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    by_torchrun: bool = False
    is_restarted: bool = False
    launch: str = ""

    @classmethod
    def from_environment(cls) -> ProcessRank:
        """Read torchrun's variables. Source: https://docs.pytorch.org/docs/stable/elastic/run.html"""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, world_size, local_rank, local_world_size = (int(os.environ[name]) for name in names)
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        launch = f"{os.environ['TORCHELASTIC_RUN_ID']} {os.environ.get('MASTER_PORT')} {restart}"
        return cls(rank, world_size, local_rank, local_world_size, True, restart != "0", launch)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and logs for all."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.world_size == 1

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return every `world_size`-th item, starting at `rank`: each item goes to one process."""
        return list(items[self.rank :: self.world_size])
