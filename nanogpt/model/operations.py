"""What a block computes between its matrix products, with derivatives that take few passes over memory.

Shape suffixes: B rows, T positions, C channels, H heads, D channels of a head; N stands for any axes.

Between matrix products a training waits for memory, so passes over memory are what counts: autograd keeps more, and
its derivatives read and write more often (benchmarks/README.md). torch.compile fuses such passes by itself: it gets
the plain forms of all but the attention. Derivatives of derivatives are refused.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT_ROW = 128
"""The longest row that is normalised here on a GPU, where `F.rms_norm` takes a block of threads for each row."""


def is_written_out(x: Tensor) -> bool:
    """Say whether the derivative by `x` is one of those below: it is asked for, and nothing else fuses its passes."""
    return x.requires_grad and not torch.compiler.is_compiling()


def refuse_second_derivative() -> None:
    """Raise RuntimeError inside a backward pass of which a graph is made: what it keeps would count as constant."""
    if torch.is_grad_enabled():
        raise RuntimeError("operations of the GPT have no second derivative (create_graph=True)")


def mean_of_rows(x: Tensor) -> Tensor:
    """Average over the last axis, which stays; on a GPU by a product, in a fifth of the time for short rows."""
    if x.device.type == "cuda":
        return (x @ x.new_ones(x.size(-1), 1)).div_(x.size(-1))
    return x.mean(-1, keepdim=True)


def normalize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute y = x · r and r = 1 / sqrt(mean(x²) + ε) over the last axis; ε is at least float32's, as `F.rms_norm`'s.
    """
    epsilon = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    r = mean_of_rows(x * x).add_(epsilon).rsqrt_()
    return x * r, r


class RootMeanSquareNorm(torch.autograd.Function):
    """The y of `normalize`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, r = normalize(x)
        ctx.save_for_backward(y, r)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        refuse_second_derivative()
        (y, r), (grad,) = ctx.saved_tensors, gradients
        return torch.addcmul(grad, y, mean_of_rows(grad * y), value=-1).mul_(r)


def norm(x: Tensor) -> Tensor:
    """Divide by the root mean square over the last axis."""
    if is_written_out(x) and (x.device.type == "cpu" or x.size(-1) <= SHORT_ROW):
        y: Tensor = RootMeanSquareNorm.apply(x)
        return y
    return F.rms_norm(x, (x.size(-1),))


class SquaredReLU(torch.autograd.Function):
    """y = max(x, 0)²."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        refuse_second_derivative()
        (positive,), (grad,) = ctx.saved_tensors, gradients
        return (grad * positive).mul_(2)


def squared_relu(x: Tensor) -> Tensor:
    """Square what is positive; 0 elsewhere."""
    if is_written_out(x):
        y: Tensor = SquaredReLU.apply(x)
        return y
    positive = F.relu(x)
    return positive * positive      # autocast would take `square` in float32


class Shift(torch.autograd.Function):
    """x + share · (the position before − x), where `share` is (C,) or (B, 1, C)."""

    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, before_B1C: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(x_BTC, before_B1C, share)
        y_BTC = torch.empty_like(x_BTC)
        torch.lerp(x_BTC[:, :1], before_B1C, share, out=y_BTC[:, :1])
        torch.lerp(x_BTC[:, 1:], x_BTC[:, :-1], share, out=y_BTC[:, 1:])
        return y_BTC

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        refuse_second_derivative()
        (x_BTC, before_B1C, share), (grad_BTC,) = ctx.saved_tensors, gradients
        by_x_BTC = torch.empty_like(grad_BTC)
        torch.lerp(grad_BTC[:, :-1], grad_BTC[:, 1:], share, out=by_x_BTC[:, :-1])
        torch.mul(grad_BTC[:, -1:], 1 - share, out=by_x_BTC[:, -1:])
        by_share = None
        if ctx.needs_input_grad[2]:
            step_BTC = torch.empty_like(x_BTC)
            torch.sub(before_B1C, x_BTC[:, :1], out=step_BTC[:, :1])
            torch.sub(x_BTC[:, :-1], x_BTC[:, 1:], out=step_BTC[:, 1:])
            by_share = step_BTC.mul_(grad_BTC).sum(1, keepdim=True).sum_to_size(share.shape)
        return by_x_BTC, grad_BTC[:, :1] * share, by_share


def shift(x_BTC: Tensor, before_B1C: Tensor, share_C: Tensor) -> Tensor:
    """Mix, in each channel, this position and the one before it; `before` stands before the first.

    `share` (C,), or (M, C) where the rows belong to M members in turn (training/stacked.py).
    """
    before_B1C, share = before_B1C.to(x_BTC.dtype), share_C.to(x_BTC.dtype)
    if share.ndim == 2:
        share = share.repeat_interleave(len(x_BTC) // len(share), dim=0)[:, None]
    if is_written_out(x_BTC):
        y_BTC: Tensor = Shift.apply(x_BTC, before_B1C, share)
        return y_BTC
    previous_BTC = before_B1C if x_BTC.size(1) == 1 else torch.cat((before_B1C, x_BTC[:, :-1]), dim=1)
    return torch.lerp(x_BTC, previous_BTC, share)


def turned_at_once(x_NHD: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """Add x · cos and the product of x with its halves exchanged and sign · sin."""
    first, second = x_NHD.chunk(2, dim=-1)
    return torch.addcmul(x_NHD * cos, torch.cat((second, first), dim=-1), sin, value=sign)


def turned_by_halves(x_NHD: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """Compute the same, of tables whose halves are (c, c) and (-s, s), without a copy of x.

    It takes two thirds of the time on a GPU, and is slower on a CPU.
    """
    y_NHD = torch.empty_like(x_NHD)
    (first, second), (cos, _), (_, sin) = (t.chunk(2, dim=-1) for t in (x_NHD, cos, sin))
    for y, own, other, by in zip(y_NHD.chunk(2, dim=-1), (first, second), (second, first), (-sign, sign), strict=True):
        torch.mul(own, cos, out=y).addcmul_(other, sin, value=by)
    return y_NHD


class Rotate(torch.autograd.Function):
    """`rotate`; its derivative by x turns back, those by the tables are not computed."""

    @staticmethod
    def forward(ctx: Any, x_NHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.turned = turned_by_halves if x_NHD.device.type == "cuda" else turned_at_once
        turned: Tensor = ctx.turned(x_NHD, cos, sin, 1)
        return turned

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative()
        return ctx.turned(*gradients, *ctx.saved_tensors, -1), None, None


def rotate(x_NHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (channel d, channel d + D/2) by the angle of its position; cos and sin broadcast to x.

    They are tables as of `rotary_tables`: (cos, cos) and (-sin, sin).
    """
    if is_written_out(x_NHD):
        y_NHD: Tensor = Rotate.apply(x_NHD, cos, sin)
        return y_NHD
    return turned_at_once(x_NHD, cos, sin, 1)


class WrittenOutAttention(torch.autograd.Function):
    """softmax(scale · q kᵀ) v over this and earlier positions, with its derivative, as products of (B · H, T, D).

    For bfloat16 on a CPU, where `F.scaled_dot_product_attention` and its gradient take three times as long
    (benchmarks/README.md). It may go when torch's own is as fast.
    """

    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, scale: float) -> Tensor:
        q, k, v = (t.flatten(0, 1) for t in (q_BHTD, k_BHTD, v_BHTD))
        later_TT = torch.full((q.size(1), q.size(1)), -torch.inf, dtype=q.dtype).triu_(1)
        weights = torch.baddbmm(later_TT, q, k.mT, alpha=scale).softmax(-1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return torch.bmm(weights, v).view_as(q_BHTD)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        refuse_second_derivative()
        q, k, v, weights = ctx.saved_tensors
        (grad_BHTD,) = gradients
        grad = grad_BHTD.flatten(0, 1)
        by_logits = torch._softmax_backward_data(torch.bmm(grad, v.mT), weights, -1, weights.dtype).mul_(ctx.scale)
        by_q, by_k, by_v = torch.bmm(by_logits, k), torch.bmm(by_logits.mT, q), torch.bmm(weights.mT, grad)
        return by_q.view_as(grad_BHTD), by_k.view_as(grad_BHTD), by_v.view_as(grad_BHTD), None
