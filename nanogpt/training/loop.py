"""The training loop: it yields records and never calls back."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nanogpt.config import Config
from nanogpt.errors import require
from nanogpt.model.checkpoint import Checkpoint, weights_of
from nanogpt.model.device import random_stream, resolve_device, training_type
from nanogpt.model.gpt import GPT, count_weights
from nanogpt.model.skip_initialization import skip_initialization
from nanogpt.text.corpus import Corpus
from nanogpt.text.windows import batch_offsets
from nanogpt.training.batches import make_batches
from nanogpt.training.optimizer import make_optimizers, set_rate_factor
from nanogpt.training.processes import all_go_on, handed_out, mean_of_all, own_share, rank, world_size
from nanogpt.training.schedule import checkpoint_steps, rate_factor
from nanogpt.training.stacked import cut_members, join_members, map_tensors, stack
from nanogpt.training.state import TrainingState, check_shapes
from nanogpt.training.step import make_step, release

COMPILATION_PAYS = 1.2e15
"""Weights times characters from which on a compilation pays on a GPU: those of twelve trainings of `gpu`."""

STEP_FILLS_GPU = 1e11
"""Weights times characters of a step from which on a GPU has enough to do with one training (benchmarks/README.md)."""
MOST_TOGETHER = 64


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
    diverged_at: int | None = None      # the step of the first loss that was not finite

    @property
    def seconds_left(self) -> float:
        return self.seconds / max(1, self.step) * (self.max_steps - self.step)


def new_model(corpus: Corpus, config: Config) -> GPT:
    """Draw weights that depend on the seed and the shape alone, on the CPU."""
    with random_stream(config.seed, torch.device("cpu")):
        return GPT(config.model, len(corpus.vocabulary))


def take_checkpoint(weights: dict[str, Tensor], member: Pretraining, step: int) -> Checkpoint:
    corpus, config = member.corpus, member.config
    notes = {"seed": config.seed, "preset": config.preset, "split": config.data.split,
             "max_steps": config.train.max_steps, "corpus_sha256": corpus.source.sha256,
             "torch": str(torch.__version__)}
    return Checkpoint(corpus.name, step, config.model, corpus.vocabulary, weights, corpus.character_counts_V, notes)


def identity_of(corpus: Corpus, config: Config) -> dict[str, Any]:
    """List what two trainings must share to have the same weights at the same step."""
    settings = asdict(config.train)
    for name in ("seeds", "train_together", "state_seconds"):
        del settings[name]
    return {"seed": config.seed, **asdict(config.model), **settings, "corpus_sha256": corpus.source.sha256,
            "train_characters": len(corpus.train), "vocabulary_sha256": corpus.vocabulary.sha256}


@dataclass(frozen=True)
class Pretraining:
    """Which text is learnt, how, and from which state on."""

    corpus: Corpus
    config: Config
    state: TrainingState | None = None      # None: from random weights

    @property
    def first_step(self) -> int:
        return self.state.step if self.state else 0

    @property
    def seconds(self) -> float:
        return self.state.seconds if self.state else 0.0

    @property
    def offsets_SB(self) -> Tensor:
        """Where the windows of every step begin in the training text."""
        settings, block_size = self.config.train, self.config.model.block_size
        return batch_offsets(len(self.corpus.train), block_size, settings.batch_size, settings.max_steps,
                             self.config.seed)

    def check(self) -> None:
        """Raise UserError where the state is of another training."""
        if self.state is None:
            return
        expected, identity = identity_of(self.corpus, self.config), self.state.identity
        differing = {name: identity.get(name) for name in expected | identity
                     if identity.get(name) != expected.get(name)}
        require(not differing, "resume must be a state of this same training", differing)
        require(self.state.step <= self.config.train.max_steps, "resume must be a state before the end",
                self.state.step)
        with skip_initialization():
            check_shapes(self.state, GPT(self.config.model, len(self.corpus.vocabulary)))


class Training:
    """Trainings in progress: one model, or the stacked models of all members; optimizers and batches."""

    def __init__(self, members: Sequence[Pretraining], trainings: int) -> None:
        self.members, self.config = members, members[0].config
        self.first_step, self.seconds = members[0].first_step, members[0].seconds
        settings, self.device = self.config.train, resolve_device(self.config.device)
        kind = training_type(self.device, settings.precision)
        self.model = new_models(members).to(self.device).train()
        self.optimizers = make_optimizers(self.model, settings, kind)
        if states := [member.state for member in members if member.state]:
            self.restore(states)
        compiled = is_compiled(self.model, self.config, self.device, max(trainings / len(members), 1))
        self.update = make_step(self.model, self.optimizers, kind, compiled=compiled, members=len(members),
                                processes=world_size())
        self.batches = make_batches([member.corpus.train for member in members],
                                    [own_share(member.offsets_SB) for member in members],
                                    self.config.model.block_size, self.device)

    def restore(self, states: Sequence[TrainingState]) -> None:
        self.model.load_state_dict(join_members([state.weights for state in states]))
        saved = join_members([state.optimizers for state in states])
        for optimizer, part in zip(self.optimizers, saved, strict=True):     # rates and the like are the settings' own
            optimizer.load_state_dict({"state": part["state"],
                                       "param_groups": optimizer.state_dict()["param_groups"]})

    def weights(self) -> list[dict[str, Tensor]]:
        """Copy the weights of each member to the CPU."""
        return cut_members(weights_of(self.model), len(self.members))

    def states(self, step: int, seconds: float) -> list[TrainingState]:
        """Copy all that each member needs to go on."""
        optimizers = cut_members([on_cpu(optimizer.state_dict()) for optimizer in self.optimizers], len(self.members))
        return [TrainingState(step, seconds, weights, state, identity_of(member.corpus, member.config))
                for member, weights, state in zip(self.members, self.weights(), optimizers, strict=True)]

    def step(self, step: int) -> Tensor:
        """Make update number `step` (0-based); returns the loss of each member, still on the device.

        Of several processes each drops activations of its own rows, by a stream of its own.
        """
        set_rate_factor(self.optimizers, factor_at(step, self.config))
        batch = self.batches.at(step)
        if not self.config.model.dropout:      # nothing is drawn
            return self.update(*batch)
        with random_stream((self.config.seed * 1_000_003 + step) * world_size() + rank(), self.device):
            return self.update(*batch)


def new_models(members: Sequence[Pretraining]) -> GPT:
    """Draw the weights of each member as if it were alone; those of several are stacked."""
    if len(members) == 1:
        return new_model(members[0].corpus, members[0].config)
    return stack([take_checkpoint(weights_of(new_model(member.corpus, member.config)), member, 0)
                  for member in members])


def is_compiled(model: GPT, config: Config, device: torch.device, times: float) -> bool:
    """Say whether blocks are compiled: as the setting says; `auto`: on a GPU where that pays.

    `times` so many trainings of this model, stacked or not, share one compilation.
    """
    settings = config.train
    if settings.compile != "auto":
        return settings.compile == "on"
    weights = sum(parameter.numel() for parameter in model.parameters())
    characters = settings.max_steps * settings.batch_size * config.model.block_size
    return device.type == "cuda" and times * weights * characters >= COMPILATION_PAYS


def on_cpu(value: Any) -> Any:
    """Copy nested dicts and lists with all tensors on the CPU."""
    return map_tensors(lambda tensor: tensor.detach().to("cpu", copy=True), value)


def train(corpus: Corpus, config: Config, resume: TrainingState | None = None, *,
          trainings: int = 1) -> Iterator[Progress]:
    """Train a new GPT on the training split; yields a record every `log_every` steps and at each checkpoint.

    The first record is step 0 with the untrained checkpoint; the last is step `max_steps` with the final one.
    Weights and batches depend on the seed alone; no global random stream is read or moved. From `resume` it goes
    on after that state's record and ends, on a CPU, with the same bits. `trainings` of this shape in this process, this
    one among them, share one compilation. UserError where the state is of another training.
    """
    for (progress,) in train_together([Pretraining(corpus, config, resume)], trainings=trainings):
        yield progress


def trainings_together(config: Config, corpus: Corpus) -> int:
    """Say how many trainings run as one model; of several processes all make one training after the other."""
    if world_size() > 1:
        return 1
    if config.train.train_together or resolve_device(config.device).type != "cuda":
        return config.train.train_together or 1
    return models_that_fill_gpu(config, len(corpus.vocabulary))


def models_that_fill_gpu(config: Config, vocab_size: int) -> int:
    """Say how many trainings at once give a GPU enough to do."""
    characters = config.train.batch_size * config.model.block_size
    weights = count_weights(config.model, vocab_size)
    return max(1, min(MOST_TOGETHER, int(STEP_FILLS_GPU / (weights * characters))))


def train_together(members: Sequence[Pretraining], *, trainings: int = 1) -> Iterator[list[Progress]]:
    """Train several GPTs of one shape as one batched model; yields the records of all at each step that has one.

    Each has its own text, seed, weights, batches and state, and learns what it would alone, but for the rounding of
    batched products and, with dropout, other masks. They may differ in nothing but text and seed, and go on from the
    same step: ValueError else. UserError where a state is of another training.

    A member whose loss is not finite has diverged (`diverged_at`); when all have, their records are the last ones.

    Of several processes (training/processes.py) all call this with the same one member; when the consumer of the first
    one takes no more records, those of the others end too.
    """
    check_members(members)
    training = Training(members, trainings)
    try:
        yield from records_of(training)
    finally:
        release(training.update)


def records_of(training: Training) -> Iterator[list[Progress]]:
    """Make the updates of a training; yields the records of its members at each step that has one."""
    members, settings, first = training.members, training.config.train, training.first_step
    keep = set(checkpoint_steps(settings.max_steps, settings.checkpoints))
    losses: list[Tensor] = []
    diverged: list[int | None] = [None] * len(members)
    seconds, began = training.seconds, time.perf_counter()
    for step in range(first, settings.max_steps + 1):
        kept, known = step in keep, members[0].state and step == first
        if not known and (kept or step % settings.log_every == 0):
            means: Sequence[float | None] = [None] * len(members)
            if losses:
                losses_SM = mean_of_all(torch.stack(losses))
                means = losses_SM.mean(0).tolist()
                diverged = diverged_by(losses_SM, means, diverged, step - len(losses))
            seconds += time.perf_counter() - began
            try:
                yield training_records(training, step, seconds, means, diverged, kept=kept)
            except GeneratorExit:
                with contextlib.suppress(RuntimeError):     # they have ended
                    all_go_on(False)
                raise
            if not all_go_on() or None not in diverged:
                return
            losses.clear()
            began = time.perf_counter()
        if step < settings.max_steps:
            losses.append(training.step(step))


def train_along() -> None:
    """Train what the first process hands out until it hands out None: all that the other processes do."""
    while work := handed_out():
        member, trainings = work
        for _ in train_together([member], trainings=trainings):
            pass


def diverged_by(losses_SM: Tensor, means: Sequence[float | None], before: Sequence[int | None],
                first_step: int) -> list[int | None]:
    """Find the step of each member's first loss that is not finite, or the one of `before`; S counts from `first_step`.
    """
    if all(mean is not None and math.isfinite(mean) for mean in means):
        return list(before)
    wrong_SM = ~losses_SM.isfinite()
    now = [first_step + int(wrong_S.int().argmax()) if wrong_S.any() else None for wrong_S in wrong_SM.T]
    return [known if known is not None else at for known, at in zip(before, now, strict=True)]


def check_members(members: Sequence[Pretraining]) -> None:
    """Raise an error where the members cannot train as one."""
    for member in members:
        member.check()
    shared = {(replace(member.config, seed=0), len(member.corpus.vocabulary), member.state and member.state.step)
              for member in members}
    if len(members) > 1 and world_size() > 1:
        raise ValueError(f"several processes must train one member, got {len(members)}")
    if len(shared) != 1:
        raise ValueError(f"members must share configuration, vocabulary and step, got {len(shared)} different")


def training_records(training: Training, step: int, seconds: float, losses: Sequence[float | None],
                     diverged: Sequence[int | None], *, kept: bool) -> list[Progress]:
    """Say where each member stands; times and characters per second are those of one of them, as if it were alone."""
    config, members = training.config, training.members
    characters = step * config.train.batch_size * config.model.block_size
    weights = training.weights() if kept else [None] * len(members)
    states = functools.cache(lambda: training.states(step, seconds))       # one copy serves all members
    return [Progress(step, config.train.max_steps, loss, factor_at(step, config), characters / max(seconds, 1e-9),
                     seconds, take_checkpoint(own, member, step) if own else None,
                     functools.partial(lambda i: states()[i], i), at)
            for i, (member, loss, own, at) in enumerate(zip(members, losses, weights, diverged, strict=True))]


def factor_at(step: int, config: Config) -> float:
    return rate_factor(step, config.train.max_steps, config.train.warmup_steps, config.train.decay_share)
