"""A few windows of a new domain and a few steps from a checkpoint; many such fine-tunings train as one model.

Shape suffixes: M members, K shots, B rows of each member in a step, N = M · B, T positions, S steps, V characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanogpt.config import Config
from nanogpt.errors import require
from nanogpt.evaluation.evaluate import mean_losses, stacked_losses
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.device import resolve_device, training_type
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Corpus, Split
from nanogpt.text.vocabulary import Vocabulary
from nanogpt.text.windows import batch_offsets, shuffled
from nanogpt.training.optimizer import set_rate_factor
from nanogpt.training.schedule import evenly_spaced_steps, rate_factor
from nanogpt.training.sizes import block_weights
from nanogpt.training.stacked import MemberAdam, stack, weights_of_member
from nanogpt.training.step import make_step

WARMUP_STEPS = 3
TOGETHER_ON_GPU = 64
LARGEST_STEP = 1e12
"""Weights times characters of a step of all transfers together on a GPU: what they remember for the derivative fits."""


@dataclass(frozen=True)
class FineTuning:
    """From which weights, to which text, at which learning rate, with which windows of it."""

    checkpoint: Checkpoint
    target: Corpus
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class AdaptationPoint:
    """A point of a learning curve, on validation text of the target from everywhere in it."""

    step: int
    bits_per_byte: float
    nats_per_character: float
    checkpoint: Checkpoint | None      # at the last point alone, if kept: the model at the point of the lowest loss


ZeroShot = dict[tuple[str, str], tuple[float, float]]
"""(checkpoint's SHA-256, target) to the validation losses before any step, bits per byte and nats per character."""


@dataclass
class Stopped:
    """Where the loss of a fine-tuning was lowest so far, and the weights there."""

    step: int
    bits_per_byte: float
    weights: Mapping[str, Tensor]


def transfers_together(config: Config) -> int:
    """Say how many transfers train as one model."""
    if config.transfer.together or resolve_device(config.device).type != "cuda":
        return config.transfer.together or 1
    characters = config.transfer.transfer_batch_size * config.model.block_size
    fitting = LARGEST_STEP / (block_weights(config.model) * characters)
    return max(1, min(TOGETHER_ON_GPU, int(fitting)))


def few_shot_windows(split: Split, block_size: int, shots: int, seed: int) -> Tensor:
    """`shots` windows (K, T + 1) that do not overlap; for one seed, fewer shots are the first of more.

    UserError where the text holds fewer windows.
    """
    held = (len(split) - 1) // block_size
    require(shots <= held, f"shots must be at most the {held} windows of the target's training text", shots)
    chosen_K = shuffled(held, shots, torch.Generator().manual_seed(seed)) * block_size
    return split.ids_at(chosen_K[:, None] + torch.arange(block_size + 1))


def batches(windows_MKT: Tensor, batch_size: int, steps: int, seeds: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets (N, T) of each step: every member's windows in shuffled epochs of its seed.

    At most `batch_size` windows of a member at a time.
    """
    members, shots, _ = windows_MKT.shape
    rows, device = min(batch_size, shots), windows_MKT.device
    chosen_SMB = torch.stack([batch_offsets(shots + 1, 1, rows, steps, seed) for seed in seeds], dim=1).to(device)
    for chosen_MB in chosen_SMB:
        window_NT = windows_MKT[torch.arange(members, device=device)[:, None], chosen_MB].flatten(0, 1)
        yield window_NT[:, :-1], window_NT[:, 1:]


def adapt(members: Sequence[FineTuning], config: Config, *, keep: bool = True, zero_shot: ZeroShot | None = None,
          ) -> Iterator[list[AdaptationPoint]]:
    """Fine-tune each member with a fresh Adam at its rate after a short warm-up; yields points of all learning curves.

    All weights learn, or the head alone. The first points are the zero-shot ones; the last carry the adapted
    checkpoints, each as it was at the point of its lowest validation loss (early stopping: at step 0 where all steps
    did harm), unless told not to `keep` them; the members' own checkpoints stay as they are. Only training and
    validation text is read. A member that goes alone takes its first point from `zero_shot` and leaves it there for
    others; of several, how they are batched may change the last bit. Ends at the first point where no loss is finite.
    UserError where the members differ in shape, or one from its target in vocabulary.
    """
    settings, device = config.transfer, resolve_device(config.device)
    for member in members:
        require(member.target.vocabulary == member.checkpoint.vocabulary, "target must be encoded with the vocabulary "
                f"of {member.checkpoint.title} ({member.checkpoint.vocabulary.sha256[:12]}…)",
                member.target.vocabulary.sha256[:12])
    model = stack([member.checkpoint for member in members], device)
    learning = model.head if settings.fine_tune == "head" else model
    model.requires_grad_(False)
    learning.requires_grad_(True)
    rates_M = torch.tensor([member.learning_rate for member in members], device=device)
    optimizer = MemberAdam(learning.parameters(), rates_M)
    step_once = make_step(model, [optimizer], training_type(device, config.train.precision), members=len(members))
    windows_MKT = shown_to(members, settings.shots)
    feed = batches(windows_MKT.to(device), settings.transfer_batch_size, settings.transfer_steps,
                   [member.seed for member in members])
    points = set(evenly_spaced_steps(settings.transfer_steps, settings.curve_points))
    stopped = [Stopped(0, math.inf, member.checkpoint.weights) for member in members]
    for step in range(settings.transfer_steps + 1):
        if step in points:
            losses = (validation_losses(model, members, settings.curve_characters) if step or len(members) > 1 else
                      [zero_shot_losses(model, members[0], settings.curve_characters, zero_shot)])
            for i, (bits_per_byte, _) in enumerate(losses):
                if keep and bits_per_byte < stopped[i].bits_per_byte:
                    stopped[i] = Stopped(step, bits_per_byte, weights_of_member(model, i))
            last = step == settings.transfer_steps or not any(math.isfinite(bits) for bits, _ in losses)
            yield [AdaptationPoint(step, *loss, adapted(member, best, windows_KT) if keep and last else None)
                   for member, loss, best, windows_KT in zip(members, losses, stopped, windows_MKT, strict=True)]
            if last:
                return
        set_rate_factor([optimizer], rate_factor(step, settings.transfer_steps, WARMUP_STEPS, 0.0))
        step_once(*next(feed))


def shown_to(members: Sequence[FineTuning], shots: int) -> Tensor:
    """Choose the windows (M, K, T + 1) that each member learns from."""
    return torch.stack([few_shot_windows(member.target.train, member.checkpoint.model_config.block_size, shots,
                                         member.seed) for member in members])


def validation_losses(model: GPT, members: Sequence[FineTuning], characters: int) -> list[tuple[float, float]]:
    """Score each member on the head of its target's validation text, in bits per byte and nats per character."""
    splits = [member.target.validation.spread(characters) for member in members]
    return [mean_losses(nats_N, split) for nats_N, split in zip(stacked_losses(model, splits), splits, strict=True)]


def zero_shot_losses(model: GPT, member: FineTuning, characters: int, known: ZeroShot | None) -> tuple[float, float]:
    """Score a member that has not learnt yet, unless it is known: no learning rate changes that."""
    key, known = (member.checkpoint.sha256, member.target.name), {} if known is None else known
    if key not in known:
        (known[key],) = validation_losses(model, [member], characters)
    return known[key]


def adapted(member: FineTuning, stopped: Stopped, windows_KT: Tensor) -> Checkpoint:
    """Make the checkpoint of a member that was stopped, adapted to its windows (K, T + 1).

    It has seen what its parent has and, after a step, these windows.
    """
    source, target = member.checkpoint, member.target
    shown_V = torch.bincount(windows_KT.flatten(), minlength=len(source.vocabulary)) * (stopped.step > 0)
    notes = dict(source.notes) | {"parent_sha256": source.sha256, "parent_domain": source.domain,
                                  "parent_step": source.step, "learning_rate": member.learning_rate,
                                  "transfer_seed": member.seed}
    return Checkpoint(f"{source.domain}-to-{target.name}", stopped.step, source.model_config, source.vocabulary,
                      stopped.weights, source.character_counts_V + shown_V, notes)


def extend_vocabulary(checkpoint: Checkpoint, text: str | Mapping[str, int], min_count: int) -> Checkpoint:
    """The checkpoint with the characters added that occur at least `min_count` times in `text`, or its counts.

    Their rows of embedding and head are the means of the old rows (Hewitt 2021, nlp.stanford.edu/~johnhew,
    "Initializing new word embeddings"); with their logits masked the model predicts what it did.
    """
    known = checkpoint.vocabulary.characters
    vocabulary = Vocabulary("".join(sorted({*known, *Vocabulary.of([text], min_count).characters})))
    places_V = torch.cat((torch.zeros(1, dtype=torch.int64), vocabulary.encode(known)))
    counts_V = torch.zeros(len(vocabulary), dtype=checkpoint.character_counts_V.dtype)
    counts_V[places_V] = checkpoint.character_counts_V
    rows = {name: with_mean_rows(checkpoint.weights[name], places_V, len(vocabulary))
            for name in ("embedding.weight", "head.weight")}
    weights: Mapping[str, Tensor] = {**checkpoint.weights, **rows}
    return replace(checkpoint, vocabulary=vocabulary, weights=weights, character_counts_V=counts_V)


def with_mean_rows(old_VC: Tensor, places_V: Tensor, size: int) -> Tensor:
    """A table of `size` rows: the old ones at their new places, their mean elsewhere."""
    new_VC = old_VC.mean(0).expand(size, -1).clone()
    new_VC[places_V] = old_VC
    return new_VC
