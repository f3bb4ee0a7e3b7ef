"""The GPT: what it may see, and that reading at once, in parts and in batches is the same."""

from __future__ import annotations

import pytest
import torch
from support import make_noisy_model
from torch import Tensor

from nanogpt.config import ModelConfig
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT, rotary_tables
from nanogpt.model.operations import rotate
from nanogpt.text.corpus import Corpus


def some_ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(11, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("changed", range(12))
@torch.no_grad()
def test_a_later_character_changes_no_earlier_logit_and_every_later_one(noisy_model: GPT, changed: int) -> None:
    ids_BT = some_ids(3, 12)
    other_BT = ids_BT.clone()
    other_BT[:, changed] = (other_BT[:, changed] + 1) % 11
    logits_BTV, others_BTV = noisy_model(ids_BT), noisy_model(other_BT)
    torch.testing.assert_close(others_BTV[:, :changed], logits_BTV[:, :changed], rtol=0, atol=1e-12)
    assert bool(((others_BTV - logits_BTV)[:, changed:].abs().amax(-1) > 1e-4).all())


@torch.no_grad()
def test_a_trained_model_is_causal_in_float32(trained: Checkpoint, corpora: dict[str, Corpus]) -> None:
    model, ids_T = trained.build(), corpora["shakespeare"].test.ids_N[:32].long()
    other_T = torch.cat((ids_T[:20], corpora["math"].test.ids_N[:12].long()))
    torch.testing.assert_close(model(other_T[None])[:, :20], model(ids_T[None])[:, :20], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [5, 7], [1, 10, 1], [3, 3, 1, 5]])
@torch.no_grad()
def test_steps_with_a_cache_are_the_forward_pass(noisy_model: GPT, sizes: list[int]) -> None:
    ids_BT = some_ids(4, 12)
    logits_BTV = noisy_model(ids_BT)
    cache, begin = noisy_model.empty_cache(4), 0
    for size in sizes:
        stepped_BV = noisy_model(ids_BT[:, begin:begin + size], cache)[:, 0]
        begin += size
        torch.testing.assert_close(stepped_BV, logits_BTV[:, begin - 1], rtol=0, atol=1e-11)
        assert cache.lengths == [begin] * 4


@torch.no_grad()
def test_rows_at_different_positions_step_together(noisy_model: GPT) -> None:
    ids_BT, lengths = some_ids(3, 12), [1, 4, 9]
    cache = noisy_model.empty_cache(3)
    for row, length in enumerate(lengths):
        alone = noisy_model.empty_cache(1)
        noisy_model(ids_BT[row:row + 1, :length], alone)
        cache.put_rows([row], alone)
    for more in range(3):
        at_B = torch.tensor(lengths) + more
        stepped_BV = noisy_model(ids_BT[range(3), at_B][:, None], cache)[:, 0]
        for row, at in enumerate(at_B.tolist()):
            expected_V = noisy_model(ids_BT[row:row + 1, :at + 1])[0, -1]
            torch.testing.assert_close(stepped_BV[row], expected_V, rtol=0, atol=1e-11)


@torch.no_grad()
def test_what_a_cache_held_beyond_the_position_does_not_matter(noisy_model: GPT) -> None:
    ids_BT = some_ids(2, 12)
    used = noisy_model.empty_cache(2)
    noisy_model(ids_BT, used)
    used.lengths = [0, 0]
    for layer in used.layers:
        layer.attention_B1C, layer.mlp_B1C = (torch.zeros_like(x) for x in (layer.attention_B1C, layer.mlp_B1C))
    again_BV = noisy_model(ids_BT[:, 7:], used)
    fresh_BV = noisy_model(ids_BT[:, 7:], noisy_model.empty_cache(2))
    torch.testing.assert_close(again_BV, fresh_BV, rtol=0, atol=0)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(noisy_model: GPT) -> None:
    ids_BT = some_ids(6, 9)
    logits_BTV = noisy_model(ids_BT)
    for row in range(6):
        torch.testing.assert_close(noisy_model(ids_BT[row:row + 1])[0], logits_BTV[row], rtol=0, atol=1e-12)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(noisy_model(ids_BT[order]), logits_BTV[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n_layer", "n_embd", "vocab_size"), [(1, 8, 3), (3, 16, 40)])
def test_the_parameters_are_those_of_the_formula(n_layer: int, n_embd: int, vocab_size: int) -> None:
    """Embedding and head V × C each; a block has 12 C² in matrices and C weights in each of two token shifts."""
    model = GPT(ModelConfig(n_layer=n_layer, n_head=2, n_embd=n_embd, block_size=8), vocab_size)
    expected = 2 * vocab_size * n_embd + n_layer * (12 * n_embd**2 + 2 * n_embd)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert sum(t.numel() for t in model.state_dict().values()) == expected


def test_an_untrained_model_is_near_uniform_and_its_matrices_have_variance_one_over_fan_in() -> None:
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=128, block_size=8), 50)
    logits_BTV = model(some_ids(2, 8))
    assert logits_BTV.any() and float(logits_BTV.abs().max()) < 1
    for name, parameter in model.named_parameters():
        if "qkv" in name or "up" in name:
            assert float(parameter.detach().var()) * parameter.size(1) == pytest.approx(1, rel=0.05)


@torch.no_grad()
def test_rotary_products_depend_on_the_distance_alone() -> None:
    cos, sin = (table.double()[:, None] for table in rotary_tables(40, 8))
    generator = torch.Generator().manual_seed(2)
    q_1HD, k_1HD = (torch.randn(1, 1, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    turned_q, turned_k = (rotate(x.expand(40, 1, 8), cos, sin)[:, 0] for x in (q_1HD, k_1HD))
    products = turned_q @ turned_k.mT
    for distance in range(-39, 40):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert float(products[0].std()) > 0.1
    torch.testing.assert_close(turned_q.norm(dim=-1), q_1HD.norm().expand(40), rtol=1e-6, atol=0)


@torch.no_grad()
def test_queries_and_keys_of_equal_characters_depend_on_their_distance_alone(noisy_model: GPT) -> None:
    x_1TC = torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(6), dtype=torch.float64).expand(1, 12, 16)
    attention = noisy_model.blocks[0].attention
    q_THD, k_THD, v_THD = (
        part[0] for part in attention.project(x_1TC, x_1TC[:, :1], noisy_model.cos[:, None], noisy_model.sin[:, None]))
    for q_TD, k_TD in zip(q_THD.unbind(1), k_THD.unbind(1), strict=True):
        products_TS = q_TD @ k_TD.mT
        for distance in range(-11, 12):
            diagonal = products_TS.diagonal(distance)
            torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
        assert float(products_TS[0].std()) > 0.01
    torch.testing.assert_close(v_THD, v_THD[:1].expand_as(v_THD))     # values do not turn


@torch.no_grad()
def test_order_matters_even_far_back(noisy_model: GPT) -> None:
    """Without positions, exchanging two early characters would leave a later prediction as it was."""
    ids_BT = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
    swapped_BT = torch.tensor([[1, 4, 3, 2, 5, 6, 7, 8]])
    assert float((noisy_model(ids_BT) - noisy_model(swapped_BT))[0, -1].abs().max()) > 1e-3


@torch.no_grad()
def test_a_state_dict_carries_the_whole_model(noisy_model: GPT) -> None:
    twin = GPT(noisy_model.config, noisy_model.vocab_size).double().eval()
    assert not torch.equal(twin(some_ids(2, 12)), noisy_model(some_ids(2, 12)))
    twin.load_state_dict(noisy_model.state_dict())
    torch.testing.assert_close(twin(some_ids(2, 12)), noisy_model(some_ids(2, 12)), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@torch.no_grad()
def test_a_model_computes_in_the_type_of_its_weights(noisy_model: GPT, dtype: torch.dtype) -> None:
    exact_BTV = noisy_model(some_ids(2, 12))
    logits_BTV = noisy_model.to(dtype)(some_ids(2, 12))
    assert logits_BTV.dtype == dtype and noisy_model.empty_cache(1).layers[0].keys_BHTD.dtype == dtype
    tolerance = {torch.float64: 0.0, torch.float32: 1e-3, torch.bfloat16: 1.0}[dtype]
    assert float((logits_BTV - exact_BTV).abs().max()) <= tolerance


@torch.no_grad()
def test_dropout_acts_in_training_mode_alone() -> None:
    model = make_noisy_model(ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=12, dropout=0.5), 11)
    ids_BT = some_ids(2, 12)
    assert torch.equal(model(ids_BT), model(ids_BT))
    model.train()
    assert not torch.equal(model(ids_BT), model(ids_BT))


def test_every_weight_of_a_used_model_learns(noisy_model: GPT) -> None:
    noisy_model(some_ids(4, 12)).logsumexp(-1).sum().backward()
    for name, parameter in noisy_model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name
