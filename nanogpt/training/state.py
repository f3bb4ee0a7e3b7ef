"""All that a stopped training needs to go on, in a file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt.errors import UserError, one_line, require
from nanogpt.model.gpt import GPT
from nanogpt.model.payload import is_finite, load_payload, save_payload
from nanogpt.training.optimizer import pieces


@dataclass(frozen=True)
class TrainingState:
    """All that a training needs to go on after `step` updates as if it had never stopped; tensors on the CPU.

    Batches and dropout are functions of seed and step, so no random stream is part of it.
    """

    step: int
    seconds: float
    weights: dict[str, Tensor]
    optimizers: list[dict[str, Any]]
    identity: dict[str, Any]            # plain values of the training that it belongs to


def save_state(state: TrainingState, path: Path) -> Path:
    """Write the state and a digest of all of it, whole or not at all, over an earlier one."""
    return save_payload({item.name: getattr(state, item.name) for item in fields(state)}, path)


def load_state(path: Path) -> TrainingState:
    """Read and verify a state. UserError where `path` holds none, a changed one, or one that no training can have."""
    try:
        state = TrainingState(**load_payload(path, {item.name for item in fields(TrainingState)}))
        check_values(state)
    except Exception as error:  # torch.load raises many kinds on foreign bytes
        reason = str(error) if type(error) in (UserError, ValueError) else type(error).__name__
        raise UserError(f"path must hold a training state, got {str(path)!r} ({one_line(reason)})") from error
    return state


def check_values(state: TrainingState) -> None:
    """Raise UserError for what no training has: other types, numbers that are not finite."""
    require(type(state.step) is int and state.step >= 0, "step must be a number", state.step)
    require(type(state.seconds) is float and 0 <= state.seconds < math.inf, "seconds must be finite", state.seconds)
    require(isinstance(state.optimizers, list), "optimizers must be a list", type(state.optimizers).__name__)
    for name, value in state.identity.items():
        require(type(value) in (str, int, float, bool), "identity must be plain values", name)
    for name, tensor in state.weights.items():
        require(is_finite(tensor), "weights must be finite", name)
    for optimizer in state.optimizers:
        for kept in optimizer["state"].values():
            for name, tensor in kept.items():
                require(is_finite(tensor), "what an optimizer keeps must be finite", name)


def check_shapes(state: TrainingState, model: GPT) -> None:
    """Raise UserError where weights, or what the optimizers keep, are not those of a training of `model`."""
    found, expected = shapes_of(state.weights), shapes_of(model.state_dict())
    differing = sorted(name for name in {**found, **expected} if found.get(name) != expected.get(name))
    require(not differing, "weights of the state must be those of the model", differing[:3])
    kept = [{i: shapes_of(of_weight) for i, of_weight in optimizer["state"].items()} for optimizer in state.optimizers]
    first = [{}, {}] if state.step == 0 else optimizer_shapes(model)      # nothing is kept before the first update
    require(kept == first, "what the state's optimizers keep must be of the model's shape", kept)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def optimizer_shapes(model: GPT) -> Sequence[Mapping[int, Mapping[str, tuple[torch.dtype, tuple[int, ...]]]]]:
    """List types and shapes of what Muon and AdamW (`make_optimizers`) keep of each parameter, as they number them."""
    matrices = model.muon_matrices()
    momenta = Counter(tuple(piece.matrix.shape) for weight, rows in matrices for piece in pieces(weight, rows))
    by_muon = {f"momentum_{rows}x{columns}": (torch.float32, (count, rows, columns))
               for (rows, columns), count in momenta.items()}
    known = {id(weight) for weight, _ in matrices}
    others = [tuple(weight.shape) for weight in model.parameters() if id(weight) not in known]
    by_adam = {i: {"step": (torch.float32, ()), "exp_avg": (torch.float32, shape), "exp_avg_sq": (torch.float32, shape)}
               for i, shape in enumerate(others)}
    return [{0: by_muon}, by_adam]
