"""What a model writes after prompts, and what it holds likely next.

Many prompts are read at once with a key-value cache; each row has a random stream of its own.

Shape suffixes: B rows, T positions, V characters of the vocabulary.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt.errors import require
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT
from nanogpt.text.vocabulary import UNKNOWN, Vocabulary

DRAWN_TOGETHER = 256
"""Random numbers that a row draws at a time."""
log = logging.getLogger("nanogpt")

SECONDS_BETWEEN_LINES = 10
ROWS_TOGETHER = 64
"""Rows that are written at once: each has a cache of its own."""
GREEDY = 1e-6
"""Temperatures below it are read as 0: no other character keeps a probability."""


@dataclass(frozen=True)
class Sampling:
    """How the next character is chosen; temperature 0 is greedy, top_k 0 and top_p 1 cut nothing.

    top_p keeps the fewest likeliest characters with that probability together, of all characters, at the temperature.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.temperature < math.inf, "temperature must be >= 0 and finite", self.temperature)
        require(self.top_k >= 0, "top_k must be >= 0", self.top_k)
        require(0 < self.top_p <= 1, "top_p must be in (0, 1]", self.top_p)


def context_start(length: int, block_size: int) -> int:
    """Say where the context of character number `length` begins.

    All earlier characters while they fit. Then the context moves on by half a block at a time, so that it holds
    more than half a block and a cache can be used in between.
    """
    half = max(1, block_size // 2)
    return max(0, -(-(length - block_size) // half)) * half


def choose(logits_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> Tensor:
    """Choose ids (B,) by inverting the cumulative distribution at `uniform_B`; `<unk>` is never chosen."""
    logits_BV = logits_BV.float().clone()
    logits_BV[:, UNKNOWN] = -torch.inf
    if sampling.temperature < GREEDY:
        return logits_BV.argmax(-1)
    below_best_BV = logits_BV - logits_BV.amax(-1, keepdim=True)
    p_BV, order_BV = (below_best_BV / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    if sampling.top_p < 1:
        p_BV[p_BV.cumsum(-1) - p_BV >= sampling.top_p] = 0
    if sampling.top_k:
        p_BV[:, sampling.top_k:] = 0
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

    def logits(self) -> Tensor:
        """Compute the logits (B, V) of the next character of each text.

        Rows that go on are read in one batch, by their last character; rows whose context begins or moves on are
        read anew, in groups of equal length. So a row does not wait for others, and no other row's cache is copied.
        """
        lengths = [len(text) - context_start(len(text), self.model.config.block_size) for text in self.texts]
        anew: dict[int, list[int]] = {}
        for row, (length, cached) in enumerate(zip(lengths, self.cache.lengths, strict=True)):
            if length == 1 or length != cached + 1:
                anew.setdefault(length, []).append(row)
        some_go_on = sum(map(len, anew.values())) < len(lengths)
        empty_BV = self.model.head.weight.new_empty(len(lengths), self.model.vocab_size)
        logits_BV = self.read_last(lengths) if some_go_on else empty_BV
        for length, rows in anew.items():
            logits_BV[rows] = self.read_anew(rows, length)
        return logits_BV

    def read_last(self, lengths: list[int]) -> Tensor:
        """Read the last character of every row; the logits of rows that are then read anew mean nothing."""
        ids_B1 = torch.tensor([text[-1:] for text in self.texts], device=self.device)
        self.cache.lengths = [length - 1 for length in lengths]
        return self.model(ids_B1, self.cache)[:, -1]

    def read_anew(self, rows: list[int], length: int) -> Tensor:
        """Read the last `length` characters of each of `rows`; they replace what the cache held of these rows."""
        ids_BT = torch.tensor([self.texts[row][-length:] for row in rows], device=self.device)
        fresh = self.model.empty_cache(len(rows))
        logits_BV = self.model(ids_BT, fresh)[:, -1]
        if len(rows) == len(self.texts):
            self.cache = fresh
        else:
            self.cache.put_rows(rows, fresh)
        return logits_BV


def generate(model: GPT, vocabulary: Vocabulary, prompts: Sequence[str], max_new_characters: int,
             *, sampling: Sampling | None = None, seeds: Sequence[int] | int = 1) -> list[str]:
    """Write `max_new_characters` characters after each prompt; returns them without the prompts.

    Row i depends on prompts[i] and its seed alone, not on its neighbours. An empty prompt stands for a new line.
    Unknown characters of a prompt are read as `<unk>`.
    """
    row_seeds = [seeds] * len(prompts) if isinstance(seeds, int) else list(seeds)
    require(len(row_seeds) == len(prompts), "seeds must be one for each prompt", len(row_seeds))
    texts: list[str] = []
    for begin in range(0, len(prompts), ROWS_TOGETHER):
        group = slice(begin, begin + ROWS_TOGETHER)
        steps, said = list[str](), time.monotonic()
        for step in writing(model, vocabulary, prompts[group], max_new_characters, sampling=sampling,
                            seeds=row_seeds[group]):
            steps.append(step)
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                log.info("      %d of %d characters written", len(steps), max_new_characters)
        texts += texts_of(steps, len(prompts[group]))
    return texts


def writing(model: GPT, vocabulary: Vocabulary, prompts: Sequence[str], max_new_characters: int,
            *, sampling: Sampling | None = None, seeds: Sequence[int] | int = 1) -> Iterator[str]:
    """Do what `generate` does a step at a time: yields the next character of each row, together as one text.

    Whoever iterates may stop at any step; memory grows with what was written, not with what was asked for.
    """
    require(max_new_characters >= 0, "max_new_characters must be >= 0", max_new_characters)
    sampling = sampling or Sampling()
    row_seeds = [seeds] * len(prompts) if isinstance(seeds, int) else list(seeds)
    require(len(row_seeds) == len(prompts), "seeds must be one for each prompt", len(row_seeds))
    require(all(0 <= seed < 2**63 for seed in row_seeds), "seed must be in [0, 2**63)", seeds)
    if not prompts:
        return
    generators = [torch.Generator().manual_seed(seed) for seed in row_seeds]
    uniform_BT = torch.empty(len(prompts), 0)
    writer = Writer(model, [vocabulary.encode(prompt).tolist() or [vocabulary.start_id] for prompt in prompts])
    for t in range(max_new_characters):
        if t % DRAWN_TOGETHER == 0:
            count = min(DRAWN_TOGETHER, max_new_characters - t)
            uniform_BT = torch.stack([torch.rand(count, generator=generator) for generator in generators])
            uniform_BT = uniform_BT.to(model.head.weight.device)
        with torch.inference_mode():
            chosen = choose(writer.logits(), uniform_BT[:, t % DRAWN_TOGETHER], sampling).tolist()
        for text, character in zip(writer.texts, chosen, strict=True):
            text.append(character)
        yield vocabulary.decode(chosen)


def texts_of(steps: Sequence[str], rows: int) -> list[str]:
    """Join the characters of each row, which `writing` has yielded step by step."""
    return ["".join(step[row] for step in steps) for row in range(rows)]


@torch.inference_mode()
def top_characters(model: GPT, checkpoint: Checkpoint, prompt: str, count: int) -> list[dict[str, object]]:
    """List the `count` most probable next characters at each position of `prompt`, a row for each rank.

    The prediction at position i has read the prompt up to and with character i; `target` is the character that
    follows there, None after the last one. Only the last block_size characters are read.
    """
    vocabulary = checkpoint.vocabulary
    prompt = prompt[-model.config.block_size:]
    unknown = vocabulary.unknown_in(prompt)
    log_p_TV = model(vocabulary.encode(prompt)[None].to(model.head.weight.device))[0].float().log_softmax(-1).cpu()
    p_TV = log_p_TV.exp()
    entropy_T = -(p_TV * log_p_TV).sum(-1)
    top_p, top_ids = p_TV.topk(min(count, len(vocabulary)))
    return [{"position": i, "character": prompt[i], "unknown": prompt[i] in unknown,
             "target": prompt[i + 1] if i + 1 < len(prompt) else None,
             "entropy_nats": float(entropy_T[i]), "rank": rank + 1,
             "candidate": vocabulary.decode([int(top_ids[i, rank])]), "probability": float(top_p[i, rank])}
            for i in range(len(prompt)) for rank in range(top_p.size(1))]
