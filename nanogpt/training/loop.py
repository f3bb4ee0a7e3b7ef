"""The training loop: it yields records and never calls back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt.config import Config
from nanogpt.errors import UserError, require
from nanogpt.model.checkpoint import Checkpoint, atomic_path, weights_of
from nanogpt.model.device import random_stream, resolve_device, training_type
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Corpus, batch_offsets, windows_at
from nanogpt.training.optimizer import make_optimizers, set_rate_factor
from nanogpt.training.schedule import checkpoint_steps, rate_factor
from nanogpt.training.step import make_step

COMPILATION_PAYS = 3e14
"""Weights times characters from which on a compilation pays on a GPU: those of three trainings of `gpu`."""


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
    """Write the state whole or not at all, over an earlier one."""
    with atomic_path(path) as temporary:
        torch.save({item.name: getattr(state, item.name) for item in fields(state)}, temporary)
    return path


def load_state(path: Path) -> TrainingState:
    """Read a state. UserError where `path` holds none."""
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds on foreign bytes
        raise UserError(f"path must hold a training state, got {str(path)!r} ({type(error).__name__})") from error
    names = {item.name for item in fields(TrainingState)}
    require(isinstance(payload, dict) and payload.keys() == names, "path must hold a training state", str(path))
    return TrainingState(**payload)


@dataclass(frozen=True)
class Progress:
    """Where a training stands after `step` updates. Times leave out what the consumer does between records.

    `state()` is what the training needs to go on from here; ask before the next record.
    """

    step: int
    max_steps: int
    loss_nats: float | None             # mean training loss since the last record; None at step 0
    rate_factor: float                  # of the schedule, in (0, 1]
    characters_per_second: float
    seconds: float
    checkpoint: Checkpoint | None       # at the steps of the checkpoint schedule
    state: Callable[[], TrainingState]

    @property
    def seconds_left(self) -> float:
        return self.seconds / max(1, self.step) * (self.max_steps - self.step)


def new_model(corpus: Corpus, config: Config) -> GPT:
    """Draw weights that depend on the seed and the shape alone, on the CPU."""
    with random_stream(config.seed, torch.device("cpu")):
        return GPT(config.model, len(corpus.vocabulary))


def take_checkpoint(model: GPT, corpus: Corpus, config: Config, step: int) -> Checkpoint:
    notes = {"seed": config.seed, "preset": config.preset, "max_steps": config.train.max_steps,
             "corpus_sha256": corpus.source.sha256, "torch": str(torch.__version__)}
    return Checkpoint(corpus.name, step, config.model, corpus.vocabulary, weights_of(model),
                      corpus.character_counts_V, notes)


def identity_of(corpus: Corpus, config: Config) -> dict[str, Any]:
    """List what two trainings must share to have the same weights at the same step."""
    settings = asdict(config.train)
    del settings["state_seconds"]
    return {"seed": config.seed, **asdict(config.model), **settings, "corpus_sha256": corpus.source.sha256,
            "train_characters": len(corpus.train), "vocabulary_sha256": corpus.vocabulary.sha256}


class Training:
    """A training in progress: the model, its optimizers and its batches."""

    def __init__(self, corpus: Corpus, config: Config, resume: TrainingState | None, trainings: int) -> None:
        settings, self.device = config.train, resolve_device(config.device)
        self.corpus, self.config = corpus, config
        self.model = new_model(corpus, config).to(self.device).train()
        kind = training_type(self.device, settings.precision)
        self.optimizers = make_optimizers(self.model, settings, kind)
        self.first_step, self.seconds = 0, 0.0
        if resume is not None:
            self.restore(resume)
        self.update = make_step(self.model, self.optimizers, kind,
                                compiled=is_compiled(self.model, config, self.device, trainings))
        self.ids_N = corpus.train.ids_N.to(self.device)
        self.step_offsets = batch_offsets(len(self.ids_N), config.model.block_size, settings.batch_size,
                                        settings.max_steps, config.seed).to(self.device)

    def restore(self, state: TrainingState) -> None:
        expected = identity_of(self.corpus, self.config)
        differing = {name: value for name, value in state.identity.items() if expected.get(name) != value}
        require(not differing, "resume must be a state of this same training", differing)
        self.model.load_state_dict(state.weights)
        for optimizer, saved in zip(self.optimizers, state.optimizers, strict=True):
            optimizer.load_state_dict(saved)
            for group in optimizer.param_groups:
                group["lr"] = group["lr"].to(self.device) if isinstance(group["lr"], Tensor) else group["lr"]
        self.first_step, self.seconds = state.step, state.seconds

    def state(self, step: int, seconds: float) -> TrainingState:
        return TrainingState(step, seconds, weights_of(self.model), [on_cpu(o.state_dict()) for o in self.optimizers],
                             identity_of(self.corpus, self.config))

    def step(self, step: int) -> Tensor:
        """Make update number `step` (0-based); returns its loss, still on the device."""
        set_rate_factor(self.optimizers, factor_at(step, self.config))
        batch = windows_at(self.ids_N, self.step_offsets[step], self.config.model.block_size)
        if not self.config.model.dropout:      # nothing is drawn
            return self.update(*batch)
        with random_stream(self.config.seed * 1_000_003 + step, self.device):
            return self.update(*batch)


def is_compiled(model: GPT, config: Config, device: torch.device, trainings: int) -> bool:
    """Say whether blocks are compiled: as the setting says; `auto`: on a GPU where that pays in all trainings."""
    settings = config.train
    if settings.compile != "auto":
        return settings.compile == "on"
    weights = sum(parameter.numel() for parameter in model.parameters())
    characters = settings.max_steps * settings.batch_size * config.model.block_size
    return device.type == "cuda" and trainings * weights * characters >= COMPILATION_PAYS


def on_cpu(value: Any) -> Any:
    """Copy nested dicts and lists with all tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: on_cpu(item) for key, item in value.items()}
    return [on_cpu(item) for item in value] if isinstance(value, list | tuple) else value


def mean_of_recorded(losses: Sequence[Tensor]) -> float | None:
    return float(torch.stack(list(losses)).mean()) if losses else None


def train(corpus: Corpus, config: Config, resume: TrainingState | None = None, *,
          trainings: int = 1) -> Iterator[Progress]:
    """Train a new GPT on the training split; yields a record every `log_every` steps and at each checkpoint.

    The first record is step 0 with the untrained checkpoint; the last is step `max_steps` with the final one.
    Weights and batches depend on the seed alone; no global random stream is read or moved. From `resume` it goes
    on after that state's record and ends, on a CPU, with the same bits. `trainings` of this shape in this process, this
    one among them, share one compilation. UserError where the state is of another training.
    """
    training, settings = Training(corpus, config, resume, trainings), config.train
    keep = set(checkpoint_steps(settings.max_steps, settings.checkpoints))
    losses: list[Tensor] = []
    seconds, began = training.seconds, time.perf_counter()
    for step in range(training.first_step, settings.max_steps + 1):
        kept, known = step in keep, resume is not None and step == training.first_step
        if not known and (kept or step % settings.log_every == 0):
            loss = mean_of_recorded(losses)
            seconds += time.perf_counter() - began
            characters = step * settings.batch_size * config.model.block_size
            yield Progress(step, settings.max_steps, loss, factor_at(step, config), characters / max(seconds, 1e-9),
                           seconds, take_checkpoint(training.model, corpus, config, step) if kept else None,
                           partial(training.state, step, seconds))
            losses.clear()
            began = time.perf_counter()
        if step < settings.max_steps:
            losses.append(training.step(step))


def factor_at(step: int, config: Config) -> float:
    return rate_factor(step, config.train.max_steps, config.train.warmup_steps, config.train.decay_share)
