"""The list of attribution methods, and the baselines that every method is compared with.

Shape suffixes: P texts, T positions (targets), S positions (sources).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nanogpt.attribution import gradients, perturbation
from nanogpt.attribution.gradients import Query
from nanogpt.config import AttributionConfig
from nanogpt.model.gpt import GPT

Method = Callable[[GPT, Query, AttributionConfig], Tensor]
"""Scores (P, T, S) of every position S for the target at every position T; 0 after the target."""


def recency(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """1 / (1 + distance), (P, T, S): a baseline that knows nothing of the model."""
    position_T = torch.arange(query.ids_PT.size(1), device=query.ids_PT.device)
    distance_TS = (position_T[:, None] - position_T).clamp_min(0)
    return (1 / (1 + distance_TS)).tril().expand(len(query.ids_PT), -1, -1)


def random(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """Uniform, (P, T, S), always the same: the other baseline."""
    size, length = model.config.block_size, query.ids_PT.size(1)
    scores_TS = torch.rand(size, size, generator=torch.Generator().manual_seed(0))[:length, :length].tril()
    return scores_TS.to(query.ids_PT.device).expand(len(query.ids_PT), -1, -1)


METHODS: dict[str, Method] = {
    "gradient_norm": gradients.gradient_norm, "gradient_times_input": gradients.gradient_times_input,
    "integrated_gradients": gradients.integrated_gradients, "smoothgrad": gradients.smoothgrad,
    "grad_cam": gradients.grad_cam, "leave_one_out": perturbation.leave_one_out, "occlusion": perturbation.occlusion}
BASELINES: dict[str, Method] = {"recency": recency, "random": random}
