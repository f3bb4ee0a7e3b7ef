"""Which parameters learn by which rule: Muon for the matrices inside the blocks, AdamW for all others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.config import TrainConfig


def orthogonalize(g_NRC: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix of each of N matrices (R <= C), roughly: singular values near 1.

    Newton-Schulz with the quintic coefficients of Jordan et al. 2024 (kellerjordan.github.io/posts/muon); in
    bfloat16 on a GPU, where it loses nothing, and in the input's type elsewhere.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x_NRC = g_NRC.bfloat16() if g_NRC.is_cuda else g_NRC
    x_NRC = x_NRC / (x_NRC.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram_NRR = x_NRC @ x_NRC.mT
        polynomial_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, polynomial_NRR, x_NRC, beta=a)
    return x_NRC.to(g_NRC.dtype)


def matrices(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Each tensor as matrices with no more rows than columns: a tall one is cut into squares or transposed.

    A (3C, C) projection holds queries, keys and values and becomes three matrices; (4C, C) and (C, 4C) become
    one (C, 4C) matrix each. All are views, so writing to them writes to the tensors.
    """
    views: list[Tensor] = []
    for tensor in tensors:
        rows, columns = tensor.shape
        if rows == 3 * columns:
            views.extend(tensor.unflatten(0, (3, columns)).unbind(0))
        else:
            views.append(tensor.mT if rows > columns else tensor)
    return views


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), for 2-D parameters; equal shapes go through as one batch.

    One update: m <- μ m + (1 - μ) g; u = orthogonalize((1 - μ) g + μ m) · sqrt(max(1, C / R)) for a matrix of R
    rows and C columns, R <= C; p <- p (1 - lr · weight_decay) - lr · u.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert closure is None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for p, g in zip(matrices(params), matrices(p.grad for p in params), strict=True):
                by_shape[p.shape].append((p, g))
            for shape, pairs in by_shape.items():
                self.update(group, shape, *zip(*pairs, strict=True))

    def update(self, group: dict[str, Any], shape: torch.Size, weights: tuple[Tensor, ...],
               grads: tuple[Tensor, ...]) -> None:
        """Update the N equally shaped matrices `weights` in place."""
        g_NRC = torch.stack(grads)
        state = self.state[group["params"][0]]
        momentum_NRC = state.setdefault("x".join(map(str, shape)), torch.zeros_like(g_NRC))
        momentum_NRC.lerp_(g_NRC, 1 - group["momentum"])
        update_NRC = orthogonalize(g_NRC.lerp_(momentum_NRC, group["momentum"]))
        update_NRC = update_NRC * (group["lr"] * max(1.0, shape[1] / shape[0]) ** 0.5)
        if group["weight_decay"]:
            torch._foreach_mul_(list(weights), 1 - group["lr"] * group["weight_decay"])
        torch._foreach_sub_(list(weights), list(update_NRC.unbind(0)))


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon and AdamW over disjoint parameters of `model`; each group remembers its full rate as `initial_lr`."""
    inner = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    chosen = set(map(id, inner))
    others = [p for p in model.parameters() if id(p) not in chosen]
    adamw = torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0,
                              fused=True)
    optimizers = [Muon(inner, config.matrix_learning_rate, weight_decay=config.weight_decay), adamw]
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return optimizers


def set_rate_factor(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's learning rate to `factor` times its full rate, in place where it is a tensor."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(group["initial_lr"] * factor)
        else:
            group["lr"] = group["initial_lr"] * factor
