"""Windows of a text: those that are learnt from, and those in which every character is scored once.

Shape suffixes: B rows of a batch, T positions, N characters of a text, S steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanogpt.errors import require
from nanogpt.text.corpus import Split
from nanogpt.text.vocabulary import UNKNOWN

MOST_SHUFFLED = 2**24
"""Windows that are shuffled all: those of a text of 2 GB where they have 128 characters."""


class WindowRows(NamedTuple):
    """Some windows and which of their targets are scored."""

    inputs_BT: Tensor
    targets_BT: Tensor
    scored_BT: Tensor       # booleans
    inside_BT: Tensor       # booleans: all that is no filling


@dataclass(frozen=True, eq=False)
class ScoringWindows:
    """Windows over a text, read when they are asked for: each character is scored in one window alone, in order."""

    ids_N: Tensor
    places_B3: Tensor       # first input, first scored input, end
    block_size: int

    def __len__(self) -> int:
        return len(self.places_B3)

    def rows(self, begin: int, end: int) -> WindowRows:
        """Read some windows; what is past the end of one is filled up."""
        begin_B1, first_B1, end_B1 = self.places_B3[begin:end].split(1, dim=1)
        at_BT = begin_B1 + torch.arange(self.block_size)
        inside_BT, at_BT = at_BT < end_B1, at_BT.clamp(max=len(self.ids_N) - 2)
        inputs_BT, targets_BT = (self.ids_N[at_BT + k].long().masked_fill(~inside_BT, UNKNOWN) for k in (0, 1))
        return WindowRows(inputs_BT, targets_BT, inside_BT & (at_BT >= first_B1), inside_BT)

    def all(self) -> WindowRows:
        return self.rows(0, len(self))

    def padded(self, rows: int) -> ScoringWindows:
        """Add windows of which nothing is scored."""
        return replace(self, places_B3=torch.cat((self.places_B3, self.places_B3.new_zeros(rows - len(self), 3))))


def scoring_windows(split: Split, block_size: int) -> ScoringWindows:
    """Lay windows of block_size over a split so that what is scored has at least half a window before it.

    Less where its text has less: then it begins after `Vocabulary.start_id`. With block_size 4, a piece "DEFG" that
    stands after "ABC" in its text, and a piece "XYZ" at the begin of one (⏎ is the start, parentheses are not scored):

        inputs  ABCD    CDEF    ⏎XY
        targets (BC)DE  (DE)FG  XYZ
    """
    start = torch.tensor([split.vocabulary.start_id], dtype=split.ids_N.dtype)
    least = block_size - max(1, block_size // 2)
    texts: list[Tensor] = []
    places: list[tuple[int, int, int]] = []     # of each window in all texts: first input, first scored, end
    base = 0
    for piece in split.pieces:
        before = piece.context_C[max(0, len(piece.context_C) - least - 1):]
        text = torch.cat((before if len(before) else start, split.ids_N[piece.begin:piece.end]))
        first = max(1, len(before)) - 1         # the input whose target is the next to be scored
        while first < len(text) - 1:
            end = min(len(text) - 1, first + block_size - min(first, least))
            places.append((base + max(0, end - block_size), base + first, base + end))
            first = end
        texts.append(text)
        base += len(text)
    return ScoringWindows(torch.cat([*texts, start]), torch.tensor(places, dtype=torch.int64).view(-1, 3), block_size)


def batch_offsets(n: int, block_size: int, batch_size: int, steps: int, seed: int) -> Tensor:
    """Return where the windows of each step begin, (S, B): from the arguments alone, so a training can resume.

    An epoch reads the n > block_size characters once, in shuffled windows of block_size from a random phase on; what
    does not fill a window at either end waits for an epoch with another phase.
    """
    require(n > block_size, f"text must have more than block_size = {block_size} characters", n)
    generator = torch.Generator().manual_seed(seed)
    epochs: list[Tensor] = []
    missing = steps * batch_size
    last = n - block_size - 1
    while missing > 0:
        phase = int(torch.randint(min(block_size, last + 1), (), generator=generator))
        windows = (last - phase) // block_size + 1
        epochs.append(phase + block_size * shuffled(windows, missing, generator))
        missing -= windows
    return torch.cat([*epochs, torch.empty(0, dtype=torch.int64)]).view(steps, batch_size)


def shuffled(windows: int, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` of the numbers below `windows`, or all where they are fewer, in random order.

    For one state of the generator, fewer are the first of more. Of more than MOST_SHUFFLED, of which few are asked for,
    numbers are drawn until enough are different, for to shuffle all would take seconds and gigabytes.
    """
    if windows <= MOST_SHUFFLED or 2 * count > windows:
        return torch.randperm(windows, generator=generator)[:count]
    chosen = torch.empty(0, dtype=torch.int64)
    while len(chosen) < count:
        chosen = torch.cat((chosen, torch.randint(windows, (count,), generator=generator)))
        _, first = np.unique(chosen.numpy(), return_index=True)
        chosen = chosen[np.sort(first)]
    return chosen[:count]


def windows_at(ids_N: Tensor, offsets_B: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets (B, T) of the windows that begin at `offsets_B`."""
    window_BT = ids_N[offsets_B[:, None] + torch.arange(block_size + 1, device=ids_N.device)].long()
    return window_BT[:, :-1], window_BT[:, 1:]
