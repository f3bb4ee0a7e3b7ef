"""The windows of each step: from ids on the device where the texts fit there, else read from their files as they come.

Shape suffixes: N characters of all texts, S steps, B rows of a member's batch; a batch has the rows of all members.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nanogpt.text.corpus import Split
from nanogpt.text.vocabulary import CHARACTERS_AT_ONCE
from nanogpt.text.windows import windows_at

SHARE_OF_DEVICE = 0.25
"""Of a GPU's free memory: a text that is not in memory is put there if its ids take no more."""
BYTES_OF_ID = 2


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
    if any(text.is_mapped for text in texts) and not fits(different.values(), device):
        return MappedBatches(texts, offsets, block_size, device)
    begins = dict(zip(different, itertools.accumulate(map(len, different.values()), initial=0), strict=False))
    offsets_SB = torch.cat([offsets_SB + begins[id(text)] for text, offsets_SB in zip(texts, offsets, strict=True)],
                           dim=1)
    return DeviceBatches(ids_on(device, list(different.values())), offsets_SB.to(device), block_size)


def fits(texts: Iterable[Split], device: torch.device) -> bool:
    """Say whether ids of texts are put on a device: on a GPU, if they take no more than a share of its free memory."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return BYTES_OF_ID * sum(map(len, texts)) <= SHARE_OF_DEVICE * free


def ids_on(device: torch.device, texts: Sequence[Split]) -> Tensor:
    """Put the ids of texts on a device, one after the other; those that are mapped part by part."""
    if not any(text.is_mapped for text in texts):
        return (torch.cat([text.ids_N for text in texts]) if len(texts) > 1 else texts[0].ids_N).to(device)
    kind = texts[0].vocabulary.encode_small([], 0).dtype
    ids_N, end = torch.empty(sum(map(len, texts)), dtype=kind, device=device), 0
    for text in texts:
        for begin in range(0, len(text), CHARACTERS_AT_ONCE):
            part = text.ids_at(torch.arange(begin, min(len(text), begin + CHARACTERS_AT_ONCE))).to(kind)
            ids_N[end:end + len(part)] = part.to(device)
            end += len(part)
    return ids_N
