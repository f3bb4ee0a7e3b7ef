"""Text written: many prompts at once with a key-value cache, each row from a random stream of its own.

Shape suffixes: B rows, T positions, V characters of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt.config import require
from nanogpt.corpus import UNKNOWN, Vocabulary
from nanogpt.model import GPT, LayerCache


@dataclass(frozen=True)
class Sampling:
    """How the next character is chosen; temperature 0 is greedy, top_k 0 and top_p 1 cut nothing."""

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        require(self.temperature >= 0, "temperature must be >= 0", self.temperature)
        require(self.top_k >= 0, "top_k must be >= 0", self.top_k)
        require(0 < self.top_p <= 1, "top_p must be in (0, 1]", self.top_p)


def context_start(length: int, block_size: int) -> int:
    """Where the context of character number `length` begins.

    All earlier characters while they fit. Then the context moves on by half a block at a time, so that it holds
    more than half a block and a cache can be used in between.
    """
    half = max(1, block_size // 2)
    return max(0, -(-(length - block_size) // half)) * half


def choose(logits_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> Tensor:
    """Ids (B,) by inverting the cumulative distribution at `uniform_B`; `<unk>` is never chosen."""
    logits_BV = logits_BV.float()
    logits_BV[:, UNKNOWN] = -torch.inf
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    p_BV, order_BV = (logits_BV / sampling.temperature).softmax(-1).sort(dim=-1, descending=True)
    if sampling.top_k:
        p_BV[:, sampling.top_k:] = 0
    p_BV[p_BV.cumsum(-1) - p_BV >= sampling.top_p] = 0
    cumulative_BV = p_BV.cumsum(-1)
    rank_B = (cumulative_BV <= uniform_B[:, None] * cumulative_BV[:, -1:]).sum(-1)
    last_B = (p_BV > 0).sum(-1) - 1
    return order_BV.gather(1, torch.minimum(rank_B, last_B)[:, None]).squeeze(1)


class Writer:
    """Texts that grow a character at a time, with the cache of their contexts."""

    def __init__(self, model: GPT, texts: Sequence[Sequence[int]]) -> None:
        self.model, self.texts = model, [list(text) for text in texts]
        self.device = model.head.weight.device
        self.cache = model.empty_cache(len(texts))
        self.filled = [0] * len(texts)     # cached positions of each row; 0: its context begins anew

    def logits(self) -> Tensor:
        """Of the next character of each text, (B, V). Rows that begin anew are read in groups of equal length."""
        block_size = self.model.config.block_size
        starts = [context_start(len(text), block_size) for text in self.texts]
        groups: dict[int, list[int]] = {}
        for row, (text, start) in enumerate(zip(self.texts, starts, strict=True)):
            if len(text) - start != self.filled[row] + 1:
                self.filled[row] = 0
            groups.setdefault(len(text) - start - self.filled[row] if not self.filled[row] else 1, []).append(row)
        parts = {row: logits_V for length, rows in groups.items()
                 for row, logits_V in zip(rows, self.read(rows, length), strict=True)}
        return torch.stack([parts[row] for row in range(len(self.texts))])

    def read(self, rows: list[int], length: int) -> Tensor:
        """Logits after reading the last `length` characters of each of `rows` into the cache."""
        ids_BT = torch.tensor([self.texts[row][-length:] for row in rows], device=self.device)
        begins_B = torch.tensor([self.filled[row] for row in rows], device=self.device)
        positions_BT = begins_B[:, None] + torch.arange(length, device=self.device)
        every = len(rows) == len(self.texts)
        part = self.cache if every else [take_rows(layer, rows) for layer in self.cache]
        for layer in part if length > 1 else ():
            layer.last_B1C = torch.zeros_like(layer.last_B1C)
        logits_BV = self.model.step(ids_BT, part, positions_BT)
        for row in rows:
            self.filled[row] += length
        if not every:
            for layer, piece in zip(self.cache, part, strict=True):
                put_rows(layer, rows, piece)
        return logits_BV


def take_rows(layer: LayerCache, rows: list[int]) -> LayerCache:
    return LayerCache(layer.keys_BHTD[rows], layer.values_BHTD[rows], layer.last_B1C[rows])


def put_rows(layer: LayerCache, rows: list[int], piece: LayerCache) -> None:
    layer.keys_BHTD[rows], layer.values_BHTD[rows] = piece.keys_BHTD, piece.values_BHTD
    layer.last_B1C[rows] = piece.last_B1C


@torch.inference_mode()
def generate(model: GPT, vocabulary: Vocabulary, prompts: Sequence[str], max_new_characters: int,
             *, sampling: Sampling | None = None, seeds: Sequence[int] | int = 1) -> list[str]:
    """What the model writes after each prompt, without the prompt: `max_new_characters` characters each.

    Row i depends on prompts[i] and its seed alone, not on its neighbours. An empty prompt stands for a new line.
    Unknown characters of a prompt are read as `<unk>`.
    """
    require(max_new_characters >= 0, "max_new_characters must be >= 0", max_new_characters)
    sampling = sampling or Sampling()
    row_seeds = [seeds] * len(prompts) if isinstance(seeds, int) else list(seeds)
    require(len(row_seeds) == len(prompts), "seeds must be one for each prompt", len(row_seeds))
    if not prompts or not max_new_characters:
        return [""] * len(prompts)
    uniform_BT = torch.stack([torch.rand(max_new_characters, generator=torch.Generator().manual_seed(seed))
                              for seed in row_seeds]).to(model.head.weight.device)
    texts = [vocabulary.encode(prompt).tolist() or [vocabulary.start_id] for prompt in prompts]
    writer = Writer(model, texts)
    for t in range(max_new_characters):
        chosen_B = choose(writer.logits(), uniform_BT[:, t], sampling)
        for text, character in zip(writer.texts, chosen_B.tolist(), strict=True):
            text.append(character)
    return [vocabulary.decode(text[-max_new_characters:]) for text in writer.texts]
