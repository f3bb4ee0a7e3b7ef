"""From logits and targets to nats, bits, entropy, confidence, accuracy; weighted means.

Shape suffixes: N scored characters, V characters of the vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

ESCAPE_BITS_PER_BYTE = 8.0
"""What spelling out one UTF-8 byte of an unknown character costs, on top of predicting `<unk>`."""


class Scores(NamedTuple):
    """What one pass over a text says of each of its N characters, in order."""

    loss_N: Tensor        # -ln p(character), nats
    entropy_N: Tensor     # entropy of the prediction, nats
    confidence_N: Tensor  # probability of the most probable character
    top5_N: Tensor        # summed probability of the five most probable characters
    correct_N: Tensor     # 1.0 where the most probable character was the right one
    brier_N: Tensor       # squared distance of the probabilities from 1 for the character and 0 for all others
    tempered_loss_N: Tensor   # loss of softmax(logits / temperature)


def score(logits_NV: Tensor, targets_N: Tensor, temperature: float = 1.0) -> Scores:
    """Score N predictions, in float32. Brier's as he defined it (1950), in [0, 2]."""
    log_p_NV = logits_NV.float().log_softmax(-1)
    p_NV = log_p_NV.exp()
    top_p, top_ids = p_NV.topk(min(5, p_NV.size(-1)), dim=-1)
    log_p_N = log_p_NV.gather(1, targets_N[:, None]).squeeze(1)
    tempered_N = log_p_N if temperature == 1 else log_p_N / temperature - (log_p_NV / temperature).logsumexp(-1)
    return Scores(
        loss_N=-log_p_N,
        entropy_N=-(p_NV * log_p_NV).sum(-1),
        confidence_N=top_p[:, 0],
        top5_N=top_p.sum(-1),
        correct_N=(top_ids[:, 0] == targets_N).float(),
        brier_N=p_NV.square().sum(-1) - 2 * log_p_N.exp() + 1,
        tempered_loss_N=-tempered_N,
    )


def bits(nats: float) -> float:
    """Convert nats to bits."""
    return nats / math.log(2)


def code_bits(loss_N: Tensor, escape_bytes_N: Tensor) -> Tensor:
    """Return the bits that each character costs, float64: its loss in nats, and spelling it out where it is unknown."""
    return bits(1.0) * loss_N.double() + ESCAPE_BITS_PER_BYTE * escape_bytes_N
