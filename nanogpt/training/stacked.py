"""Many models of one shape as one: their weights are stacked, their rows stand one after the other in the batch.

Shape suffixes: M members, B rows of each, N = M · B, T positions, C channels in, O channels out, V characters.

Only what holds weights knows of members: linear maps become batched matrix products, the embedding one long table.
All else of the GPT, attention included, runs once over the rows of all members. A step of one small model on a GPU
is launch-bound, so many cost little more than one (benchmarks/transfer_speed.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT
from nanogpt.training.light_optimizers import Optimizer


class MemberLinear(nn.Module):
    """A linear map of each member, without bias: (N, T, C) to (N, T, O)."""

    weight: Tensor  # (M, O, C)

    def forward(self, x_NTC: Tensor) -> Tensor:
        members, outputs, width = self.weight.shape
        return torch.bmm(x_NTC.reshape(members, -1, width), self.weight.mT).view(*x_NTC.shape[:-1], outputs)


class MemberEmbedding(nn.Module):
    """A table of each member: ids (N, T) to (N, T, C)."""

    weight: Tensor  # (M, V, C)

    def forward(self, ids_NT: Tensor) -> Tensor:
        members, size, _ = self.weight.shape
        first_M = torch.arange(members, device=ids_NT.device) * size
        rows_NT = (ids_NT.unflatten(0, (members, -1)) + first_M[:, None, None]).flatten(0, 1)
        return F.embedding(rows_NT, self.weight.flatten(0, 1))


REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: MemberLinear, nn.Embedding: MemberEmbedding}


def stack(checkpoints: Sequence[Checkpoint], device: torch.device | str = "cpu") -> GPT:
    """Build one model, in evaluation mode, whose parameters are those of all checkpoints with a first axis M.

    It reads ids (N, T), the first B rows by the first member. ValueError where the shapes differ.
    """
    first = checkpoints[0]
    shapes = {(c.model_config, len(c.vocabulary)) for c in checkpoints}
    if len(shapes) != 1:
        raise ValueError(f"checkpoints must have one shape to be stacked, got {shapes}")
    model = first.build(device)
    for name, module in list(model.named_modules()):
        if type(module) in REPLACEMENTS:
            model.set_submodule(name, REPLACEMENTS[type(module)]())
    for name in first.weights:
        owner, _, leaf = name.rpartition(".")
        stacked = torch.stack([checkpoint.weights[name] for checkpoint in checkpoints])
        model.get_submodule(owner).register_parameter(leaf, nn.Parameter(stacked.to(device)))
    return model.eval()


def map_tensors(of: Callable[..., Tensor], *nested: Any) -> Any:
    """Apply `of` to the tensors at each place of equally nested dicts and lists; other values are the first one's."""
    first = nested[0]
    if isinstance(first, Tensor):
        return of(*nested)
    if isinstance(first, dict):
        return {key: map_tensors(of, *(value[key] for value in nested)) for key in first}
    if isinstance(first, list | tuple):
        return [map_tensors(of, *values) for values in zip(*nested, strict=True)]
    return first


def join_members(states: Sequence[Any]) -> Any:
    """Stack the tensors of members' weights or optimizer states; what has no axes, as a count of steps, is shared.

    One member's stay as they are: a model alone is not stacked.
    """
    if len(states) == 1:
        return states[0]
    return map_tensors(lambda *tensors: torch.stack(tensors) if tensors[0].ndim else tensors[0], *states)


def cut_members(state: Any, members: int) -> list[Any]:
    """Undo `join_members`."""
    if members == 1:
        return [state]
    return [map_tensors(lambda tensor, i=i: tensor[i].clone() if tensor.ndim else tensor.clone(), state)
            for i in range(members)]


def weights_of_member(model: GPT, member: int) -> dict[str, Tensor]:
    """Copy one member's weights to the CPU."""
    return {name: tensor[member].detach().to("cpu", copy=True) for name, tensor in model.named_parameters()}


class MemberAdam(Optimizer):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1) over stacked parameters, with a rate for each member.

    The group's `lr` is a factor on all rates, a tensor: the step can be recorded (training/step.py).
    """

    def __init__(self, params: Iterable[Tensor], rates_M: Tensor, betas: tuple[float, float] = (0.9, 0.95),
                 eps: float = 1e-8) -> None:
        factor = torch.ones((), device=rates_M.device)
        super().__init__(params, {"lr": factor, "initial_lr": 1.0})
        self.rates_M, self.betas, self.eps = rates_M, betas, eps
        self.step_count = torch.zeros((), device=rates_M.device)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        beta1, beta2 = self.betas
        self.step_count += 1
        correction1, correction2 = 1 - beta1**self.step_count, 1 - beta2**self.step_count
        for group in self.param_groups:
            sizes_M = group["lr"] * self.rates_M / correction1
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
                mean = state["mean"].lerp_(p.grad, 1 - beta1)
                square = state["square"].lerp_(p.grad.square(), 1 - beta2)
                scale = (square / correction2).sqrt_().add_(self.eps)
                p.addcdiv_(mean * sizes_M.view(-1, *[1] * (p.ndim - 1)), scale, value=-1)
