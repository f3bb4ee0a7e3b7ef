"""Attribution by taking characters away: what the gradients are tested against.

A character that is taken away is replaced by the query's neutral input. Shape suffixes as in saliency.py, and
R changed copies of texts, W windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nanogpt.attribution.gradients import Query, inputs_of
from nanogpt.config import AttributionConfig
from nanogpt.model.gpt import GPT

ROWS_PER_PASS = 64
"""Changed copies of texts that are read together: memory grows with it."""


@torch.no_grad()
def values_keeping(model: GPT, query: Query, kept_RT: Tensor, text_R: Tensor) -> Tensor:
    """The targets' values (R, T) in copies of the texts `text_R` that keep the positions `kept_RT` and no other."""
    x_PTC, found = inputs_of(model, query), []
    for kept, text in zip(kept_RT.split(ROWS_PER_PASS), text_R.split(ROWS_PER_PASS), strict=True):
        x_RTC = torch.where(kept[..., None], x_PTC[text], query.neutral_C)
        foils_RT = None if query.foils_PT is None else query.foils_PT[text]
        copies = replace(query, ids_PT=query.ids_PT[text], targets_PT=query.targets_PT[text], foils_PT=foils_RT)
        found.append(copies.values(model.unembed(model.run_blocks(x_RTC))))
    return torch.cat(found)


def leave_one_out(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """value_t − value_t without s, (P, T, S), signed: the reference that others are tested against."""
    return without_spans(model, query, 1)


def occlusion(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """The mean of value_t − value_t without a span over all `occlusion_span` spans that hold s, (P, T, S), signed:
    Zeiler & Fergus 2014 (arXiv:1311.2901), in one dimension."""
    return without_spans(model, query, config.occlusion_span)


@torch.no_grad()
def without_spans(model: GPT, query: Query, span: int) -> Tensor:
    """Spans begin before the first and end after the last position, so that each position is in `span` of them."""
    (texts, length), device = query.ids_PT.shape, query.ids_PT.device
    start_W, position_T = torch.arange(1 - span, length, device=device), torch.arange(length, device=device)
    kept_WT = (position_T < start_W[:, None]) | (position_T >= start_W[:, None] + span)
    text_R = torch.arange(texts, device=device).repeat_interleave(len(start_W))
    changed_RT = values_keeping(model, query, kept_WT.repeat(texts, 1), text_R)
    whole_PT = query.values(model(query.ids_PT))
    drop_PWT = whole_PT[:, None] - changed_RT.view(texts, len(start_W), length)
    return drop_PWT.unfold(1, span, 1).mean(-1).transpose(1, 2).tril()


def deletion_insertion(model: GPT, query: Query, scores_MTS: Tensor, t: int,
                       shares: Sequence[float]) -> tuple[Tensor, Tensor]:
    """What target t of one text loses without, and with nothing but, the top share of what it has read, (M, K) each.

    Comprehensiveness (the higher, the better found) and sufficiency (the lower) of DeYoung et al. 2020
    (arXiv:1911.03429), in units of the query's value; the top by each of M maps, `scores_MTS`.
    """
    query, device = query.head(t + 1), query.ids_PT.device
    rank_MS = scores_MTS[:, t, :t + 1].argsort(dim=-1, descending=True, stable=True).argsort(-1)
    counts_K = torch.tensor([math.ceil(share * (t + 1)) for share in shares], device=device)
    deleted_MKS = rank_MS[:, None] < counts_K[:, None]
    kept_RS = torch.stack((~deleted_MKS, deleted_MKS)).flatten(0, 2)
    text_R = torch.zeros(len(kept_RS), dtype=torch.int64, device=device)
    with torch.no_grad():
        whole = query.values(model(query.ids_PT))[0, t]
    loss_R = whole - values_keeping(model, query, kept_RS, text_R)[:, t]
    deletion_MK, insertion_MK = loss_R.view(2, len(scores_MTS), len(shares))
    return deletion_MK, insertion_MK
