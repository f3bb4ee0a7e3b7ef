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


def orthogonalize(g_NRC: Tensor, steps: int = 3) -> Tensor:
    """Each of N matrices (R <= C) with its singular values moved towards 1 and its singular vectors kept.

    A matrix of zeros stays one. Three steps train as well as five or six, which take the values into 0.85 to 1.15
    (benchmarks/README.md). In bfloat16 on a GPU, where it loses nothing, and in the input's type elsewhere.
    """
    x_NRC = g_NRC.bfloat16() if g_NRC.is_cuda else g_NRC
    x_NRC = x_NRC / (1.01 * x_NRC.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if not g_NRC.is_cuda and x_NRC.size(2) > x_NRC.size(1):
        return orthogonalizer(x_NRC @ x_NRC.mT, steps) @ x_NRC
    for a, b, c in NEWTON_SCHULZ[:steps]:
        gram_NRR = x_NRC @ x_NRC.mT
        polynomial_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, polynomial_NRR, x_NRC, beta=a)
    return x_NRC.to(g_NRC.dtype)


def orthogonalizer(gram_NRR: Tensor, steps: int) -> Tensor:
    """P with P x = orthogonalize(x) where gram = x xᵀ: the same steps on small squares, for wide matrices.

    Each factor is a polynomial of the Gram matrix, so all of them commute and stay symmetric. It squares the
    condition number: for float32 and better.
    """
    product_NRR: Tensor | None = None
    for k, (a, b, c) in enumerate(NEWTON_SCHULZ[:steps], start=1):
        factor_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        factor_NRR.diagonal(dim1=1, dim2=2).add_(a)
        product_NRR = factor_NRR if product_NRR is None else factor_NRR @ product_NRR
        if k < steps:
            gram_NRR = factor_NRR @ gram_NRR @ factor_NRR
    assert product_NRR is not None
    return product_NRR


class Piece(NamedTuple):
    """A matrix with no more rows than columns, as a view of (a part of) a weight, and the size of its updates."""

    matrix_RC: Tensor
    size: float


def pieces(weight_RC: Tensor, part_rows: tuple[int, ...]) -> list[Piece]:
    """Cut a weight into its parts; one taller than wide is transposed and its updates are sqrt(rows / columns) large.

    All others' updates have size 1.
    """
    return [Piece(part.mT, (len(part) / part.size(1)) ** 0.5) if len(part) > part.size(1) else Piece(part, 1.0)
            for part in weight_RC.split(part_rows)]


class Muon(Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon), for 2-D parameters.

    One update: m <- μ m + (1 - μ) g; u = size · orthogonalize((1 - μ) g + μ m); p <- p (1 - lr · weight_decay) - lr u.
    Equal shapes go through as one batch: `torch.optim.Muon` takes one matrix at a time and more time.
    """

    def __init__(self, matrices: Sequence[tuple[Tensor, tuple[int, ...]]], lr: float | Tensor,
                 momentum: float = MOMENTUM, weight_decay: float = 0.0) -> None:
        """`matrices` are weights, each with the rows of the parts that are matrices of their own (`GPT.muon_matrices`).

        ValueError where the rows of a weight's parts are not all of its rows.
        """
        for weight, part_rows in matrices:
            if sum(part_rows) != len(weight):
                raise ValueError(f"part_rows must add up to the {len(weight)} rows of their weight, got {part_rows}")
        super().__init__([weight for weight, _ in matrices], {"lr": lr, "momentum": momentum,
                                                              "weight_decay": weight_decay})
        self.part_rows = dict(matrices)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Piece, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    rows = self.part_rows[p]
                    for piece, gradient in zip(pieces(p, rows), pieces(p.grad, rows), strict=True):
                        by_shape[piece.matrix_RC.shape].append((piece, gradient.matrix_RC))
            for batch in by_shape.values():
                self.update(group, *zip(*batch, strict=True))

    def update(self, group: dict[str, Any], batch: tuple[Piece, ...], gradients: tuple[Tensor, ...]) -> None:
        """Update N equally shaped matrices in place."""
        g_NRC = torch.stack(gradients)
        state = self.state[group["params"][0]]
        name = "momentum_{}x{}".format(*g_NRC.shape[1:])
        if name not in state:
            state[name] = torch.zeros_like(g_NRC)
        momentum_NRC = state[name].lerp_(g_NRC, 1 - group["momentum"])
        update_NRC = orthogonalize(g_NRC.lerp_(momentum_NRC, group["momentum"])) * group["lr"]
        weights = [piece.matrix_RC for piece in batch]
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for weight, piece, update_RC in zip(weights, batch, update_NRC.unbind(0), strict=True):
            weight.sub_(update_RC, alpha=piece.size)


def make_optimizers(model: GPT, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon and AdamW over disjoint parameters of `model`; each group remembers its full rate as `initial_lr`.

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
    muon = Muon(matrices, rate(config.matrix_learning_rate), weight_decay=config.weight_decay)
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
