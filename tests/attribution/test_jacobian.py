"""The written-out derivative against autograd's, target by target."""

from __future__ import annotations

import pytest
import torch
from support import make_noisy_model

from nanogpt.attribution import jacobian as backward
from nanogpt.attribution.jacobian import gradients_by_target
from nanogpt.config import ModelConfig


@pytest.mark.parametrize("targets_per_pass", [1, 3, 8])
@pytest.mark.parametrize(("layers", "block"), [(1, 0), (1, 1), (3, 0), (3, 1), (3, 2), (3, 3)])
@pytest.mark.parametrize(("texts", "length"), [(1, 1), (2, 2), (3, 9), (1, 12)])
def test_it_is_autograds(layers: int, block: int, texts: int, length: int, targets_per_pass: int,
                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backward.MOST_TARGETS, "cpu", targets_per_pass)
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


def test_texts_longer_than_the_context_are_refused() -> None:
    model = make_noisy_model(ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=12), 11)
    with pytest.raises(ValueError, match="block_size = 12 characters"):
        next(gradients_by_target(model, torch.zeros(1, 13, 16, dtype=torch.float64), lambda logits: logits[..., 0]))
