"""What an attribution is worth: agreement with what happens when characters are taken away, beside baselines.

Shape suffixes: T positions (targets), S positions (sources), M methods, K shares of the characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from nanogpt.attribution.gradients import completeness_gap
from nanogpt.attribution.maps import Attribution, make_query
from nanogpt.attribution.perturbation import deletion_insertion
from nanogpt.config import AttributionConfig
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT

LEAST = 8
"""Characters that must have been read before ranks of them are compared."""
SHARES = (0.05, 0.1, 0.2, 0.5)
"""Shares of the characters read, the top of which are taken away, or alone kept."""
ALIKE = 0.5
"""A method whose maps of random weights and of the last checkpoint correlate more than this fails the sanity check."""

Maps = Mapping[str, Sequence[Attribution]]
"""The maps of the same prompts by method."""


def ranks(x_TS: Tensor) -> Tensor:
    """The average rank, from 0, of each score among those at or before its target; meaningless after it."""
    visible_T1S = torch.ones_like(x_TS, dtype=torch.bool).tril()[:, None]
    below, same = x_TS[..., None] > x_TS[:, None], x_TS[..., None] == x_TS[:, None]
    return (below & visible_T1S).sum(-1) + ((same & visible_T1S).sum(-1) - 1) / 2


def rank_correlation(a_TS: Tensor, b_TS: Tensor) -> Tensor:
    """Spearman's ρ of each target's scores, (T,) float64; 0 where one of them orders nothing."""
    visible_TS = torch.ones_like(a_TS, dtype=torch.float64).tril()
    middle_T1 = (visible_TS.sum(-1, keepdim=True) - 1) / 2
    a, b = ((ranks(x_TS) - middle_T1) * visible_TS for x_TS in (a_TS, b_TS))
    size_T = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return torch.where(size_T > 0, (a * b).sum(-1) / size_T.clamp_min(1e-12), 0.0)


def similarity(first: Sequence[Attribution], second: Sequence[Attribution]) -> float:
    """Mean ρ of the sizes of the scores of two readings of the same prompts, over the targets that are characters of
    the prompt with at least LEAST characters before them; nan where there is none."""
    found = [rank_correlation(a.scores_TS.abs(), b.scores_TS.abs())[LEAST - 1:-1]
             for a, b in zip(first, second, strict=True)]
    return float(torch.cat(found).mean()) if found else float("nan")


@dataclass(frozen=True)
class Faithfulness:
    """What a method's maps are worth on one checkpoint; higher is better but for sufficiency and the gap.

    Losses are in units of the attributed value: of logit, or nats of log-probability or loss.
    """

    method: str
    spearman_leave_one_out: float      # of sizes; trivially 1 for leave-one-out itself
    comprehensiveness: float           # what is lost without the top SHARES, mean
    sufficiency: float                 # what is lost with nothing but them, mean
    deletion_K: tuple[float, ...]      # both by share
    insertion_K: tuple[float, ...]
    completeness_gap: float            # of integrated gradients: mean |gap| over mean |change| of the value


def faithfulness(model: GPT, checkpoint: Checkpoint, maps: Maps, config: AttributionConfig) -> Iterator[Faithfulness]:
    """One for each method of `maps`; the deletions at every eighth target alone, since each costs forward passes."""
    reference, losses = maps["leave_one_out"], []
    for number, attribution in enumerate(reference):
        query, _ = make_query(model, checkpoint, [attribution.prompt], config)
        scores_MTS = torch.stack([found[number].scores_TS for found in maps.values()]).to(query.ids_PT.device)
        for t in range(LEAST - 1, len(attribution.prompt), LEAST):
            losses.append(torch.stack(deletion_insertion(model, query, scores_MTS, t, SHARES)).cpu())
    curves_2MK = torch.stack(losses).mean(0) if losses else torch.full((2, len(maps), len(SHARES)), torch.nan)
    for (method, found), deletion_K, insertion_K in zip(maps.items(), *curves_2MK, strict=True):
        gap = relative_gap(model, checkpoint, found, config) if method == "integrated_gradients" else float("nan")
        yield Faithfulness(method, similarity(found, reference), float(deletion_K.mean()), float(insertion_K.mean()),
                           tuple(deletion_K.tolist()), tuple(insertion_K.tolist()), gap)


def relative_gap(model: GPT, checkpoint: Checkpoint, found: Sequence[Attribution], config: AttributionConfig) -> float:
    """Σ |completeness gap| / Σ |value of the text − value of neutral inputs|, over all targets."""
    missed = whole = 0.0
    for attribution in found:
        query, _ = make_query(model, checkpoint, [attribution.prompt], config)
        scores_1TS = attribution.scores_TS[None].to(query.ids_PT.device)
        missed += float(completeness_gap(model, query, scores_1TS).abs().sum())
        whole += float(completeness_gap(model, query, torch.zeros_like(scores_1TS)).abs().sum())
    return missed / whole if whole else float("nan")


def agreement(maps: Maps) -> Iterator[tuple[str, str, float]]:
    """(method, other, mean ρ) of every pair."""
    for first, second in combinations(maps, 2):
        yield first, second, similarity(maps[first], maps[second])
