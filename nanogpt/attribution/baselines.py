"""Baselines that every attribution method is compared with: they know nothing of the model.

Shape suffixes: P texts, T positions (targets), S positions (sources).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanogpt.attribution.gradients import Query
from nanogpt.config import AttributionConfig
from nanogpt.model.gpt import GPT


def recency(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """Score 1 / (1 + distance), (P, T, S)."""
    position_T = torch.arange(query.ids_PT.size(1), device=query.ids_PT.device)
    distance_TS = (position_T[:, None] - position_T).clamp_min(0)
    return (1 / (1 + distance_TS)).tril().expand(len(query.ids_PT), -1, -1)


def random(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """Score uniformly at random, (P, T, S), always the same."""
    size, length = model.config.block_size, query.ids_PT.size(1)
    scores_TS = torch.rand(size, size, generator=torch.Generator().manual_seed(0))[:length, :length].tril()
    return scores_TS.to(query.ids_PT.device).expand(len(query.ids_PT), -1, -1)
