"""Character n-grams with interpolated Witten–Bell smoothing: how far counting alone gets.

Shape suffixes: N characters, K orders, V characters of the vocabulary, G different n-grams, H different contexts.

Witten & Bell 1991, method C, as interpolation (Chen & Goodman 1998, section 2.5): with c the count in the training
text and t(h) the number of different characters seen after the context h,

    p(w | h) = (c(h w) + t(h) p(w | h without its first character)) / (c(h) + t(h))

down to the uniform distribution over the vocabulary. Where h was never seen, the shorter context decides alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt.config import require
from nanogpt.corpus import Split


@dataclass(frozen=True, eq=False)
class Counts:
    """The n-grams of one length. The number of an n-gram is V × the rank of its first n - 1 characters + its last.

    The rank is the place in the sorted `numbers_G` of the length below, so that numbers stay small at any length.
    """

    numbers_G: Tensor
    counts_G: Tensor
    followed_H: Tensor    # how often a character followed each context, by its rank
    kinds_H: Tensor       # how many different characters did


@dataclass(frozen=True, eq=False)
class NGram:
    """Counts of the n-grams of 1, 2, … characters."""

    by_length: tuple[Counts, ...]
    vocab_size: int


def started(split: Split) -> Tensor:
    """The ids after the one that stands before any text."""
    return torch.cat((torch.tensor([split.vocabulary.start_id]), split.ids_N))


def fit_ngram(split: Split, order: int) -> NGram:
    """Count the n-grams of up to `order` characters in `split`. ValueError for order < 1."""
    require(order >= 1, "order must be >= 1", order)
    size, ids_N = len(split.vocabulary), started(split)
    ranks_N, contexts, by_length = torch.zeros_like(ids_N), 1, []
    for _ in range(order):
        numbers_G, ranks_N, counts_G = (ranks_N * size + ids_N).unique(return_inverse=True, return_counts=True)
        context_G = numbers_G // size
        by_length.append(Counts(numbers_G, counts_G, torch.bincount(context_G, counts_G, contexts).long(),
                                torch.bincount(context_G, minlength=contexts)))
        ranks_N, ids_N, contexts = ranks_N[:-1], ids_N[1:], len(numbers_G)
    return NGram(tuple(by_length), size)


def ngram_losses(ngram: NGram, split: Split) -> Tensor:
    """-ln p of each character of `split` under the n-grams of each order from 1 on, nats, float64 (K, N)."""
    ids_N = started(split)
    p_N = torch.full(ids_N.shape, 1 / ngram.vocab_size, dtype=torch.float64)
    ranks_N, losses = torch.zeros_like(ids_N), []     # of the context of each character, -1 where it was never seen
    for counts in ngram.by_length:
        known_N, context_N = ranks_N >= 0, ranks_N.clamp(min=0)
        number_N = ranks_N * ngram.vocab_size + ids_N
        place_N = torch.searchsorted(counts.numbers_G, number_N).clamp(max=len(counts.numbers_G) - 1)
        hit_N = known_N & (counts.numbers_G[place_N] == number_N)
        followed_N, kinds_N = (per_H[context_N] * known_N for per_H in (counts.followed_H, counts.kinds_H))
        interpolated_N = (counts.counts_G[place_N] * hit_N + kinds_N * p_N) / (followed_N + kinds_N).clamp(min=1)
        p_N = torch.where(followed_N > 0, interpolated_N, p_N)
        losses.append(-p_N[1:].log())
        ranks_N = torch.where(hit_N, place_N, -1).roll(1).index_fill(0, torch.tensor([0]), -1)
    return torch.stack(losses)
