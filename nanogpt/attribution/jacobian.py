"""The GPT's derivative by its residual stream, for many targets of a text that was read once.

`gradients_by_target` is what others call. Autograd would go back through the whole text for each target; the
derivative written out here (`Tape`) takes many targets together, computes nothing after a target, and multiplies the
factors of each position beforehand. It is used where it is proved to be this model's derivative, else autograd is.

Shape suffixes: K targets, P texts, T positions, S the positions up to a last one, R the last rows of those, H heads,
D channels of a head, C channels.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.model.gpt import GPT, Block
from nanogpt.model.operations import normalize, rotate, shift

POSITIONS_PER_PASS = {"cpu": 2048, "cuda": 32_768}
"""Targets × texts × positions of a pass, about: memory grows with it, and on a CPU a pass stays in its cache."""
MOST_TARGETS = {"cpu": 8, "cuda": 64}
"""Of one pass, which for each of them goes up to the last."""

PROOF_LENGTH = 9
DERIVATIVE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""How far the two derivatives may lie apart, as a share of the largest entry. In float32 they lie 1e-6 apart in models
of all presets, and 1e-3 where the attention's scale was changed by 2 %."""
PROVED: WeakKeyDictionary[GPT, bool] = WeakKeyDictionary()
"""Whether `Tape` gives a model's derivative."""
log = logging.getLogger("nanogpt")


@dataclass(frozen=True, eq=False)
class Shifted:
    """A norm and the token shift after it, as read: what leads a gradient back through both."""

    y_PTC: Tensor           # the norm's output
    here_PTC: Tensor        # what a position's own channels, and those it lent the next one, are multiplied by
    next_PTC: Tensor

    @classmethod
    def read(cls, x_PTC: Tensor, share_C: Tensor) -> tuple[Shifted, Tensor]:
        y_PTC, r_PT1 = normalize(x_PTC)
        return (cls(y_PTC, r_PT1 * (1 - share_C), r_PT1 * share_C),
                shift(y_PTC, torch.zeros_like(y_PTC[:, :1]), share_C))

    def backward(self, g_KPRC: Tensor, length: int) -> Tensor:
        """By the input: one row more than `g`, whose first position read the one before it, unless that is none."""
        rows = min(g_KPRC.size(-2) + 1, length)
        g_KPRC = F.pad(g_KPRC, (0, 0, rows - g_KPRC.size(-2), 0))
        last = slice(length - rows, length)
        out_KPRC = g_KPRC * self.here_PTC[:, last]
        out_KPRC[..., :-1, :].addcmul_(g_KPRC[..., 1:, :], self.next_PTC[:, last][:, :-1])
        return radial_(out_KPRC, self.y_PTC[:, last])


def radial_(g: Tensor, y: Tensor) -> Tensor:
    """In place g − y · mean(g · y), a normalised y's derivative by its input, whose factor r is in `g` already."""
    return g.addcmul_(y, (g * y).mean(-1, keepdim=True), value=-1)


@dataclass(frozen=True, eq=False)
class Tape:
    """What a block computed while P texts were read, as far as its derivative needs it."""

    block: Block
    attention: Shifted
    qk_PTHD: Tensor         # normalised, not yet turned; H counts queries, then keys
    cos_PTHD: Tensor        # the turn back times the norm's r
    sin_PTHD: Tensor
    qkv_PHTD: tuple[Tensor, Tensor, Tensor]     # queries and keys turned, times the logits' scale
    weights_PHTT: Tensor
    mlp: Shifted
    slope_PTC: Tensor       # of the squared ReLU

    @classmethod
    def read(cls, block: Block, x_PTC: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tape, Tensor]:
        """And the block's output."""
        layer = block.attention
        attention, read_PTC = Shifted.read(x_PTC, layer.shift)
        qkv_PTHD = layer.qkv(read_PTC).unflatten(-1, (3 * layer.n_head, -1))
        qk_PTHD, r_PTH1 = normalize(qkv_PTHD[:, :, :2 * layer.n_head])
        q, k = (t.transpose(1, 2) for t in rotate(qk_PTHD, cos, sin).chunk(2, dim=2))
        v = qkv_PTHD[:, :, 2 * layer.n_head:].transpose(1, 2)
        later_TT = torch.ones(q.size(2), q.size(2), dtype=torch.bool, device=q.device).triu(1)
        weights_PHTT = (layer.scale * q @ k.transpose(-1, -2)).masked_fill(later_TT, -torch.inf).softmax(-1)
        x_PTC = x_PTC + layer.proj((weights_PHTT @ v).transpose(1, 2).flatten(2))
        mlp, read_PTC = Shifted.read(x_PTC, block.shift)
        h_PTC = block.up(read_PTC).relu()
        scaled = (layer.scale * q, layer.scale * k, v.contiguous())
        return (cls(block, attention, qk_PTHD, cos * r_PTH1, -sin * r_PTH1, scaled, weights_PHTT, mlp, 2 * h_PTC),
                x_PTC + block.down(h_PTC.square()))

    def backward(self, g_KPRC: Tensor, length: int) -> Tensor:
        """From the derivative by the output at the last R of `length` positions, 0 before them, to the one by the
        input at all of them, (K, P, S, C)."""
        rows = slice(length - g_KPRC.size(-2), length)
        by_hidden = (g_KPRC @ self.block.down.weight).mul_(self.slope_PTC[:, rows])
        by_middle = self.mlp.backward(by_hidden @ self.block.up.weight, length)
        by_middle[..., -g_KPRC.size(-2):, :] += g_KPRC
        by_input = self.attention.backward(self.attention_backward(by_middle, length), length)
        by_input[..., -by_middle.size(-2):, :] += by_middle
        return by_input

    def attention_backward(self, g_KPRC: Tensor, length: int) -> Tensor:
        """By what the attention's projections read, (K, P, S, C)."""
        layer, count = self.block.attention, g_KPRC.size(-2)
        rows = slice(length - count, length)
        q, k, v = (t[:, :, :length] for t in self.qkv_PHTD)
        weights_PHRS = self.weights_PHTT[:, :, rows, :length]
        by_mixed = (g_KPRC @ layer.proj.weight).unflatten(-1, (layer.n_head, -1)).transpose(-2, -3)
        by_weights = (by_mixed @ v.transpose(-1, -2)).mul_(weights_PHRS)
        by_logits = by_weights.addcmul_(weights_PHRS, by_weights.sum(-1, keepdim=True), value=-1)
        by_q = F.pad(by_logits @ k, (0, 0, length - count, 0))
        by_k = by_logits.transpose(-1, -2) @ q[:, :, rows]
        by_v = weights_PHRS.transpose(-1, -2) @ by_mixed
        by_qkv = torch.cat([t.transpose(-2, -3) for t in (by_q, by_k, by_v)], dim=-2)
        by_qk = by_qkv[..., :2 * layer.n_head, :]
        by_qk.copy_(rotate(by_qk, self.cos_PTHD[:, :length], self.sin_PTHD[:, :length]))
        radial_(by_qk, self.qk_PTHD[:, :length])
        return by_qkv.flatten(-2) @ layer.qkv.weight


def gradients_by_target(model: GPT, x_PTC: Tensor, value: Callable[[Tensor], Tensor],
                        block: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Yield (first, gradients (K, P, S, C)): ∂ value of target first + k / ∂ stream before `block`, S = first + K.

    `value` takes logits (P, T, V) to (P, T), each of its own position alone. Dropout does not act, and parameters
    collect no gradient. ValueError where T > block_size.
    """
    yield from (by_tape if has_tape(model) else by_autograd)(model, x_PTC, value, block)


def has_tape(model: GPT) -> bool:
    """Whether `Tape` gives this model's derivative: compared with autograd once, on a short random stream.

    The blocks may be changed without a word here: then it does not, and attribution goes by autograd, several times
    slower.
    """
    if model not in PROVED:
        try:
            PROVED[model] = largest_difference(model) < DERIVATIVE_TOLERANCE[model.head.weight.dtype]
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):   # blocks of another make
            PROVED[model] = False
        if not PROVED[model]:
            warn_once()
    return PROVED[model]


@functools.cache
def warn_once() -> None:
    log.warning("the written-out derivative is not this model's: attribution goes by autograd, which is slower")


def largest_difference(model: GPT) -> float:
    """The largest difference of the two derivatives over the largest derivative, on two short random streams."""
    weight, length = model.head.weight, min(PROOF_LENGTH, model.config.block_size)
    generator = torch.Generator().manual_seed(0)
    x_PTC = torch.randn(2, length, model.config.n_embd, generator=generator).to(weight)
    weight_V = torch.randn(model.vocab_size, generator=generator).to(weight)

    def value(logits_PTV: Tensor) -> Tensor:
        return logits_PTV.log_softmax(-1) @ weight_V

    by_target = {first + k: gradient_PSC for first, gradients_KPSC in by_tape(model, x_PTC, value)
                 for k, gradient_PSC in enumerate(gradients_KPSC)}
    apart = largest = 0.0
    for target, gradients_1PSC in by_autograd(model, x_PTC, value):
        expected_PSC = gradients_1PSC[0]
        apart = max(apart, float((by_target[target][:, :target + 1] - expected_PSC).abs().max()))
        largest = max(largest, float(expected_PSC.abs().max()))
    return apart / largest if largest else 0.0


def by_autograd(model: GPT, x_PTC: Tensor, value: Callable[[Tensor], Tensor],
                block: int = 0) -> Iterator[tuple[int, Tensor]]:
    """As `gradients_by_target`, for any model: one target at a time."""
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            leaf_PTC = x_PTC.detach().requires_grad_()
            values_PT = value(model.unembed(model.run_blocks(leaf_PTC, block)))
        for target in range(x_PTC.size(1)):
            (gradient_PTC,) = torch.autograd.grad(values_PT[:, target].sum(), leaf_PTC, retain_graph=True)
            yield target, gradient_PTC[None, :, :target + 1]
    finally:
        model.train(was_training)


@torch.no_grad()
def by_tape(model: GPT, x_PTC: Tensor, value: Callable[[Tensor], Tensor],
                        block: int = 0) -> Iterator[tuple[int, Tensor]]:
    """As `gradients_by_target`, by the derivative that is written out here."""
    length, tapes = x_PTC.size(1), []
    positions = model.positions(x_PTC)
    for each in model.blocks[block:]:
        if not isinstance(each, Block):
            raise TypeError(f"blocks must be of the GPT's own make, got {type(each).__name__}")
        tape, x_PTC = Tape.read(each, x_PTC, positions.cos, positions.sin)
        tapes.append(tape)
    with torch.enable_grad():
        x_PTC = x_PTC.detach().requires_grad_()
        (own_PTC,) = torch.autograd.grad(value(model.unembed(x_PTC)).sum(), x_PTC)
    kind = "cuda" if x_PTC.is_cuda else "cpu"
    count = min(MOST_TARGETS[kind], max(1, POSITIONS_PER_PASS[kind] // own_PTC[..., 0].numel()))
    for first in range(0, length, count):
        stop = min(first + count, length)
        g_KPSC = own_PTC[:, first:stop].transpose(1, 2).diag_embed(dim1=0, dim2=2)
        for tape in reversed(tapes):
            g_KPSC = tape.backward(g_KPSC, stop)
        yield first, F.pad(g_KPSC, (0, 0, stop - g_KPSC.size(2), 0))
