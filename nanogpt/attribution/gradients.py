"""Attribution by gradients: how a target's value reacts to the residual stream at each earlier position.

The stream starts as the normalised embedding, and that is what every method here calls the input: the raw
embedding's length does not reach the model, so a gradient times the raw embedding would be 0.

Shape suffixes: P texts, T positions (targets), K targets of one pass, S positions (sources), C channels,
V characters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nanogpt.attribution.jacobian import gradients_by_target
from nanogpt.config import AttributionConfig
from nanogpt.errors import require
from nanogpt.model.gpt import GPT


@dataclass(frozen=True, eq=False)
class Query:
    """What is asked of a model at every position of P texts: how it comes to `targets`, and not to `foils`."""

    ids_PT: Tensor
    targets_PT: Tensor
    neutral_C: Tensor                  # the input that stands for a character taken away
    attribute_of: str = "logit"        # one of config.ATTRIBUTE_OF
    foils_PT: Tensor | None = None     # for contrastive explanations (Yin & Neubig 2022, arXiv:2202.10419)

    def values(self, logits_PTV: Tensor) -> Tensor:
        """Return logit, log-probability or loss (nats) of the targets, less their foils': (P, T)."""
        scored_PTV = logits_PTV if self.attribute_of == "logit" else logits_PTV.log_softmax(-1)
        value_PT = scored_PTV.gather(-1, self.targets_PT[..., None]).squeeze(-1)
        if self.foils_PT is not None:
            value_PT = value_PT - scored_PTV.gather(-1, self.foils_PT[..., None]).squeeze(-1)
        return -value_PT if self.attribute_of == "loss" else value_PT

    def rows(self, text_B: Tensor) -> Query:
        """Return the query of the texts of these numbers, in their order; a text may come several times."""
        foils_BT = None if self.foils_PT is None else self.foils_PT[text_B]
        return replace(self, ids_PT=self.ids_PT[text_B], targets_PT=self.targets_PT[text_B], foils_PT=foils_BT)

    def prefix(self, length: int) -> Query:
        """Return the query of the first `length` positions."""
        foils_PT = None if self.foils_PT is None else self.foils_PT[:, :length]
        return replace(self, ids_PT=self.ids_PT[:, :length], targets_PT=self.targets_PT[:, :length], foils_PT=foils_PT)


def scores_by_target(model: GPT, x_PTC: Tensor, query: Query, score: Callable[[Tensor], Tensor],
                     block: int = 0) -> Tensor:
    """Apply `score` to the gradients of every target, (K, P, S, C) to (K, P, S): (P, T, S), 0 after a target."""
    scores_PTS = x_PTC.new_zeros(*x_PTC.shape[:2], x_PTC.size(1))
    for first, gradients_KPSC in gradients_by_target(model, x_PTC, query.values, block):
        count, _, length, _ = gradients_KPSC.shape
        scores_PTS[:, first:first + count, :length] = score(gradients_KPSC).transpose(0, 1)
    return scores_PTS.tril()


def channel_norm(gradients_KPSC: Tensor) -> Tensor:
    """Return ‖gradient‖₂ at each position, (K, P, S)."""
    return gradients_KPSC.norm(dim=-1)


def channel_sum(gradients_KPSC: Tensor, x_PTC: Tensor) -> Tensor:
    """Return Σ_c gradient · x at each position that the gradients reach, (K, P, S)."""
    return torch.einsum("kpsc,psc->kps", gradients_KPSC, x_PTC[:, :gradients_KPSC.size(2)])


def embedded_texts(model: GPT, query: Query) -> Tensor:
    """Return the input of the query's texts, (P, T, C), without a graph."""
    return model.embed(query.ids_PT).detach()


def gradient_norm(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """Score ‖∂ value_t / ∂ x_s‖₂, (P, T, S): saliency of Simonyan et al. 2013 (arXiv:1312.6034), the norm over channels
    as in Li et al. 2016 (arXiv:1506.01066)."""
    return scores_by_target(model, embedded_texts(model, query), query, channel_norm)


def gradient_times_input(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """Score x_s · ∂ value_t / ∂ x_s, (P, T, S), signed: Shrikumar et al. 2016 (arXiv:1605.01713)."""
    x_PTC = embedded_texts(model, query)
    return scores_by_target(model, x_PTC, query, lambda gradients_KPSC: channel_sum(gradients_KPSC, x_PTC))


def integrated_gradients(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """Score (x_s − b) · ∫₀¹ ∂ value_t / ∂ x_s at b + α (x − b) dα, (P, T, S), signed: Sundararajan et al. 2017
    (arXiv:1703.01365, equation 1), by Gauss-Legendre quadrature. b is the neutral input at every position."""
    x_PTC = embedded_texts(model, query)
    difference_PTC = x_PTC - query.neutral_C
    return torch.stack([
        weight * scores_by_target(model, query.neutral_C + alpha * difference_PTC, query,
                                  lambda gradients_KPSC: channel_sum(gradients_KPSC, difference_PTC))
        for alpha, weight in quadrature(config.integration_points)]).sum(0)


def quadrature(points: int) -> list[tuple[float, float]]:
    """Return the (node, weight) of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(points)    # on [-1, 1]
    return list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


@torch.no_grad()
def completeness_gap(model: GPT, query: Query, scores_PTS: Tensor) -> Tensor:
    """Return value_t(x) − value_t(b) − Σ_s score_s, (P, T): 0 where integrated gradients leave nothing unexplained."""
    x_PTC = embedded_texts(model, query)
    neutral_PTC = query.neutral_C.expand_as(x_PTC).contiguous()
    value_PT, neutral_value_PT = (query.values(model.unembed(model.run_blocks(x))) for x in (x_PTC, neutral_PTC))
    return value_PT - neutral_value_PT - scores_PTS.sum(-1)


def smoothgrad(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """Score the mean gradient norm over x + ε, ε normal, (P, T, S): Smilkov et al. 2017 (arXiv:1706.03825), always with
    the same draws. The noise is in units of the input's root mean square, which is 1."""
    x_PTC = embedded_texts(model, query)
    generator = torch.Generator().manual_seed(0)
    shape = (config.smooth_draws, model.config.block_size, x_PTC.size(-1))     # so that no other text changes it
    noises = torch.randn(shape, generator=generator)[:, :x_PTC.size(1)].to(x_PTC) * config.smooth_noise
    return torch.stack([scores_by_target(model, x_PTC + noise_TC, query, channel_norm) for noise_TC in noises]).mean(0)


def grad_cam(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """Score ReLU(Σ_c a_c h_sc), a the mean of ∂ value_t / ∂ h_s over s <= t and h the stream after `cam_block` blocks,
    (P, T, S), >= 0: Selvaraju et al. 2017 (arXiv:1610.02391, equations 1 and 2), positions in place of pixels.

    UserError where the model has fewer blocks.
    """
    h_PTC = stream_after_cam_block(model, query, config)
    read_T1 = torch.arange(1, h_PTC.size(1) + 1, device=h_PTC.device)[:, None]
    summed_PTS = scores_by_target(model, h_PTC, query, lambda gradients_KPSC: channel_sum(
        gradients_KPSC.sum(2, keepdim=True).expand_as(gradients_KPSC), h_PTC), config.cam_block)
    return (summed_PTS / read_T1).relu()


def hires_cam(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """Score h_s · ∂ value_t / ∂ h_s, h the stream after `cam_block` blocks, (P, T, S), signed: HiResCAM of Draelos &
    Carin 2020 (arXiv:2011.08891), which is Grad-CAM without averaging the gradient over positions and without ReLU.

    After 0 blocks it is `gradient_times_input`. UserError where the model has fewer blocks.
    """
    h_PTC = stream_after_cam_block(model, query, config)
    return scores_by_target(model, h_PTC, query, lambda gradients_KPSC: channel_sum(gradients_KPSC, h_PTC),
                            config.cam_block)


@torch.no_grad()
def stream_after_cam_block(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """Return the residual stream after `cam_block` blocks, (P, T, C). UserError where the model has fewer."""
    require(config.cam_block <= model.config.n_layer,
            f"cam_block must be <= n_layer = {model.config.n_layer}", config.cam_block)
    return model.run_blocks(embedded_texts(model, query), stop=config.cam_block)
