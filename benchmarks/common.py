"""What the benchmarks share: a text as a corpus, its loss as others count it, settings from the command line, this
machine's matmul peak.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.config import Config, make_config, settings
from nanogpt.errors import require
from nanogpt.evaluation.evaluate import CHARACTERS_PER_BATCH
from nanogpt.model.allocator import keep_freed_memory
from nanogpt.model.device import products_in, scoring_type
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Corpus, Split, make_split
from nanogpt.text.sources import DomainText
from nanogpt.text.vocabulary import Vocabulary

keep_freed_memory()    # as the commands do: a benchmark is a program of its own


def load_source(path: Path) -> DomainText:
    """A file's text under its own name."""
    text = path.read_text("utf-8")
    return DomainText(path.stem, text, "file", path.name, "unknown", hashlib.sha256(text.encode()).hexdigest(),
                      len(text.encode()))


def load_corpus(path: Path) -> Corpus:
    """nanoGPT's split: the first 90 % of the characters train, the last 10 % validation (and test); every character
    has an id."""
    source = load_source(path)
    text = source.text
    vocabulary, first = Vocabulary("".join(sorted(set(text)))), int(0.9 * len(text))
    validation = make_split(text[first:], vocabulary)
    return Corpus(source, make_split(text[:first], vocabulary), validation, validation)


def disjoint_windows(split: Split, block_size: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets (<= rows, <= block_size): every character is a target exactly once, in order.

    With block_size 4 and the text "ABCDEF", ⏎ standing for `Vocabulary.start_id`:

        inputs  ⏎ABC  DE
        targets ABCD  EF
    """
    targets_N, start = split.ids_N.long(), torch.tensor([split.vocabulary.start_id])
    inputs_N = torch.cat((start, targets_N))[:-1]
    whole = len(targets_N) // block_size * block_size
    if whole:
        yield from zip(inputs_N[:whole].view(-1, block_size).split(rows),
                       targets_N[:whole].view(-1, block_size).split(rows), strict=True)
    if whole < len(targets_N):
        yield inputs_N[None, whole:], targets_N[None, whole:]


@torch.inference_mode()
def disjoint_loss(model: GPT, split: Split) -> float:
    """Nats per character over `disjoint_windows`: what nanoGPT estimates, over the whole text.

    More than the loss that a study records, where what is scored has at least half a window before it.
    """
    device, block_size, total = model.head.weight.device, model.config.block_size, 0.0
    for inputs_BT, targets_BT in disjoint_windows(split, block_size, max(1, CHARACTERS_PER_BATCH // block_size)):
        with products_in(scoring_type(device), device):
            logits_BTV = model(inputs_BT.to(device))
        total += float(F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten().to(device),
                                       reduction="none").double().sum())
    return total / len(split)


def read_config(preset: str, changes: tuple[str, ...]) -> Config:
    """The preset with `name=value` changes. ValueError for an unknown name."""
    known, values = settings(), dict[str, Any]()
    for change in changes:
        name, _, text = change.partition("=")
        require(name in known, "change must be name=value with a field of the configuration", change)
        kind = known[name][0]
        values[name] = text.lower() in ("1", "true", "yes") if kind is bool else kind(text)
    return make_config(preset, **values)


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The shortest of `repeats` times, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device) -> float:
    """FLOP/s of a large matrix product: bfloat16 on a GPU, float32 elsewhere."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1536, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2.0 * size**3 / seconds_of(lambda: a @ a, device)
