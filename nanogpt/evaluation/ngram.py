"""Character n-grams with interpolated Witten–Bell smoothing: how far counting alone gets.

Shape suffixes: N characters, V characters of the vocabulary.

Witten & Bell 1991, method C, as interpolation (Chen & Goodman 1998, section 2.5): with c the count in the training
text and t(h) the number of different characters seen after the context h,

    p(w | h) = (c(h w) + t(h) p(w | h without its first character)) / (c(h) + t(h))

down to the uniform distribution over the vocabulary. Where h was never seen, the shorter context decides alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt.text.corpus import Split


@dataclass(frozen=True, eq=False)
class LengthCounts:
    """The different n-grams of one length, and the different contexts that they begin with.

    The number of an n-gram is V × the rank of its first n - 1 characters + its last. The rank is the place in the
    sorted `numbers` of the length below, so that numbers stay small at any length.
    """

    numbers: Tensor         # of each n-gram
    occurrences: Tensor     # of each n-gram
    followed: Tensor        # how often a character followed each context, by its rank
    kinds: Tensor           # how many different characters did


@dataclass(frozen=True, eq=False)
class NGram:
    """Counts of the n-grams of 1, 2, … characters."""

    by_length: tuple[LengthCounts, ...]
    vocab_size: int


def fit_ngram(split: Split, order: int) -> NGram:
    """Count the n-grams of up to `order` characters in `split`. ValueError for order < 1."""
    if order < 1:
        raise ValueError(f"order must be >= 1, got {order}")
    size, ids_N = len(split.vocabulary), torch.cat((torch.tensor([split.vocabulary.start_id]), split.ids_N.long()))
    ranks_N, n_contexts, by_length = torch.zeros_like(ids_N), 1, []
    for _ in range(order):
        numbers, ranks_N, occurrences = (ranks_N * size + ids_N).unique(return_inverse=True, return_counts=True)
        contexts = numbers // size
        by_length.append(LengthCounts(numbers, occurrences, torch.bincount(contexts, occurrences, n_contexts).long(),
                                      torch.bincount(contexts, minlength=n_contexts)))
        ranks_N, ids_N, n_contexts = ranks_N[:-1], ids_N[1:], len(numbers)
    return NGram(tuple(by_length), size)


def witten_bell(count: Tensor, followed: Tensor, kinds: Tensor, shorter: Tensor) -> Tensor:
    """Return p(w | h) by the formula above, where `shorter` is the probability after the shorter context."""
    return torch.where(followed > 0, (count + kinds * shorter) / (followed + kinds).clamp(min=1), shorter)


def ngram_losses(ngram: NGram, split: Split) -> Tensor:
    """Return -ln p of each character of `split` under each order of n-gram from 1 on, nats, float64 (orders, N).

    What stood before a piece is its context; before a text stands the start.
    """
    ids_N, before_N, scored_N = with_contexts(split, max(1, len(ngram.by_length) - 1))
    p_N = torch.full(ids_N.shape, 1 / ngram.vocab_size, dtype=torch.float64)
    ranks_N, losses = torch.zeros_like(ids_N), []     # of the context of each character, -1 where it was never seen
    for length, counts in enumerate(ngram.by_length, start=1):
        known_N, context_N = ranks_N >= 0, ranks_N.clamp(min=0)
        number_N = ranks_N * ngram.vocab_size + ids_N
        place_N = torch.searchsorted(counts.numbers, number_N).clamp(max=len(counts.numbers) - 1)
        hit_N = known_N & (counts.numbers[place_N] == number_N)
        followed_N, kinds_N = (by_context[context_N] * known_N for by_context in (counts.followed, counts.kinds))
        p_N = witten_bell(counts.occurrences[place_N] * hit_N, followed_N, kinds_N, p_N)
        losses.append(-p_N[scored_N].log())
        ranks_N = torch.where(before_N >= length, torch.where(hit_N, place_N, -1).roll(1), -1)
    return torch.stack(losses)


def with_contexts(split: Split, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pieces of a split, each after the last `length` characters of its context or after the start.

    Three tensors: ids; how many characters stand before each one in its piece or context; which are of the pieces.
    """
    start = torch.tensor([split.vocabulary.start_id])
    contexts = [piece.context_C[-length:] if len(piece.context_C) else start for piece in split.pieces]
    texts = [torch.cat((context, split.ids_N[piece.begin:piece.end])).long()
             for context, piece in zip(contexts, split.pieces, strict=True)]
    before = [torch.arange(len(text)) for text in texts]
    scored = [places >= len(context) for places, context in zip(before, contexts, strict=True)]
    return torch.cat(texts), torch.cat(before), torch.cat(scored)


def table_log_p(ngram: NGram) -> tuple[Tensor, Tensor]:
    """Return ln p of the unigram (V,) and of the bigram (V, V), a row for each character before; order >= 2."""
    size, (singles, pairs) = ngram.vocab_size, ngram.by_length[:2]
    count_V, followed_V, kinds_V = torch.zeros(3, size, dtype=torch.float64)
    count_V[singles.numbers] = singles.occurrences.double()
    followed_V[singles.numbers] = pairs.followed.double()
    kinds_V[singles.numbers] = pairs.kinds.double()
    count_VV = torch.zeros(size, size, dtype=torch.float64)
    count_VV[singles.numbers[pairs.numbers // size], pairs.numbers % size] = pairs.occurrences.double()
    uniform_V = torch.full((size,), 1 / size, dtype=torch.float64)
    p_V = witten_bell(count_V, singles.followed, singles.kinds, uniform_V)
    return p_V.log(), witten_bell(count_VV, followed_V[:, None], kinds_V[:, None], p_V).log()


def divergences(logits_NV: Tensor, split: Split, ngram: NGram) -> dict[str, float]:
    """Return the mean Kullback–Leibler divergence of the predictions of `split` from n-gram predictions, nats.

    Which of uniform, unigram and bigram a young model resembles says how much of the context it uses.
    """
    log_p_NV = logits_NV.float().log_softmax(-1)
    p_NV = log_p_NV.exp()
    log_q_V, log_q_VV = (table.float() for table in table_log_p(ngram))
    negative_entropy = float((p_NV * log_p_NV).sum(-1).mean())
    return {"uniform_divergence_nats": negative_entropy + math.log(ngram.vocab_size),
            "unigram_divergence_nats": negative_entropy - float((p_NV @ log_q_V).mean()),
            "bigram_divergence_nats":
                negative_entropy - float((p_NV * log_q_VV[split.previous_N]).sum(-1).mean())}
