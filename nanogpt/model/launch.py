"""What torch's launcher (torchrun) tells the processes that it starts, by their environment. No import of torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

UNNAMED = "none"
"""The launcher's name of a launch that was given none."""


@dataclass(frozen=True)
class Launch:
    """A process among those that were launched together."""

    rank: int               # among the processes of all hosts
    world_size: int         # how many these are
    local_rank: int         # among the processes of its host: the number of its GPU
    local_world_size: int
    name: str               # of the launch (--rdzv-id), or UNNAMED
    restarts: int           # how often the launcher has begun anew

    @property
    def has_others(self) -> bool:
        return self.world_size > 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def launch() -> Launch | None:
    """Read what the launcher says of this process; None where it has not started it.

    RANK and WORLD_SIZE alone are not enough: other programs set them too.
    """
    said = os.environ
    if "TORCHELASTIC_RUN_ID" not in said:
        return None
    rank, world_size, local_rank, local_world_size, restarts = (int(said[name]) for name in (
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"))
    return Launch(rank, world_size, local_rank, local_world_size, said["TORCHELASTIC_RUN_ID"], restarts)
