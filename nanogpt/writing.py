"""What a model has written, measured: how likely each model finds it, how varied it is, how its entropy drifts.

Shape suffixes: B texts, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanogpt.corpus import Vocabulary
from nanogpt.metrics import score
from nanogpt.model import GPT

DISTINCT, REPEATED = 3, 8
"""Lengths of the n-grams whose variety, and whose return, are counted."""
COPIED_SPAN = 20
"""Characters in a row that a text must share with the training text to count as copied."""


@torch.inference_mode()
def score_texts(model: GPT, vocabulary: Vocabulary, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Loss and entropy (B, T) of each character, nats; nan after the end of a shorter text.

    As `evaluation.read`, each text by itself, in windows of the context's length.
    """
    ids = [vocabulary.encode(text) for text in texts]
    targets_BT = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    inputs_BT = torch.cat((torch.full((len(ids), 1), vocabulary.start_id), targets_BT[:, :-1]), dim=1)
    block_size, device = model.config.block_size, model.head.weight.device
    losses, entropies = [], []
    for inputs, targets in zip(inputs_BT.split(block_size, 1), targets_BT.split(block_size, 1), strict=True):
        found = score(model(inputs.to(device)).flatten(0, 1), targets.flatten().to(device))
        losses.append(found.loss_N.view(targets.shape).cpu())
        entropies.append(found.entropy_N.view(targets.shape).cpu())
    outside_BT = torch.arange(targets_BT.size(1)) >= torch.tensor([[len(row)] for row in ids])
    loss_BT, entropy_BT = (torch.cat(parts, 1).masked_fill(outside_BT, torch.nan) for parts in (losses, entropies))
    return loss_BT, entropy_BT


def distinct_share(text: str, length: int = DISTINCT) -> float:
    """Different n-grams over all of them, in (0, 1] (Li et al. 2016, arXiv:1510.03055); 1 for a text without any."""
    grams = [text[i:i + length] for i in range(len(text) - length + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repeated_share(text: str, length: int = REPEATED) -> float:
    """Share of the n-grams that stood in the text before, in [0, 1)."""
    return 1 - distinct_share(text, length)
