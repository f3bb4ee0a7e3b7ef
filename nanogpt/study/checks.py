"""What cannot be done is refused before the first step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from nanogpt.config import Config
from nanogpt.errors import require
from nanogpt.model.device import memory_bytes, resolve_device
from nanogpt.model.gpt import count_weights
from nanogpt.model.launch import Launch
from nanogpt.text.corpus import Corpus
from nanogpt.training.processes import world_size

NUMBERS_PER_WEIGHT = 6
"""Weights, gradients, what the optimizers keep, copies for a checkpoint and for its score."""
NUMBERS_PER_CHANNEL = 24
"""Of a block, kept for the gradient at each character."""
NUMBERS_PER_LOGIT = 4


def training_bytes(config: Config, vocab_size: int) -> int:
    """Estimate the memory that a training takes beside texts and programs.

    Measured on a CPU it was 0.8 to 1.2 times what five shapes of 0.1 to 25 million weights took, in float32 and
    bfloat16.
    """
    model, train = config.model, config.train
    characters = train.batch_size * model.block_size
    of_block = NUMBERS_PER_CHANNEL * model.n_embd + model.n_head * model.block_size
    numbers = (NUMBERS_PER_WEIGHT * count_weights(model, vocab_size)
               + characters * (model.n_layer * of_block + NUMBERS_PER_LOGIT * vocab_size))
    return 4 * numbers + 8 * train.max_steps * train.batch_size       # the places of all windows to come


def check_memory(config: Config, corpora: Iterable[Corpus]) -> None:
    """Raise UserError where a training takes more memory than the device has; of processes each GPU has a share."""
    device = resolve_device(config.device)
    if device.type == "cuda":
        rows = config.train.batch_size // world_size()
        config = replace(config, train=replace(config.train, batch_size=rows))
    needed = max(training_bytes(config, len(corpus.vocabulary)) for corpus in corpora)
    there = memory_bytes(device)
    require(needed <= there, "n_layer, n_embd, block_size, batch_size and max_steps must fit into the "
            f"{there / 1e9:.1f} GB of this machine's {device.type}", f"about {needed / 1e9:.1f} GB")


def check_cache(config: Config) -> None:
    """Raise UserError where the cache is no folder."""
    cache = Path(config.data.cache).expanduser()
    require(not config.data.cache or not cache.exists() or cache.is_dir(), "cache must be a folder", config.data.cache)


def check_processes(config: Config, launch: Launch | None) -> None:
    """Raise UserError where the processes that were launched together cannot share this training."""
    if launch is None or not launch.has_others:
        return
    count, rows, device = launch.world_size, config.train.batch_size, resolve_device(config.device)
    require(rows % count == 0, f"batch_size must be divisible by the number of processes = {count}", rows)
    require(device.type != "mps", "device must be cpu or cuda for several processes", device.type)
    if device.type == "cuda":
        cards = torch.cuda.device_count()
        require(launch.local_world_size <= cards, f"--nproc-per-node must be at most the number of GPUs = {cards}",
                launch.local_world_size)
