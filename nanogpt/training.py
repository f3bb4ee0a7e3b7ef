"""The training loop: it yields records and never calls back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from nanogpt.checkpoint import Checkpoint, weights_of
from nanogpt.config import Config
from nanogpt.corpus import Corpus, batch_offsets, windows_at
from nanogpt.engine import make_step, random_stream, resolve_device
from nanogpt.model import GPT
from nanogpt.optimizer import make_optimizers, set_rate_factor
from nanogpt.schedule import checkpoint_steps, rate_factor


@dataclass(frozen=True)
class Progress:
    """Where a training stands after `step` updates. Times leave out what the consumer does between records."""

    step: int
    max_steps: int
    loss_nats: float | None             # mean training loss since the last record; None at step 0
    rate_factor: float                  # of the schedule, in (0, 1]
    characters_per_second: float
    seconds: float
    checkpoint: Checkpoint | None       # at the steps of the checkpoint schedule

    @property
    def seconds_left(self) -> float:
        return self.seconds / max(1, self.step) * (self.max_steps - self.step)


def new_model(corpus: Corpus, config: Config) -> GPT:
    """Random weights that depend on the seed and the shape alone, on the CPU."""
    with random_stream(config.seed, torch.device("cpu")):
        return GPT(config.model, len(corpus.vocabulary))


def take_checkpoint(model: GPT, corpus: Corpus, config: Config, step: int) -> Checkpoint:
    notes = {"seed": config.seed, "preset": config.preset, "max_steps": config.train.max_steps,
             "corpus_sha256": corpus.source.sha256, "torch": str(torch.__version__)}
    return Checkpoint(corpus.name, step, config.model, corpus.vocabulary, weights_of(model),
                      corpus.character_counts_V, notes)


def train(corpus: Corpus, config: Config) -> Iterator[Progress]:
    """Train a new GPT on the training split; a record every `log_every` steps and at each checkpoint.

    The first record is step 0 with the untrained checkpoint; the last is step `max_steps` with the final one.
    Weights and batches depend on the seed alone; no global random stream is read or moved.
    """
    settings, device = config.train, resolve_device(config.device)
    model = new_model(corpus, config).to(device).train()
    optimizers = make_optimizers(model, settings)
    step_once = make_step(model, optimizers)
    ids_N = corpus.train.ids_N.to(device)
    offsets_SB = batch_offsets(len(ids_N), config.model.block_size, settings.batch_size, settings.max_steps,
                               config.seed).to(device)
    keep = set(checkpoint_steps(settings.max_steps, settings.checkpoints))
    losses: list[torch.Tensor] = []
    seconds, began, recorded = 0.0, time.perf_counter(), 0
    for step in range(settings.max_steps + 1):
        if step in keep or step % settings.log_every == 0:
            loss = float(torch.stack(losses).mean()) if losses else None
            seconds += time.perf_counter() - began
            characters = step * settings.batch_size * config.model.block_size
            yield Progress(step, settings.max_steps, loss, factor_at(step, config), characters / max(seconds, 1e-9),
                           seconds, take_checkpoint(model, corpus, config, step) if step in keep else None)
            losses.clear()
            began = time.perf_counter()
        if step < settings.max_steps:
            set_rate_factor(optimizers, factor_at(step, config))
            inputs_BT, targets_BT = windows_at(ids_N, offsets_SB[step], config.model.block_size)
            with random_stream(config.seed * 1_000_003 + step, device):
                losses.append(step_once(inputs_BT, targets_BT))


def factor_at(step: int, config: Config) -> float:
    return rate_factor(step, config.train.max_steps, config.train.warmup_steps, config.train.decay_share)
