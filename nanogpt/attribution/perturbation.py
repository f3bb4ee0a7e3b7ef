"""Attribution by taking characters away: what the gradients are tested against.

A character that is taken away is replaced by the query's neutral input. Shape suffixes as in gradients.py, and
B changed copies of texts, which are read as the rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nanogpt.attribution.gradients import Query, embedded_texts
from nanogpt.config import AttributionConfig
from nanogpt.model.gpt import GPT

COPIES_PER_PASS = 64
"""Changed copies of texts that are read together: memory grows with it."""
TIE_DRAWS = 8
"""Random orders over which what is lost is averaged where scores are equal."""


@torch.no_grad()
def values_of_copies(model: GPT, query: Query, kept_BT: Tensor, text_B: Tensor) -> Tensor:
    """Return the targets' values (B, T) in copies of the texts `text_B` that keep the positions `kept_BT` alone."""
    x_PTC, values = embedded_texts(model, query), []
    for kept, text in zip(kept_BT.split(COPIES_PER_PASS), text_B.split(COPIES_PER_PASS), strict=True):
        x_BTC = torch.where(kept[..., None], x_PTC[text], query.neutral_C)
        values.append(query.rows(text).values(model.unembed(model.run_blocks(x_BTC))))
    return torch.cat(values)


def leave_one_out(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """Score value_t − value_t without s, (P, T, S), signed: the reference that others are tested against. Erasure of
    Li et al. 2016 (arXiv:1612.08220)."""
    return drop_without_spans(model, query, 1)


def occlusion(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """Score the mean of value_t − value_t without a span over all `occlusion_span` spans that hold s, (P, T, S),
    signed: Zeiler & Fergus 2014 (arXiv:1311.2901), in one dimension."""
    return drop_without_spans(model, query, config.occlusion_span)


@torch.no_grad()
def drop_without_spans(model: GPT, query: Query, span: int) -> Tensor:
    """Return the mean drop of value_t over the spans that hold s, (P, T, S), 0 after t.

    Spans begin before the first and end after the last position, so that each position is in `span` of them.
    """
    (texts, length), device = query.ids_PT.shape, query.ids_PT.device
    starts, position_T = torch.arange(1 - span, length, device=device), torch.arange(length, device=device)
    kept_BT = (position_T < starts[:, None]) | (position_T >= starts[:, None] + span)
    text_B = torch.arange(texts, device=device).repeat_interleave(len(starts))
    values_BT = values_of_copies(model, query, kept_BT.repeat(texts, 1), text_B)
    whole_PT = query.values(model(query.ids_PT))
    drop_by_start = whole_PT[:, None] - values_BT.view(texts, len(starts), length)
    return drop_by_start.unfold(1, span, 1).mean(-1).transpose(1, 2).tril()


@torch.no_grad()
def deletion_insertion(model: GPT, query: Query, scores_by_map: Tensor, t: int, shares: Sequence[float],
                       generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return what target t of one text loses without, and with nothing but, the top share of what it has read.

    Comprehensiveness (the higher, the better the map) and sufficiency (the lower) of DeYoung et al. 2020
    (arXiv:1911.03429), in units of the query's value; each (maps, shares), for maps (maps, T, S) of the text. Equal
    scores are ordered at random, which `generator` (on the CPU) draws, and the loss is averaged over TIE_DRAWS orders.
    """
    query, device = query.prefix(t + 1), query.ids_PT.device
    deleted = top_positions(scores_by_map[:, t, :t + 1].cpu(), shares, generator)
    kept = torch.stack((~deleted, deleted))
    # maps agree on many positions, and orders differ where scores are equal alone: each copy is read once
    kept_BT, copy = kept.flatten(0, -2).unique(dim=0, return_inverse=True)
    values_BT = values_of_copies(model, query, kept_BT.to(device), torch.zeros(len(kept_BT), dtype=torch.int64,
                                                                              device=device))
    losses = query.values(model(query.ids_PT))[0, t] - values_BT[copy.to(device), t]
    deletion, insertion = losses.view(kept.shape[:-1]).mean(1)
    return deletion, insertion


def top_positions(scores_by_map: Tensor, shares: Sequence[float], generator: torch.Generator) -> Tensor:
    """Return which positions are among each top share of each map's scores (maps, S): (TIE_DRAWS, maps, shares, S).

    At least one is. Which of equal scores come first is drawn for each of the TIE_DRAWS.
    """
    length = scores_by_map.size(-1)
    counts = torch.tensor([math.ceil(share * length) for share in shares])
    draws = []
    for _ in range(TIE_DRAWS):
        order_S = torch.randperm(length, generator=generator)
        rank_in_order = scores_by_map[:, order_S].argsort(dim=-1, descending=True, stable=True).argsort(-1)
        draws.append(rank_in_order[:, None, order_S.argsort()] < counts[:, None])
    return torch.stack(draws)
