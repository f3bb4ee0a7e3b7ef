"""A few windows of a new domain and a few steps from a checkpoint.

Shape suffixes: K shots, B rows, T positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt.checkpoint import Checkpoint, weights_of
from nanogpt.config import Config, require
from nanogpt.corpus import Corpus, Split, batch_offsets
from nanogpt.engine import make_step, random_stream, resolve_device
from nanogpt.evaluation import evaluate
from nanogpt.model import GPT
from nanogpt.optimizer import set_rate_factor
from nanogpt.schedule import evenly_spaced_steps, rate_factor

WARMUP_STEPS = 3


@dataclass(frozen=True)
class AdaptationPoint:
    """A point of a learning curve, on the head of the target's validation text."""

    step: int
    bits_per_byte: float
    nats_per_character: float
    checkpoint: Checkpoint | None      # the adapted model, at the last point alone


def few_shot_windows(split: Split, block_size: int, shots: int, seed: int) -> Tensor:
    """`shots` windows (K, T + 1) that do not overlap; for one seed, fewer shots are the first of more.

    ValueError where the text holds fewer windows.
    """
    held = (len(split) - 1) // block_size
    require(shots <= held, f"shots must be at most the {held} windows of the target's training text", shots)
    chosen_K = torch.randperm(held, generator=torch.Generator().manual_seed(seed))[:shots] * block_size
    return split.ids_N[chosen_K[:, None] + torch.arange(block_size + 1)]


def batches(windows_KT: Tensor, batch_size: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets of each step: the windows in shuffled epochs, at most `batch_size` of them at a time."""
    rows = min(batch_size, len(windows_KT))
    for chosen_B in batch_offsets(len(windows_KT) + 1, 1, rows, steps, seed):
        yield windows_KT[chosen_B, :-1], windows_KT[chosen_B, 1:]


def adapt(checkpoint: Checkpoint, target: Corpus, config: Config, learning_rate: float,
          *, seed: int) -> Iterator[AdaptationPoint]:
    """Fine-tune all weights with a fresh AdamW at one rate after a short warm-up; yields the learning curve.

    The first point is the zero-shot one; the last carries the adapted checkpoint. `checkpoint` stays as it is.
    Only the target's training and validation splits are read. Stops at the first loss that is not finite.
    """
    settings, device = config.transfer, resolve_device(config.device)
    block_size = checkpoint.model_config.block_size
    model = checkpoint.build(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    optimizer.param_groups[0]["initial_lr"] = learning_rate
    step_once = make_step(model, [optimizer])
    windows_KT = few_shot_windows(target.train, block_size, settings.shots, seed).to(device)
    feed = batches(windows_KT, settings.transfer_batch_size, settings.transfer_steps, seed)
    validation = target.validation.head(settings.curve_characters)
    points = set(evenly_spaced_steps(settings.transfer_steps, settings.curve_points))
    for step in range(settings.transfer_steps + 1):
        if step in points:
            result = evaluate(model, checkpoint, validation)
            last = step == settings.transfer_steps or not math.isfinite(result.bits_per_byte)
            yield AdaptationPoint(step, result.bits_per_byte, result.nats_per_character,
                                  adapted(checkpoint, model, target, step) if last else None)
            if last:
                return
        set_rate_factor([optimizer], rate_factor(step, settings.transfer_steps, WARMUP_STEPS, 0.0))
        with random_stream(seed * 1_000_003 + step, device):
            step_once(*next(feed))


def adapted(checkpoint: Checkpoint, model: GPT, target: Corpus, step: int) -> Checkpoint:
    """The checkpoint of a model adapted for `step` steps; it has seen what its parent and the target hold."""
    notes = dict(checkpoint.notes) | {"parent_sha256": checkpoint.sha256, "parent_domain": checkpoint.domain,
                                      "parent_step": checkpoint.step}
    return Checkpoint(f"{checkpoint.domain}-to-{target.name}", step, checkpoint.model_config, checkpoint.vocabulary,
                      weights_of(model), checkpoint.character_counts_V + target.character_counts_V, notes)
