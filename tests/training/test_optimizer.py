"""Muon against one matrix at a time in float64; who learns by which rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nanogpt.config import ModelConfig, TrainConfig
from nanogpt.model.gpt import GPT
from nanogpt.training.optimizer import (
    BETAS,
    MOMENTUM,
    NEWTON_SCHULZ,
    Muon,
    make_optimizers,
    orthogonalize,
    set_rate_factor,
)

SHAPES = [(1, 8, 8), (3, 16, 16), (2, 16, 64), (2, 1, 5)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_singular_values(g_RC: Tensor, steps: int) -> Tensor:
    """The polynomials applied to the singular values themselves."""
    u, s, vt = torch.linalg.svd(g_RC, full_matrices=False)
    s = s / (1.01 * s.norm() + 1e-7)
    for a, b, c in NEWTON_SCHULZ[:steps]:
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vt


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 3, 6])
def test_a_batch_is_each_matrix_by_its_singular_values(shape: tuple[int, int, int], steps: int) -> None:
    g_NRC = noise(*shape)
    for found, g_RC in zip(orthogonalize(g_NRC, steps), g_NRC, strict=True):
        torch.testing.assert_close(found, by_singular_values(g_RC, steps), rtol=0, atol=1e-9)
    single = orthogonalize(g_NRC.float(), steps)
    torch.testing.assert_close(single.double(), orthogonalize(g_NRC, steps), rtol=0, atol=2e-3)


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 32, 128)])
def test_six_steps_bring_singular_values_near_1(shape: tuple[int, int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalize(noise(*shape), 6))
    assert float(values.min()) > 0.85 and float(values.max()) < 1.02


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 32, 128)])
def test_three_steps_never_pass_2_and_keep_the_order_of_scale(shape: tuple[int, int, int]) -> None:
    g_NRC = noise(*shape)
    assert float(torch.linalg.svdvals(orthogonalize(g_NRC)).max()) < 2
    torch.testing.assert_close(orthogonalize(1000 * g_NRC), orthogonalize(g_NRC), rtol=1e-4, atol=1e-6)


def test_zeros_stay_zeros() -> None:
    assert not orthogonalize(torch.zeros(2, 4, 8)).any()


def reference_update(weight: Tensor, momentum: Tensor, gradient: Tensor, config: TrainConfig) -> None:
    """Muon's rule for one matrix, as its docstring says it."""
    momentum.mul_(MOMENTUM).add_((1 - MOMENTUM) * gradient)
    update = by_singular_values((1 - MOMENTUM) * gradient + MOMENTUM * momentum, 3)
    size = max(1.0, weight.size(0) / weight.size(1)) ** 0.5
    weight.mul_(1 - config.matrix_learning_rate * config.weight_decay).sub_(config.matrix_learning_rate * size * update)


def test_muon_is_its_rule_one_matrix_at_a_time_in_float64() -> None:
    config = TrainConfig(weight_decay=0.3)
    shapes = [(8, 8), (24, 8), (16, 8), (32, 8), (8, 32), (24, 8)]
    rows = [(8,), (8, 8, 8), (8, 4, 4), (32,), (8,), (24,)]     # of the third, queries, two shared keys and values
    parameters = [nn.Parameter(noise(*shape, seed=i).clone()) for i, shape in enumerate(shapes)]
    parts = [list(p.detach().clone().split(sizes)) for p, sizes in zip(parameters, rows, strict=True)]
    momenta = [[torch.zeros_like(part) for part in group] for group in parts]
    muon = Muon(list(zip(parameters, rows, strict=True)), config.matrix_learning_rate, weight_decay=config.weight_decay)
    for step in range(4):
        for i, parameter in enumerate(parameters):
            parameter.grad = noise(*parameter.shape, seed=100 * step + i)
            for weight, momentum, gradient in zip(parts[i], momenta[i], parameter.grad.split(rows[i]), strict=True):
                reference_update(weight, momentum, gradient, config)
        muon.step()
        for parameter, part in zip(parameters, parts, strict=True):
            torch.testing.assert_close(parameter.detach(), torch.cat(part), rtol=0, atol=1e-7)


def test_a_parameter_without_gradient_stays() -> None:
    still, moving = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    moving.grad = torch.eye(4)
    Muon([(still, (4,)), (moving, (4,))], 0.1).step()
    assert torch.equal(still, torch.ones(4, 4)) and not torch.equal(moving, torch.ones(4, 4))


def test_every_parameter_learns_by_one_rule_and_matrices_in_blocks_by_muon() -> None:
    model = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=16, block_size=8), 9)
    muon, adamw = make_optimizers(model, TrainConfig())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_muon, by_adamw = ([names[id(p)] for p in o.param_groups[0]["params"]] for o in (muon, adamw))
    assert sorted(by_muon + by_adamw) == sorted(names.values())
    assert len(by_muon) == 2 * 4 and {"embedding.weight", "head.weight"} <= set(by_adamw)
    assert adamw.param_groups[0]["betas"] == BETAS


def test_the_model_says_which_rows_hold_queries_keys_and_values() -> None:
    """By their rows, not by a weight's shape: grouped queries would have fewer keys and values."""
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=8), 9)
    by_weight = {name: model.muon_matrices()[i][1] for i, name in enumerate(
        name for name, parameter in model.blocks.named_parameters() if parameter.ndim == 2)}
    assert by_weight == {"0.attention.qkv.weight": (16, 16, 16), "0.attention.proj.weight": (16,),
                         "0.up.weight": (64,), "0.down.weight": (16,)}
    with pytest.raises(ValueError, match="part_rows must add up to the 16 rows"):
        Muon([(model.blocks[0].attention.proj.weight, (8, 4))], 0.1)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_rates_are_factors_of_their_full_rate(as_tensor: bool) -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = Muon([(weight, (2,))], torch.tensor(0.5) if as_tensor else 0.5)
    optimizer.param_groups[0]["initial_lr"] = 0.5
    before = optimizer.param_groups[0]["lr"]
    for factor in (1.0, 0.1, 0.6):
        set_rate_factor([optimizer], factor)
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.5 * factor)
    assert (optimizer.param_groups[0]["lr"] is before) == as_tensor
