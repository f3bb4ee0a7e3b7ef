"""From logits and targets to nats, bits, entropy, confidence, accuracy, calibration; weighted means.

Shape suffixes: N scored characters, V characters of the vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
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


def score(logits_NV: Tensor, targets_N: Tensor) -> Scores:
    """Scores of N predictions, in float32."""
    log_p_NV = logits_NV.float().log_softmax(-1)
    p_NV = log_p_NV.exp()
    top_p, top_ids = p_NV.topk(min(5, p_NV.size(-1)), dim=-1)
    return Scores(
        loss_N=-log_p_NV.gather(1, targets_N[:, None]).squeeze(1),
        entropy_N=-(p_NV * log_p_NV).sum(-1),
        confidence_N=top_p[:, 0],
        top5_N=top_p.sum(-1),
        correct_N=(top_ids[:, 0] == targets_N).float(),
    )


def concatenate(parts: list[Scores]) -> Scores:
    return Scores(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def bits(nats: float) -> float:
    return nats / math.log(2)


def code_bits(loss_N: Tensor, escape_bytes_N: Tensor) -> Tensor:
    """Bits that each character costs, float64: its loss in nats, and spelling it out where it is unknown."""
    return bits(1.0) * loss_N.double() + ESCAPE_BITS_PER_BYTE * escape_bytes_N


def calibration_error(confidence_N: Tensor, correct_N: Tensor, bins: int = 15) -> float:
    """Expected calibration error in [0, 1] (Guo et al. 2017, arXiv:1706.04599, eq. 3); 0 for an empty input.

    Equal-width bins, closed on the right: bin k holds confidences in (k / bins, (k + 1) / bins].
    """
    index_N = (confidence_N.double() * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=confidence_N.device)
    gap.index_add_(0, index_N, confidence_N.double() - correct_N.double())
    return float(gap.abs().sum()) / max(1, len(confidence_N))
