"""What an attribution is worth: agreement with what happens when characters are taken away, beside baselines.

Shape suffixes: T positions (targets), S positions (sources).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from nanogpt.attribution.gradients import completeness_gap
from nanogpt.attribution.maps import Attribution, make_query
from nanogpt.attribution.perturbation import deletion_insertion
from nanogpt.config import ATTRIBUTION_CATALOGUE, AttributionConfig
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT

SIGNED = frozenset(method.name for method in ATTRIBUTION_CATALOGUE if method.signed)
REFERENCE_METHOD = "leave_one_out"
"""The method with which the ranks of all others are compared."""
LEAST_CHARACTERS_READ = 8
"""Characters that must have been read before their ranks are compared."""
TOP_SHARES = (0.05, 0.1, 0.2, 0.5)
"""Shares of the characters read, the top of which are taken away, or alone kept."""
SANITY_LIMIT = 0.5
"""A method whose maps of random weights and of the last checkpoint correlate more than this fails the sanity check."""

AttributionsByMethod = Mapping[str, Sequence[Attribution]]
"""The maps of the same prompts by method."""


def ranks_of_read(scores_TS: Tensor) -> Tensor:
    """Return the average rank, from 0, of each score among those at or before its target; meaningless after it."""
    read_T1S = torch.ones_like(scores_TS, dtype=torch.bool).tril()[:, None]
    below = scores_TS[..., None] > scores_TS[:, None]
    equal = scores_TS[..., None] == scores_TS[:, None]
    return (below & read_T1S).sum(-1) + ((equal & read_T1S).sum(-1) - 1) / 2


def rank_correlation(a_TS: Tensor, b_TS: Tensor) -> Tensor:
    """Return Spearman's ρ of each target's scores, (T,) float64; 0 where one of them orders nothing."""
    read_TS = torch.ones_like(a_TS, dtype=torch.float64).tril()
    mean_rank_T1 = (read_TS.sum(-1, keepdim=True) - 1) / 2
    a, b = ((ranks_of_read(scores_TS) - mean_rank_T1) * read_TS for scores_TS in (a_TS, b_TS))
    scale_T = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return torch.where(scale_T > 0, (a * b).sum(-1) / scale_T.clamp_min(1e-12), 0.0)


def mean_rank_correlation(first: Sequence[Attribution], second: Sequence[Attribution]) -> float:
    """Return the mean ρ of the sizes of the scores in two lists of maps of the same prompts.

    It is over the targets that are characters of the prompt with LEAST_CHARACTERS_READ or more before them; nan where
    there is none.
    """
    correlations = [rank_correlation(a.scores_TS.abs(), b.scores_TS.abs())[LEAST_CHARACTERS_READ - 1:-1]
                    for a, b in zip(first, second, strict=True)]
    return float(torch.cat(correlations).mean()) if correlations else float("nan")


@dataclass(frozen=True)
class Faithfulness:
    """What a method's maps are worth on one checkpoint; higher is better but for sufficiency and the gap.

    Losses are in units of the attributed value: of logit, or nats of log-probability (of it for a loss too).
    """

    method: str
    spearman_leave_one_out: float      # of sizes; trivially 1 for leave-one-out itself
    comprehensiveness: float           # what is lost without the top shares, mean
    sufficiency: float                 # what is lost with nothing but them, mean
    deletion: tuple[float, ...]        # both by TOP_SHARES
    insertion: tuple[float, ...]
    completeness_gap: float            # of integrated gradients: mean |gap| over mean |change| of the value


def measure_faithfulness(model: GPT, checkpoint: Checkpoint, maps: AttributionsByMethod,
                         config: AttributionConfig) -> Iterator[Faithfulness]:
    """Yield one for each method of `maps`, which must hold the reference method.

    Deletions are measured at every eighth target alone, since each costs forward passes.
    """
    reference = maps[REFERENCE_METHOD]
    deletions, insertions = mean_deletion_insertion(model, checkpoint, maps, config)
    for (method, attributions), deletion, insertion in zip(maps.items(), deletions, insertions, strict=True):
        gap = float("nan")
        if method == "integrated_gradients":
            gap = relative_completeness_gap(model, checkpoint, attributions, config)
        yield Faithfulness(method, mean_rank_correlation(attributions, reference), float(deletion.mean()),
                           float(insertion.mean()), tuple(deletion.tolist()), tuple(insertion.tolist()), gap)


def mean_deletion_insertion(model: GPT, checkpoint: Checkpoint, maps: AttributionsByMethod,
                            config: AttributionConfig) -> tuple[Tensor, Tensor]:
    """Return what targets lose without, and with nothing but, the TOP_SHARES: each (methods, shares), means over every
    eighth target; nan where no prompt is long enough. Equal scores are always ordered by the same draws.

    What was attributed to a loss is tested on its negative, the log-probability, so that high scores still stand for
    what the model needs.
    """
    losses, generator = [], torch.Generator().manual_seed(0)
    of_loss = config.attribute_of == "loss"
    config = replace(config, attribute_of="log_probability") if of_loss else config
    directions = torch.tensor([-1.0 if of_loss and method in SIGNED else 1.0 for method in maps])[:, None, None]
    for number, attribution in enumerate(maps[REFERENCE_METHOD]):
        query, _ = make_query(model, checkpoint, [attribution.prompt], config)
        scores_by_method = directions * torch.stack([attributions[number].scores_TS for attributions in maps.values()])
        for t in range(LEAST_CHARACTERS_READ - 1, len(attribution.prompt), LEAST_CHARACTERS_READ):
            curves = deletion_insertion(model, query, scores_by_method, t, TOP_SHARES, generator)
            losses.append(torch.stack(curves).cpu())
    deletion, insertion = torch.stack(losses).mean(0) if losses else torch.full((2, len(maps), len(TOP_SHARES)),
                                                                                torch.nan)
    return deletion, insertion


def relative_completeness_gap(model: GPT, checkpoint: Checkpoint, attributions: Sequence[Attribution],
                              config: AttributionConfig) -> float:
    """Return Σ |completeness gap| / Σ |value of the text − value of neutral inputs|, over all targets."""
    unexplained = change = 0.0
    for attribution in attributions:
        query, _ = make_query(model, checkpoint, [attribution.prompt], config)
        scores_1TS = attribution.scores_TS[None].to(query.ids_PT.device)
        unexplained += float(completeness_gap(model, query, scores_1TS).abs().sum())
        change += float(completeness_gap(model, query, torch.zeros_like(scores_1TS)).abs().sum())
    return unexplained / change if change else float("nan")


def method_agreement(maps: AttributionsByMethod) -> Iterator[tuple[str, str, float]]:
    """Yield (method, other, mean ρ) of every pair."""
    for first, second in combinations(maps, 2):
        yield first, second, mean_rank_correlation(maps[first], maps[second])
