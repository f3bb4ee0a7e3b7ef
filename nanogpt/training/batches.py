"""The windows of each step: from ids on the device, or, of texts that are mapped, read from their files as they come.

Shape suffixes: N characters of all texts, S steps, B rows of a member's batch; a batch has the rows of all members.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from nanogpt.text.corpus import Split
from nanogpt.text.windows import windows_at


class Batches(Protocol):
    """Where the windows of a step come from."""

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a step, (rows, T) int64 on the device."""
        ...


class DeviceBatches:
    """Windows of ids that are on the device."""

    def __init__(self, ids_N: Tensor, offsets_SB: Tensor, block_size: int) -> None:
        self.ids_N, self.offsets_SB, self.block_size = ids_N, offsets_SB, block_size

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        return windows_at(self.ids_N, self.offsets_SB[step], self.block_size)


class MappedBatches:
    """Windows of texts that are read for each step; to a GPU they are copied while it does the steps before.

    Those of the next step are fetched from the disk while this one is done.
    """

    def __init__(self, texts: Sequence[Split], offsets: Sequence[Tensor], block_size: int,
                 device: torch.device) -> None:
        self.texts, self.offsets, self.device = texts, offsets, device
        self.window_T = torch.arange(block_size + 1)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        window_BT = torch.cat([text.ids_at(offsets_SB[step][:, None] + self.window_T)
                               for text, offsets_SB in zip(self.texts, self.offsets, strict=True)])
        for text, offsets_SB in zip(self.texts, self.offsets, strict=True):
            if step + 1 < len(offsets_SB):
                text.expect(offsets_SB[step + 1], len(self.window_T))
        if self.device.type == "cuda":
            window_BT = window_BT.pin_memory()
        window_BT = window_BT.to(self.device, non_blocking=True)
        return window_BT[:, :-1], window_BT[:, 1:]


def make_batches(texts: Sequence[Split], offsets: Sequence[Tensor], block_size: int, device: torch.device) -> Batches:
    """Give the batches of members, each with its text and the places (S, B) of its windows; a text may be several's."""
    different = {id(text): text for text in texts}
    if any(text.is_mapped for text in texts):
        return MappedBatches(texts, offsets, block_size, device)
    begins = dict(zip(different, itertools.accumulate(map(len, different.values()), initial=0), strict=False))
    offsets_SB = torch.cat([offsets_SB + begins[id(text)] for text, offsets_SB in zip(texts, offsets, strict=True)],
                           dim=1)
    ids_N = torch.cat([text.ids_N for text in different.values()]) if len(different) > 1 else texts[0].ids_N
    return DeviceBatches(ids_N.to(device), offsets_SB.to(device), block_size)
