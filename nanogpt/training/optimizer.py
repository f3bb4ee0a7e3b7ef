"""Which parameters learn by which rule: Muon for the matrices inside the blocks, AdamW for all others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanogpt.config import TrainConfig
from nanogpt.model.gpt import GPT
from nanogpt.training.light_optimizers import AdamW, Optimizer

MOMENTUM = 0.9
BETAS = (0.8, 0.98)
NEWTON_SCHULZ = ((8.2051, -22.9019, 16.4607), (4.0664, -2.8612, 0.5184), (3.9096, -2.8234, 0.5250),
                 (3.2856, -2.4153, 0.4853), (2.2779, -1.6198, 0.3985), (1.8726, -1.2307, 0.3585))
"""a, b, c of the odd polynomials a x + b x³ + c x⁵ that are applied in turn: the best ones for singular values that
may begin as small as 0.001 of the norm (Polar Express, Amsel et al. 2025, arXiv:2505.16932, with its margin of 1 %)."""


def orthogonalize(gradients: Tensor, steps: int = 3, kind: torch.dtype | None = None) -> Tensor:
    """Move the singular values of each matrix of (N, rows, columns) towards 1 and keep its singular vectors.

    There are no more rows than columns. A matrix of zeros stays one. Three steps train as well as five or six, which
    take the values into 0.85 to 1.15 (benchmarks/README.md). In the type `kind`, or else the input's; bfloat16 loses
    nothing here.
    """
    x = gradients if kind is None else gradients.to(kind)
    x = x / (1.01 * x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if x.dtype is not torch.bfloat16 and x.size(2) > x.size(1):
        return orthogonalizer(x @ x.mT, steps) @ x
    for a, b, c in NEWTON_SCHULZ[:steps]:
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.to(gradients.dtype)


def orthogonalizer(gram: Tensor, steps: int) -> Tensor:
    """Compute P with P x = orthogonalize(x) where gram = x xᵀ: the same steps on small squares, for wide matrices.

    Each factor is a polynomial of the Gram matrix, so all of them commute and stay symmetric. It squares the
    condition number: for float32 and better.
    """
    product: Tensor | None = None
    for k, (a, b, c) in enumerate(NEWTON_SCHULZ[:steps], start=1):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if k < steps:
            gram = factor @ gram @ factor
    assert product is not None
    return product


class Piece(NamedTuple):
    """A matrix with no more rows than columns, as a view of (a part of) a weight, and the size of its updates.

    Of a stacked weight (training/stacked.py) it is that matrix of every member.
    """

    matrix: Tensor
    size: float


def pieces(weight: Tensor, part_rows: tuple[int, ...]) -> list[Piece]:
    """Cut a weight (…, rows, columns) into its parts of so many rows.

    One taller than wide is transposed and its updates are sqrt(rows / columns) large; all others' have size 1.
    """
    return [Piece(part.mT, (part.size(-2) / part.size(-1)) ** 0.5) if part.size(-2) > part.size(-1) else
            Piece(part, 1.0) for part in weight.split(part_rows, dim=-2)]


class Muon(Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon), for matrices.

    One update: m <- μ m + (1 - μ) g; u = size · orthogonalize((1 - μ) g + μ m); p <- p (1 - lr · weight_decay) - lr u.
    Equal shapes go through as one batch: `torch.optim.Muon` takes one matrix at a time and more time. Weights may be
    stacked, (M, rows, columns): then all that is kept for them has the members as its first axis too.
    """

    def __init__(self, matrices: Sequence[tuple[Tensor, tuple[int, ...]]], lr: float | Tensor,
                 momentum: float = MOMENTUM, weight_decay: float = 0.0, kind: torch.dtype | None = None) -> None:
        """`matrices` are weights, each with the rows of the parts that are matrices of their own (`GPT.muon_matrices`).

        `kind` is the type of the orthogonalisation, by default that of the weights. ValueError where the rows of a
        weight's parts are not all of its rows.
        """
        for weight, part_rows in matrices:
            rows = weight.size(-2)
            if sum(part_rows) != rows:
                raise ValueError(f"part_rows must add up to the {rows} rows of their weight, got {part_rows}")
        super().__init__([weight for weight, _ in matrices], {"lr": lr, "momentum": momentum,
                                                              "weight_decay": weight_decay})
        self.part_rows, self.kind = dict(matrices), kind

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Piece, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    rows = self.part_rows[p]
                    for piece, gradient in zip(pieces(p, rows), pieces(p.grad, rows), strict=True):
                        by_shape[piece.matrix.shape[-2:]].append((piece, gradient.matrix))
            for batch in by_shape.values():
                self.update(group, *zip(*batch, strict=True))

    def update(self, group: dict[str, Any], batch: tuple[Piece, ...], batch_gradients: tuple[Tensor, ...]) -> None:
        """Update equally shaped matrices in place."""
        gradients = torch.stack(batch_gradients, dim=-3)        # (…, pieces, rows, columns)
        state = self.state[group["params"][0]]
        name = "momentum_{}x{}".format(*gradients.shape[-2:])
        if name not in state:
            state[name] = torch.zeros_like(gradients)
        momentum = state[name].lerp_(gradients, 1 - group["momentum"])
        mixed = gradients.lerp_(momentum, group["momentum"])
        updates = orthogonalize(mixed.flatten(0, -3), kind=self.kind).view_as(mixed) * group["lr"]
        weights = [piece.matrix for piece in batch]
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for weight, piece, update in zip(weights, batch, updates.unbind(-3), strict=True):
            weight.sub_(update, alpha=piece.size)


def make_optimizers(model: GPT, config: TrainConfig,
                    kind: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
    """Make Muon and AdamW over disjoint parameters of `model`; each group keeps its full rate as `initial_lr`.

    Muon orthogonalises in `kind`.
    On a GPU the rates are tensors, so that a recorded step (training/step.py) obeys them.
    """
    matrices = model.muon_matrices()
    by_muon = {id(weight) for weight, _ in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in by_muon]
    device = others[0].device
    cuda = device.type == "cuda"

    def rate(value: float) -> float | Tensor:
        return torch.tensor(value, device=device) if cuda else value

    adamw = AdamW(others, lr=rate(config.learning_rate), betas=BETAS, eps=1e-10, weight_decay=0.0, fused=True,
                  capturable=cuda)
    muon = Muon(matrices, rate(config.matrix_learning_rate), weight_decay=config.weight_decay, kind=kind)
    optimizers: list[torch.optim.Optimizer] = [muon, adamw]
    for group, full in zip((optimizer.param_groups[0] for optimizer in optimizers),
                           (config.matrix_learning_rate, config.learning_rate), strict=True):
        group["initial_lr"] = full
    return optimizers


def set_rate_factor(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's learning rate to `factor` times its full rate, in place where it is a tensor."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(group["initial_lr"] * factor)
        else:
            group["lr"] = group["initial_lr"] * factor
