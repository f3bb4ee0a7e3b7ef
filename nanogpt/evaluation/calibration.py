"""Whether a model is as often right as it is sure: calibration errors, and the temperature that would mend them.

Shape suffixes: N scored characters, V characters of the vocabulary, B bins.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BINS = 15
SURE = 0.9
"""From which confidence on a prediction counts as sure."""
TEMPERATURES = (0.02, 50.0)
"""Between which a temperature is sought: a model that knows nothing, or everything, has none."""


class Reliability(NamedTuple):
    """Predictions by bins of confidence: how many, how sure on average, how often right (0 where there are none)."""

    count_B: Tensor
    confidence_B: Tensor
    accuracy_B: Tensor

    @property
    def gap_B(self) -> Tensor:
        return (self.confidence_B - self.accuracy_B).abs()

    @property
    def expected_error(self) -> float:
        """Mean gap of the predictions, in [0, 1] (Guo et al. 2017, arXiv:1706.04599, eq. 3)."""
        return float((self.count_B * self.gap_B).sum() / self.count_B.sum().clamp(min=1))

    @property
    def maximum_error(self) -> float:
        """Largest gap of a bin (the same, eq. 5)."""
        return float(self.gap_B.max())


def binned(confidence_N: Tensor, correct_N: Tensor, index_N: Tensor, bins: int) -> Reliability:
    count_B, confidence_B, accuracy_B = torch.zeros(3, bins, dtype=torch.float64)
    count_B.index_add_(0, index_N, torch.ones(len(index_N), dtype=torch.float64))
    confidence_B.index_add_(0, index_N, confidence_N.double())
    accuracy_B.index_add_(0, index_N, correct_N.double())
    known_B = count_B.clamp(min=1)
    return Reliability(count_B, confidence_B / known_B, accuracy_B / known_B)


def reliability(confidence_N: Tensor, correct_N: Tensor, bins: int = BINS) -> Reliability:
    """Equal-width bins, closed on the right: bin k holds confidences in (k / bins, (k + 1) / bins]."""
    index_N = (confidence_N.double() * bins).ceil().long().clamp(1, bins) - 1
    return binned(confidence_N, correct_N, index_N, bins)


def adaptive_reliability(confidence_N: Tensor, correct_N: Tensor, bins: int = BINS) -> Reliability:
    """Bins of equally many predictions, by confidence (Nguyen & O'Connor 2015, arXiv:1508.05154)."""
    order_N = confidence_N.argsort(stable=True)
    index_N = torch.arange(len(order_N)) * bins // max(1, len(order_N))
    return binned(confidence_N[order_N], correct_N[order_N], index_N, bins)


def auroc(value_N: Tensor, correct_N: Tensor) -> float:
    """Chance that a right prediction has a higher value than a wrong one, ties counted half; nan without both.

    The Mann–Whitney statistic from average ranks.
    """
    right = float(correct_N.sum())
    wrong = len(correct_N) - right
    if not right or not wrong:
        return float("nan")
    _, inverse_N, count_U = value_N.unique(return_inverse=True, return_counts=True)
    rank_N = (count_U.cumsum(0) - (count_U - 1) / 2).double()[inverse_N]
    return (float((rank_N * correct_N).sum()) - right * (right + 1) / 2) / (right * wrong)


def fit_temperature(logits_NV: Tensor, targets_N: Tensor) -> float:
    """The T within TEMPERATURES for which softmax(logits / T) has the least loss (Guo et al. 2017, section 4.2).

    Above 1 the model is overconfident. The loss is convex in 1/T; its root is found by Newton's method, kept inside
    a bracket. ValueError without a prediction.
    """
    if not len(targets_N):
        raise ValueError("temperature must be fitted to at least one prediction, got 0")
    logits_NV = logits_NV.float()
    right_N = logits_NV.gather(1, targets_N[:, None]).squeeze(1)
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    scale = 1.0
    for _ in range(60):
        p_NV = (scale * logits_NV).softmax(-1)
        mean_N = (p_NV * logits_NV).sum(-1)
        slope = float((mean_N - right_N).double().mean())
        curvature = float(((p_NV * logits_NV.square()).sum(-1) - mean_N.square()).double().mean())
        low, high = (low, scale) if slope > 0 else (scale, high)
        newton = scale - slope / curvature if curvature > 0 else low
        following = newton if low < newton < high else (low * high) ** 0.5
        if abs(following - scale) < 1e-6 * scale:
            break
        scale = following
    return 1 / scale
