"""The GPT: embed, blocks, unembed.

Shape suffixes: B rows, T positions, C channels (n_embd), H heads, D channels of a head, V characters.

A pre-norm decoder in today's form: rotary positions (Su et al. 2021, arXiv:2104.09864), RMS norm without
parameters (Zhang & Sennrich 2019, arXiv:1910.07467), cosine attention (Henry et al. 2020, arXiv:2010.04245),
squared ReLU (So et al. 2021, arXiv:2109.08668), an untied head, output projections that start near zero, and a
token shift before attention and before the MLP (Peng et al. 2023, arXiv:2305.13048): each channel reads a
learned mixture of this and the previous position. benchmarks/README.md says what each of them is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.config import ModelConfig
from nanogpt.model.operations import WrittenOutAttention, norm, rotate, shift, squared_relu

SHARPNESS = 12.0
"""Attention logits are this times the cosine of query and key, so they lie in [-12, 12] at any head size."""
SMALL_BOUND = 0.1
"""How large projections back into the stream and the head start, against the other matrices. Not 0: with zeros an
untrained model would attribute nothing to anything, and no loss was gained by them."""


def in_autocast_type(x: Tensor) -> Tensor:
    """Cast to the type of autocast inside it, so that the residual stream moves half the bytes; else leave `x`."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def rotary_tables(block_size: int, head_size: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Tabulate (cos, cos) and (-sin, sin) of position × frequency for `rotate`, each (T, D)."""
    frequencies = base ** -(torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles_TD = torch.outer(torch.arange(block_size, dtype=torch.float64), frequencies)
    cos_TD, sin_TD = angles_TD.cos(), angles_TD.sin()
    return torch.cat((cos_TD, cos_TD), dim=1).float(), torch.cat((-sin_TD, sin_TD), dim=1).float()


class Positions(NamedTuple):
    """Where the characters of a pass stand: their turns as `rotate` takes them; with a cache, their places in it."""

    cos: Tensor
    sin: Tensor
    rows_B1: Tensor | None = None
    columns_BT: Tensor | None = None
    reach: int = 0                  # only cached columns before it are read,
    mask: Tensor | None = None      # (B, 1, T, reach): those where it is true; None: all


@dataclass
class LayerCache:
    """What one layer remembers of B texts: keys and values, and the last inputs of its two token shifts."""

    keys_BHTD: Tensor
    values_BHTD: Tensor
    attention_B1C: Tensor
    mlp_B1C: Tensor

    def extend(self, k_BHTD: Tensor, v_BHTD: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        """Store new keys and values at their places; returns all up to the last one of any row."""
        for held_BHTD, new_BHTD in ((self.keys_BHTD, k_BHTD), (self.values_BHTD, v_BHTD)):
            held_BHTD[positions.rows_B1, :, positions.columns_BT] = new_BHTD.transpose(1, 2).to(held_BHTD.dtype)
        return self.keys_BHTD[:, :, :positions.reach], self.values_BHTD[:, :, :positions.reach]


@dataclass
class Cache:
    """What the model remembers of B texts that it goes on reading; `GPT.forward` extends it."""

    layers: list[LayerCache]
    lengths: list[int]      # characters of each row that the layers hold

    def put_rows(self, rows: list[int], other: Cache) -> None:
        """Replace what it remembers of some rows by all that another cache remembers."""
        for layer, piece in zip(self.layers, other.layers, strict=True):
            layer.keys_BHTD[rows], layer.values_BHTD[rows] = piece.keys_BHTD, piece.values_BHTD
            layer.attention_B1C[rows], layer.mlp_B1C[rows] = piece.attention_B1C, piece.mlp_B1C
        for row, length in zip(rows, other.lengths, strict=True):
            self.lengths[row] = length


class Attention(nn.Module):
    """Causal self-attention over a token-shifted input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head, width = config.n_head, config.n_embd
        self.dropout, self.scale = config.dropout, SHARPNESS / (width // config.n_head)
        self.shift = nn.Parameter(torch.full((width,), 0.25))
        self.qkv_rows = (width, width, width)     # of queries, keys and values in one weight
        self.qkv = nn.Linear(width, sum(self.qkv_rows), bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def project(self, x_BTC: Tensor, before_B1C: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """Compute queries, keys and values (B, T, H, D); `before` is the input at the position before the first."""
        width = x_BTC.size(-1)
        qk_BTC, v_BTC = self.qkv(shift(x_BTC, before_B1C, self.shift)).split((2 * width, width), dim=-1)
        qk_BTHD = rotate(norm(qk_BTC.unflatten(-1, (2 * self.n_head, -1))), cos, sin)
        return *qk_BTHD.chunk(2, dim=2), v_BTC.unflatten(-1, (self.n_head, -1))

    def forward(self, x_BTC: Tensor, positions: Positions, cache: LayerCache | None = None) -> Tensor:
        """Mix the values of each position and of those before it; a cache adds its own and then holds the new ones."""
        before_B1C = torch.zeros_like(x_BTC[:, :1]) if cache is None else cache.attention_B1C
        q, k, v = (t.transpose(1, 2) for t in self.project(x_BTC, before_B1C, positions.cos, positions.sin))
        if cache is not None:
            k, v = cache.extend(k, v, positions)
        dropout = self.dropout if self.training else 0.0
        if q.dtype is torch.bfloat16 and q.device.type == "cpu" and cache is None and not dropout:
            y_BHTD: Tensor = WrittenOutAttention.apply(q, k, v, self.scale)
        else:
            y_BHTD = F.scaled_dot_product_attention(q, k, v, positions.mask, dropout, is_causal=cache is None,
                                                    scale=self.scale)
        return self.proj(y_BHTD.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); both shift their input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.shift = nn.Parameter(torch.full((config.n_embd,), 0.25))
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def mlp(self, x_BTC: Tensor, before_B1C: Tensor) -> Tensor:
        return self.down(squared_relu(self.up(shift(x_BTC, before_B1C, self.shift))))

    def forward(self, x_BTC: Tensor, positions: Positions, cache: LayerCache | None = None) -> Tensor:
        """Add attention and MLP to the stream (B, T, C), which goes on from what a cache remembers."""
        read_BTC = norm(x_BTC)
        x_BTC = x_BTC + self.dropout(self.attention(read_BTC, positions, cache))
        middle_BTC = norm(x_BTC)
        before_B1C = torch.zeros_like(x_BTC[:, :1]) if cache is None else cache.mlp_B1C
        x_BTC = x_BTC + self.dropout(self.mlp(middle_BTC, before_B1C))
        if cache is not None:
            cache.attention_B1C, cache.mlp_B1C = read_BTC[:, -1:], middle_BTC[:, -1:]
        return x_BTC


def count_weights(config: ModelConfig, vocab_size: int) -> int:
    """Count the weights of a model of this shape without building it."""
    width = config.n_embd
    return config.n_layer * (12 * width**2 + 2 * width) + 2 * vocab_size * width


class GPT(nn.Module):
    """Characters in, logits of the next character out: `unembed(run_blocks(embed(ids)))`."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.embedding = nn.Embedding(vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.head = nn.Linear(config.n_embd, vocab_size, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        shape = (config.block_size, config.n_embd // config.n_head)
        self.register_buffer("cos", torch.empty(shape), persistent=False)
        self.register_buffer("sin", torch.empty(shape), persistent=False)
        self.fill_rotary()
        self.initialize()

    @torch.no_grad()
    def fill_rotary(self) -> None:
        """Compute the rotary tables, which are no weights and so in no state dict."""
        for table, values in zip((self.cos, self.sin), rotary_tables(*self.cos.shape), strict=True):
            table.copy_(values)

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw uniform matrices of variance 1/fan-in; projections back into the stream, and the head, much smaller."""
        nn.init.normal_(self.embedding.weight)
        for name, matrix in self.named_parameters():
            if matrix.ndim == 2 and name != "embedding.weight":
                large = name.endswith(("qkv.weight", "up.weight"))
                bound = (1.0 if large else SMALL_BOUND) * (3.0 / matrix.size(1)) ** 0.5
                nn.init.uniform_(matrix, -bound, bound)

    def muon_matrices(self) -> list[tuple[nn.Parameter, tuple[int, ...]]]:
        """List the matrices inside the blocks, each with the rows of its parts that are matrices of their own.

        Stacked weights (training/stacked.py) are listed too: a name says what is a matrix, its axes do not.
        """
        parts = {module.qkv.weight: module.qkv_rows for module in self.modules() if isinstance(module, Attention)}
        return [(matrix, parts.get(matrix, (matrix.size(-2),))) for name, matrix in self.blocks.named_parameters()
                if name.endswith("weight")]

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Embed characters, (B, T, C). The residual stream starts as the normalised embedding."""
        return self.dropout(norm(in_autocast_type(self.embedding(ids_BT))))

    def run_blocks(self, x_BTC: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run the stream (B, T, C) through the blocks `start` to `stop`, by default all of them.

        ValueError where T > block_size.
        """
        positions = self.positions(x_BTC)
        for block in self.blocks[start:stop]:
            x_BTC = block(x_BTC, positions)
        return x_BTC

    def positions(self, x_BTC: Tensor) -> Positions:
        """Say where the characters of a stream (B, T, C) stand, without a cache: from 0 on."""
        length = x_BTC.size(1)
        self.check_length(length)
        return Positions(self.cos[:length, None].to(x_BTC.dtype), self.sin[:length, None].to(x_BTC.dtype))

    def positions_after(self, lengths: Sequence[int], x_BTC: Tensor) -> Positions:
        """Say where the characters of a stream (B, T, C) stand after the `lengths` that a cache holds of each row."""
        count, device = x_BTC.size(1), x_BTC.device
        reach = max(lengths) + count
        self.check_length(reach)
        columns_BT = torch.tensor(lengths, device=device)[:, None] + torch.arange(count, device=device)
        mask = None
        if count > 1 or min(lengths) < max(lengths):
            mask = torch.arange(reach, device=device) <= columns_BT[:, None, :, None]
        cos, sin = (table[columns_BT][:, :, None].to(x_BTC.dtype) for table in (self.cos, self.sin))
        return Positions(cos, sin, torch.arange(len(lengths), device=device)[:, None], columns_BT, reach, mask)

    def check_length(self, length: int) -> None:
        if length > len(self.cos):
            raise ValueError(f"text must have at most block_size = {len(self.cos)} characters, got {length}")

    def unembed(self, x_BTC: Tensor) -> Tensor:
        """Compute the logits (B, T, V) of the next character."""
        return self.head(norm(x_BTC))

    def forward(self, ids_BT: Tensor, cache: Cache | None = None) -> Tensor:
        """Compute the logits (B, T, V) of the next character after each of T characters.

        With a cache the characters go on from the texts that it holds, it is extended by them, and the logits are
        those after the last character alone, (B, 1, V). ValueError where a text is longer than block_size.
        """
        if cache is None:
            return self.unembed(self.run_blocks(self.embed(ids_BT)))
        x_BTC = self.embed(ids_BT)
        positions = self.positions_after(cache.lengths, x_BTC)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x_BTC = block(x_BTC, positions, layer)
        cache.lengths = [length + ids_BT.size(1) for length in cache.lengths]
        return self.unembed(x_BTC[:, -1:])

    def empty_cache(self, rows: int) -> Cache:
        """Make a cache for `rows` texts of nothing so far."""
        weight, config = self.head.weight, self.config
        shape = (rows, config.n_head, config.block_size, config.n_embd // config.n_head)
        layers = [LayerCache(*(weight.new_zeros(shape) for _ in range(2)),
                             *(weight.new_zeros(rows, 1, config.n_embd) for _ in range(2))) for _ in self.blocks]
        return Cache(layers, [0] * rows)
