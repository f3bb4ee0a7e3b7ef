"""Operations with derivatives of their own: they are torch's, whether a derivative is asked for or not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.model.gpt import rotary_tables
from nanogpt.model.operations import (
    WrittenOutAttention,
    norm,
    rotate,
    shift,
    squared_relu,
    turned_at_once,
    turned_by_halves,
)

GENERATOR = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def turn(x_BTHD: Tensor) -> Tensor:
    cos_TD, sin_TD = rotary_tables(x_BTHD.size(1), x_BTHD.size(-1))
    return rotate(x_BTHD, cos_TD[:, None].to(x_BTHD), sin_TD[:, None].to(x_BTHD))


def turn_as_complex(x_BTHD: Tensor) -> Tensor:
    cos_TD, sin_TD = (table.to(x_BTHD) for table in rotary_tables(x_BTHD.size(1), x_BTHD.size(-1)))
    first_BTHF, second_BTHF = x_BTHD.chunk(2, dim=-1)
    turns_TF = torch.complex(*(table.chunk(2, dim=-1)[1] for table in (cos_TD, sin_TD)))
    turned_BTHF = torch.complex(first_BTHF, second_BTHF) * turns_TF[:, None]
    return torch.cat((turned_BTHF.real, turned_BTHF.imag), dim=-1)


def shift_by_cases(x_BTC: Tensor, before_B1C: Tensor, share: Tensor) -> Tensor:
    previous_BTC = torch.cat((before_B1C, x_BTC[:, :-1]), dim=1)
    share = share.repeat_interleave(len(x_BTC) // len(share), dim=0)[:, None] if share.ndim == 2 else share
    return (1 - share) * x_BTC + share * previous_BTC


OPERATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "norm": (norm, lambda x: F.rms_norm(x, (x.size(-1),)), (drawn(3, 5, 2, 8),)),
    "squared ReLU": (squared_relu, lambda x: F.relu(x).square(), (drawn(3, 5, 8),)),
    "rotation": (turn, turn_as_complex, (drawn(3, 5, 2, 8),)),
    "shift": (shift, shift_by_cases, (drawn(4, 5, 8), drawn(4, 1, 8), drawn(8).sigmoid())),
    "shift of one position": (shift, shift_by_cases, (drawn(4, 1, 8), drawn(4, 1, 8), drawn(8).sigmoid())),
    "shift of two members": (shift, shift_by_cases, (drawn(4, 5, 8), drawn(4, 1, 8), drawn(2, 8).sigmoid())),
}


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_and_its_derivative_are_torchs(name: str, device: str) -> None:
    ours, theirs, given = OPERATIONS[name]
    given, results = tuple(t.to(device) for t in given), []
    gradient = drawn(*given[0].shape)
    for operation in (ours, theirs):
        inputs = [t.clone().requires_grad_() for t in given]
        y = operation(*inputs)
        results.append((y.detach(), *torch.autograd.grad(y, inputs, gradient.to(device))))
    for own, expected in zip(*results, strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours(*given), results[0][0], rtol=0, atol=1e-15)     # no derivative is asked for


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_stays_in_the_type_of_the_stream_inside_autocast(name: str, asked: bool) -> None:
    ours, _, given = OPERATIONS[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(*(t.bfloat16().requires_grad_(asked) for t in given)).dtype is torch.bfloat16


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_second_derivative_is_refused(name: str) -> None:
    ours, _, given = OPERATIONS[name]
    inputs = [t.clone().requires_grad_() for t in given]
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(ours(*inputs).sum(), inputs, create_graph=True)


@pytest.mark.parametrize("scale", [0.03, 1.0, 30.0])
def test_the_norm_in_bfloat16_is_the_one_that_scores(scale: float) -> None:
    x_NC = (scale * drawn(40, 32)).bfloat16()
    trained, scored = norm(x_NC.clone().requires_grad_()), norm(x_NC)
    torch.testing.assert_close(trained, scored, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_rotation_of_a_gpu_is_that_of_a_cpu(sign: int) -> None:
    x_BTHD, (cos_TD, sin_TD) = drawn(3, 5, 2, 8), rotary_tables(5, 8)
    given = (x_BTHD, cos_TD[:, None].double(), sin_TD[:, None].double(), sign)
    torch.testing.assert_close(turned_by_halves(*given), turned_at_once(*given), rtol=0, atol=1e-15)


def test_the_written_out_attention_is_torchs_with_its_derivative() -> None:
    generator = torch.Generator().manual_seed(1)
    given = [torch.randn(2, 3, 7, 4, generator=generator, dtype=torch.float64) for _ in range(4)]
    results = []
    for attend in (lambda q, k, v: WrittenOutAttention.apply(q, k, v, 0.3),
                   lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)):
        inputs = [t.clone().requires_grad_() for t in given[:3]]
        y_BHTD = attend(*inputs)
        results.append((y_BHTD, *torch.autograd.grad(y_BHTD, inputs, given[3])))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
