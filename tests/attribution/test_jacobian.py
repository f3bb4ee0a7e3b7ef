"""The written-out derivative against autograd's, target by target."""

from __future__ import annotations

import pytest
import torch
from support import make_noisy_model
from torch import nn

from nanogpt.attribution import jacobian
from nanogpt.attribution.jacobian import gradients_by_target
from nanogpt.config import ModelConfig
from nanogpt.model.gpt import GPT, Attention, Positions


@pytest.mark.parametrize("targets_per_pass", [1, 3, 8])
@pytest.mark.parametrize(("layers", "block"), [(1, 0), (1, 1), (3, 0), (3, 1), (3, 2), (3, 3)])
@pytest.mark.parametrize(("texts", "length"), [(1, 1), (2, 2), (3, 9), (1, 12)])
def test_it_is_autograds(layers: int, block: int, texts: int, length: int, targets_per_pass: int,
                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jacobian.MOST_TARGETS, "cpu", targets_per_pass)
    model = make_noisy_model(ModelConfig(n_layer=layers, n_head=2, n_embd=16, block_size=12, dropout=0.5), 11)
    generator = torch.Generator().manual_seed(3)
    x_PTC = torch.randn(texts, length, 16, generator=generator, dtype=torch.float64)
    weight_V = torch.randn(11, generator=generator, dtype=torch.float64)

    def value(logits_PTV: torch.Tensor) -> torch.Tensor:
        return (logits_PTV.softmax(-1) * weight_V).sum(-1)

    seen = 0
    for first, gradients_KPSC in gradients_by_target(model, x_PTC, value, block):
        for k, found_PSC in enumerate(gradients_KPSC):
            leaf_PSC = x_PTC[:, :first + len(gradients_KPSC)].clone().requires_grad_()
            own_P = value(model.unembed(model.run_blocks(leaf_PSC, block)))[:, first + k]
            (expected_PSC,) = torch.autograd.grad(own_P.sum(), leaf_PSC)
            torch.testing.assert_close(found_PSC, expected_PSC, rtol=1e-9, atol=1e-12)
            assert bool(expected_PSC[:, first + k].any(-1).all())
            seen += 1
    assert seen == length and all(parameter.grad is None for parameter in model.parameters())


def values_of(logits_PTV: torch.Tensor) -> torch.Tensor:
    return logits_PTV.softmax(-1).square().sum(-1)


def test_both_ways_are_the_same_derivative(noisy_model: GPT) -> None:
    x_PTC = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    by_tape = {first + k: gradient for first, gradients in jacobian.by_tape(noisy_model, x_PTC, values_of, 1)
               for k, gradient in enumerate(gradients)}
    for target, (gradient_PSC,) in jacobian.by_autograd(noisy_model, x_PTC, values_of, 1):
        torch.testing.assert_close(by_tape[target][:, :target + 1], gradient_PSC, rtol=1e-9, atol=1e-12)
    assert jacobian.has_tape(noisy_model)


class OtherScale(Attention):
    """Attention that is a little sharper, as someone may change it."""

    def project(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v = super().project(*arguments)
        return 1.02 * q, k, v


class OtherNames(nn.Module):
    """A block of another make."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width, dtype=torch.float64)

    def forward(self, x_BTC: torch.Tensor, positions: Positions, cache: object = None) -> torch.Tensor:
        return x_BTC + self.mix(x_BTC).cumsum(1).tanh()


@pytest.mark.parametrize("change", ["scale", "names"])
def test_a_model_that_was_changed_goes_by_autograd(noisy_model: GPT, change: str,
                                                   caplog: pytest.LogCaptureFixture) -> None:
    jacobian.warn_once.cache_clear()
    if change == "scale":
        noisy_model.blocks[1].attention.__class__ = OtherScale
    else:
        noisy_model.blocks[1] = OtherNames(16)
    assert not jacobian.has_tape(noisy_model) and "by autograd" in caplog.text
    x_PTC = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for first, gradients_KPSC in gradients_by_target(noisy_model, x_PTC, values_of):
        leaf_PTC = x_PTC.clone().requires_grad_()
        values_of(noisy_model.unembed(noisy_model.run_blocks(leaf_PTC)))[:, first].sum().backward()
        torch.testing.assert_close(gradients_KPSC[0], leaf_PTC.grad[:, :first + 1], rtol=1e-9, atol=1e-12)


def test_texts_longer_than_the_context_are_refused() -> None:
    model = make_noisy_model(ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=12), 11)
    with pytest.raises(ValueError, match="block_size = 12 characters"):
        next(gradients_by_target(model, torch.zeros(1, 13, 16, dtype=torch.float64), lambda logits: logits[..., 0]))
