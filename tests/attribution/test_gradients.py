"""Gradient methods against captum and differences, and as laws of causal models and of probabilities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, LayerGradientXActivation, Saliency
from support.queries import LENGTH, make_query
from torch import Tensor, nn

from nanogpt.attribution import jacobian
from nanogpt.attribution.gradients import (
    Query,
    completeness_gap,
    grad_cam,
    gradient_norm,
    gradient_times_input,
    hires_cam,
    integrated_gradients,
    quadrature,
    smoothgrad,
)
from nanogpt.attribution.jacobian import MOST_TARGETS, gradients_by_target
from nanogpt.attribution.maps import make_query as attribution_query
from nanogpt.config import AttributionConfig
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT

CONFIG = AttributionConfig(integration_points=50)
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


class AfterEmbedding(nn.Module):
    """From embeddings to the logits at the last position: what captum can differentiate. `block` outputs (B, C, T)."""

    def __init__(self, model: GPT, block: int = 0) -> None:
        super().__init__()
        self.model, self.block, self.seen = model, block, nn.Identity()

    def forward(self, x_BTC: Tensor) -> Tensor:
        h_BCT = self.seen(self.model.run_blocks(x_BTC, stop=self.block).mT)
        return self.model.unembed(self.model.run_blocks(h_BCT.mT, self.block))[:, -1]


def by_prefix(model: GPT, query: Query, explain) -> Tensor:
    """(P, T, S) of `explain(input of the prefix, targets)`, a call of captum for each target."""
    x_PTC = model.embed(query.ids_PT).detach()
    scores_PTS = x_PTC.new_zeros(3, LENGTH, LENGTH)
    for t in range(LENGTH):
        scores_PTS[:, t, :t + 1] = explain(x_PTC[:, :t + 1].clone().requires_grad_(), query.targets_PT[:, t])
    return scores_PTS


def test_gradients_are_captums(noisy_model: GPT) -> None:
    query, after = make_query(noisy_model), AfterEmbedding(noisy_model)
    norms = by_prefix(noisy_model, query, lambda x, y: Saliency(after).attribute(x, y, abs=False).norm(dim=-1))
    torch.testing.assert_close(gradient_norm(noisy_model, query, CONFIG), norms, **CLOSE)
    products = by_prefix(noisy_model, query, lambda x, y: InputXGradient(after).attribute(x, y).sum(-1))
    torch.testing.assert_close(gradient_times_input(noisy_model, query, CONFIG), products, **CLOSE)
    assert MOST_TARGETS["cpu"] < LENGTH and float(products.detach().abs().amax()) > 1e-2


def test_integrated_gradients_are_captums(noisy_model: GPT) -> None:
    query, after = make_query(noisy_model), AfterEmbedding(noisy_model)
    config = replace(CONFIG, integration_points=8)

    def explain(x: Tensor, y: Tensor) -> Tensor:
        return IntegratedGradients(after).attribute(
            x, query.neutral_C.expand_as(x), y, n_steps=8, method="gausslegendre").sum(-1)

    torch.testing.assert_close(integrated_gradients(noisy_model, query, config),
                               by_prefix(noisy_model, query, explain).detach(),
                               rtol=1e-6, atol=1e-7)     # captum's weights are float32


@pytest.mark.parametrize("block", [1, 2])
def test_grad_cam_is_captums(block: int, noisy_model: GPT) -> None:
    query, after = make_query(noisy_model), AfterEmbedding(noisy_model, block)
    expected = by_prefix(noisy_model, query, lambda x, y: LayerGradCam(after, after.seen).attribute(
        x, y, relu_attributions=True)[:, 0].detach())
    torch.testing.assert_close(grad_cam(noisy_model, query, replace(CONFIG, cam_block=block)), expected, **CLOSE)
    assert bool((expected > 0).any()) and bool((expected.tril() == 0).any())


@pytest.mark.parametrize("block", [1, 2])
def test_hires_cam_is_captums_gradient_times_activation(block: int, noisy_model: GPT) -> None:
    query, after = make_query(noisy_model), AfterEmbedding(noisy_model, block)
    expected = by_prefix(noisy_model, query, lambda x, y: LayerGradientXActivation(after, after.seen).attribute(
        x, y).sum(1).detach())
    torch.testing.assert_close(hires_cam(noisy_model, query, replace(CONFIG, cam_block=block)), expected, **CLOSE)
    assert bool((expected > 0).any()) and bool((expected < 0).any())


def test_hires_cam_of_the_embeddings_is_gradient_times_input(noisy_model: GPT) -> None:
    query = make_query(noisy_model)
    torch.testing.assert_close(hires_cam(noisy_model, query, replace(CONFIG, cam_block=0)),
                               gradient_times_input(noisy_model, query, CONFIG), **CLOSE)


def test_both_cams_are_one_where_one_position_was_read_and_differ_where_several_were(noisy_model: GPT) -> None:
    """The mean of one gradient is that gradient."""
    query = make_query(noisy_model)
    cam, hires = grad_cam(noisy_model, query, CONFIG), hires_cam(noisy_model, query, CONFIG)
    torch.testing.assert_close(cam[:, 0, 0], hires[:, 0, 0].relu(), **CLOSE)
    assert bool((cam[:, 1:] - hires[:, 1:].relu()).abs().amax() > 1e-3)


def test_the_quadrature_is_exact_for_polynomials_of_twice_as_many_degrees_as_points() -> None:
    """∫₀¹ αᵏ dα = 1 / (k + 1), up to k = 2 · 7 − 1 and no further."""
    errors = [abs(sum(weight * alpha**k for alpha, weight in quadrature(7)) - 1 / (k + 1)) for k in range(15)]
    assert max(errors[:14]) < 1e-14 < errors[14]


def test_fifty_points_explain_the_whole_change_within_a_percent_and_one_does_not(trained: Checkpoint) -> None:
    model = trained.build()
    query, _ = attribution_query(model, trained, ["To be, or"], CONFIG)
    whole_PT = completeness_gap(model, query, torch.zeros(1, 9, 9))
    for points, explained in ((50, True), (1, False)):
        scores_PTS = integrated_gradients(model, query, replace(CONFIG, integration_points=points))
        missed = completeness_gap(model, query, scores_PTS).abs().sum() / whole_PT.abs().sum()
        assert bool(missed < 0.01) == explained


@pytest.mark.parametrize("attribute_of", ["logit", "log_probability", "loss"])
def test_a_gradient_is_the_slope_of_what_is_asked(attribute_of: str, noisy_model: GPT) -> None:
    """Central differences along each channel of one position, with foils."""
    query, t, s, step = make_query(noisy_model, attribute_of=attribute_of), 9, 4, 1e-6
    x_PTC = noisy_model.embed(query.ids_PT).detach()
    with torch.no_grad():
        def value(shift: Tensor) -> Tensor:
            changed = x_PTC.clone()
            changed[:, s] += shift
            return query.values(noisy_model.unembed(noisy_model.run_blocks(changed)))[:, t]
        slopes_PC = torch.stack([(value(step * e) - value(-step * e)) / (2 * step) for e in torch.eye(16).double()], -1)
    (gradient_PC,) = (gradients[t - first, :, s] for first, gradients in gradients_by_target(
        noisy_model, x_PTC, query.values) if first <= t < first + len(gradients))
    torch.testing.assert_close(gradient_PC, slopes_PC, rtol=1e-5, atol=1e-7)


def test_values_of_a_contrast_are_differences_and_their_softmax_cancels(noisy_model: GPT) -> None:
    logits_PTV = noisy_model(make_query(noisy_model).ids_PT).detach()
    logit, log_probability, loss = (make_query(noisy_model, attribute_of=attribute_of).values(logits_PTV)
                                    for attribute_of in ("logit", "log_probability", "loss"))
    torch.testing.assert_close(logit, log_probability)
    assert torch.equal(loss, -log_probability)
    plain = make_query(noisy_model)
    torch.testing.assert_close(logit, plain.values(logits_PTV) - replace(
        plain, targets_PT=make_query(noisy_model, attribute_of="logit").foils_PT).values(logits_PTV))


def test_later_positions_count_exactly_nothing_and_earlier_ones_something(noisy_model: GPT) -> None:
    query = make_query(noisy_model)
    lower = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    for first, gradients_KPSC in gradients_by_target(noisy_model, noisy_model.embed(query.ids_PT), query.values):
        for k, gradients_PSC in enumerate(gradients_KPSC):
            assert not gradients_PSC[:, first + k + 1:].any() and bool(gradients_PSC[:, :first + k + 1].any(-1).all())
    scores_PTS = gradient_norm(noisy_model, query, CONFIG)
    assert bool((scores_PTS[:, lower] > 0).all()) and not scores_PTS[:, ~lower].any()


def test_expected_gradients_of_log_probabilities_are_zero(noisy_model: GPT) -> None:
    """Σ_v p_v ∇ log p_v = ∇ Σ_v p_v = 0 for every target and position."""
    query, total = make_query(noisy_model), torch.zeros(LENGTH, 3, LENGTH, 16, dtype=torch.float64)
    p_PTV = noisy_model(query.ids_PT).detach().softmax(-1)
    for v in range(noisy_model.vocab_size):
        asked = replace(query, targets_PT=torch.full_like(query.targets_PT, v), attribute_of="log_probability")
        for first, gradients in gradients_by_target(noisy_model, noisy_model.embed(query.ids_PT), asked.values):
            k, _, s, _ = gradients.shape
            total[first:first + k, :, :s] += gradients * p_PTV[:, first:first + k, v].T[..., None, None]
    assert float(total.abs().amax()) < 1e-9


def test_targets_of_one_pass_are_targets_alone(noisy_model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    query = make_query(noisy_model)
    together = gradient_norm(noisy_model, query, CONFIG)
    monkeypatch.setitem(jacobian.MOST_TARGETS, "cpu", 1)
    torch.testing.assert_close(gradient_norm(noisy_model, query, CONFIG), together, rtol=1e-9, atol=1e-12)


def test_without_noise_smoothgrad_is_the_gradient_norm_and_with_it_not(noisy_model: GPT) -> None:
    query, plain = make_query(noisy_model), gradient_norm(noisy_model, make_query(noisy_model), CONFIG)
    quiet, loud = (smoothgrad(noisy_model, query, replace(CONFIG, smooth_noise=noise, smooth_draws=2))
                   for noise in (0.0, 0.2))
    torch.testing.assert_close(quiet, plain)
    assert not torch.allclose(loud, plain, rtol=1e-2)


def test_the_raw_embeddings_length_does_not_count(noisy_model: GPT) -> None:
    """Why the input is the normalised embedding: a gradient times the raw one is 0."""
    raw_PTC = noisy_model.embedding(make_query(noisy_model).ids_PT).detach().requires_grad_()
    logits_PTV = noisy_model.unembed(noisy_model.run_blocks(torch.nn.functional.rms_norm(raw_PTC, (16,))))
    (gradient_PTC,) = torch.autograd.grad(logits_PTV[:, -1, 0].sum(), raw_PTC)
    assert float((gradient_PTC * raw_PTC.detach()).sum(-1).abs().amax()) < 1e-9 < float(gradient_PTC.abs().amax())
