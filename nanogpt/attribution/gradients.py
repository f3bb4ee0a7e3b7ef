"""Attribution by gradients: how a target's value reacts to the residual stream at each earlier position.

The stream starts as the normalised embedding, and that is what every method here calls the input: the raw
embedding's length does not reach the model, so a gradient times the raw embedding would be 0.

Shape suffixes: P texts, T positions (targets), K targets of one pass, S positions (sources), C channels,
V characters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
    of: str = "logit"                  # one of config.ATTRIBUTE_OF
    foils_PT: Tensor | None = None     # for contrastive explanations (Yin & Neubig 2022, arXiv:2202.10419)

    def values(self, logits_PTV: Tensor) -> Tensor:
        """Logit, log-probability or loss (nats) of the targets, less their foils': (P, T)."""
        scored_PTV = logits_PTV if self.of == "logit" else logits_PTV.log_softmax(-1)
        found_PT = scored_PTV.gather(-1, self.targets_PT[..., None]).squeeze(-1)
        if self.foils_PT is not None:
            found_PT = found_PT - scored_PTV.gather(-1, self.foils_PT[..., None]).squeeze(-1)
        return -found_PT if self.of == "loss" else found_PT

    def head(self, length: int) -> Query:
        """The same of the first `length` positions."""
        foils_PT = None if self.foils_PT is None else self.foils_PT[:, :length]
        return replace(self, ids_PT=self.ids_PT[:, :length], targets_PT=self.targets_PT[:, :length], foils_PT=foils_PT)


def triangle(model: GPT, x_PTC: Tensor, query: Query, score: Callable[[Tensor], Tensor], block: int = 0) -> Tensor:
    """(P, T, S): `score` of the gradients of every target, (K, P, S, C) to (K, P, S); 0 after a target."""
    scores_PTS = x_PTC.new_zeros(*x_PTC.shape[:2], x_PTC.size(1))
    for first, gradients_KPSC in gradients_by_target(model, x_PTC, query.values, block):
        count, _, length, _ = gradients_KPSC.shape
        scores_PTS[:, first:first + count, :length] = score(gradients_KPSC).transpose(0, 1)
    return scores_PTS.tril()


def inputs_of(model: GPT, query: Query) -> Tensor:
    """(P, T, C), without a graph."""
    return model.embed(query.ids_PT).detach()


def gradient_norm(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """‖∂ value_t / ∂ x_s‖₂, (P, T, S): saliency of Simonyan et al. 2013 (arXiv:1312.6034), the norm over channels as
    in Li et al. 2016 (arXiv:1506.01066)."""
    return triangle(model, inputs_of(model, query), query, lambda gradients_KPSC: gradients_KPSC.norm(dim=-1))


def gradient_times_input(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """x_s · ∂ value_t / ∂ x_s, (P, T, S), signed: Shrikumar et al. 2016 (arXiv:1605.01713)."""
    x_PTC = inputs_of(model, query)
    return triangle(model, x_PTC, query, lambda gradients_KPSC: channel_sum(gradients_KPSC, x_PTC))


def integrated_gradients(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """(x_s − b) · ∫₀¹ ∂ value_t / ∂ x_s at b + α (x − b) dα, (P, T, S), signed: Sundararajan et al. 2017
    (arXiv:1703.01365, equation 1), by Gauss-Legendre quadrature. b is the neutral input at every position."""
    x_PTC = inputs_of(model, query)
    difference_PTC = x_PTC - query.neutral_C
    nodes, weights = (values.tolist() for values in gauss_legendre(config.integration_points))
    return torch.stack([
        weight * triangle(model, query.neutral_C + node * difference_PTC, query,
                          lambda gradients_KPSC: channel_sum(gradients_KPSC, difference_PTC))
        for node, weight in zip(nodes, weights, strict=True)]).sum(0)


@torch.no_grad()
def completeness_gap(model: GPT, query: Query, scores_PTS: Tensor) -> Tensor:
    """value_t(x) − value_t(b) − Σ_s score_s, (P, T): 0 where integrated gradients leave nothing unexplained."""
    x_PTC = inputs_of(model, query)
    ends = (query.values(model.unembed(model.run_blocks(x)))
            for x in (x_PTC, query.neutral_C.expand_as(x_PTC).contiguous()))
    return next(ends) - next(ends) - scores_PTS.sum(-1)


def smoothgrad(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """The mean gradient norm over x + ε, ε normal, (P, T, S): Smilkov et al. 2017 (arXiv:1706.03825), always the same
    draws. The noise is in units of the input's root mean square, which is 1."""
    x_PTC = inputs_of(model, query)
    generator = torch.Generator().manual_seed(0)
    shape = (config.smooth_draws, model.config.block_size, x_PTC.size(-1))     # so that no other text changes it
    noise_DTC = torch.randn(shape, generator=generator)[:, :x_PTC.size(1)].to(x_PTC) * config.smooth_noise
    return torch.stack([triangle(model, x_PTC + noise_TC, query, lambda gradients_KPSC: gradients_KPSC.norm(dim=-1))
                        for noise_TC in noise_DTC]).mean(0)


def grad_cam(model: GPT, query: Query, config: AttributionConfig) -> Tensor:
    """ReLU(Σ_c a_c h_sc), a the mean of ∂ value_t / ∂ h_s over s <= t and h the stream after `cam_block` blocks,
    (P, T, S), >= 0: Selvaraju et al. 2017 (arXiv:1610.02391, equations 1 and 2), positions in place of pixels.

    UserError where the model has fewer blocks.
    """
    require(config.cam_block <= model.config.n_layer,
            f"cam_block must be <= n_layer = {model.config.n_layer}", config.cam_block)
    with torch.no_grad():
        h_PTC = model.run_blocks(inputs_of(model, query), stop=config.cam_block)
    visible_T1 = torch.arange(1, h_PTC.size(1) + 1, device=h_PTC.device)[:, None]
    summed_PTS = triangle(model, h_PTC, query, lambda gradients_KPSC: torch.einsum(
        "kpc,psc->kps", gradients_KPSC.sum(2), h_PTC[:, :gradients_KPSC.size(2)]), config.cam_block)
    return (summed_PTS / visible_T1).relu()


def channel_sum(gradients_KPSC: Tensor, x_PTC: Tensor) -> Tensor:
    return torch.einsum("kpsc,psc->kps", gradients_KPSC, x_PTC[:, :gradients_KPSC.size(2)])


def gauss_legendre(points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], float64: Golub & Welsch 1969 (doi:10.1090/S0025-5718-69-99647-1)."""
    k = torch.arange(1, points, dtype=torch.float64)
    beside = k / (4 * k * k - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return (nodes + 1) / 2, vectors[0].square()
