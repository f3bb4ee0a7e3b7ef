"""Whether a model is as often right as it is sure: calibration errors, and the temperature that would mend them.

Shape suffixes: N scored characters, V characters of the vocabulary.
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
    """What is in each bin of confidence, each (bins,): how many predictions, how sure on average, how often right.

    A bin without predictions has 0 in all three.
    """

    counts: Tensor
    confidences: Tensor
    accuracies: Tensor

    @property
    def gaps(self) -> Tensor:
        """Return how far confidence and accuracy are apart in each bin, (bins,)."""
        return (self.confidences - self.accuracies).abs()

    @property
    def expected_error(self) -> float:
        """Return the mean gap of the predictions, in [0, 1] (Guo et al. 2017, arXiv:1706.04599, eq. 3)."""
        return float((self.counts * self.gaps).sum() / self.counts.sum().clamp(min=1))

    @property
    def maximum_error(self) -> float:
        """Return the largest gap of a bin (the same, eq. 5)."""
        return float(self.gaps.max())


def binned(confidence_N: Tensor, correct_N: Tensor, index_N: Tensor, bins: int) -> Reliability:
    """Sum up predictions by the bin `index_N` that each lies in."""
    counts, confidences, accuracies = torch.zeros(3, bins, dtype=torch.float64)
    counts.index_add_(0, index_N, torch.ones(len(index_N), dtype=torch.float64))
    confidences.index_add_(0, index_N, confidence_N.double())
    accuracies.index_add_(0, index_N, correct_N.double())
    divisors = counts.clamp(min=1)
    return Reliability(counts, confidences / divisors, accuracies / divisors)


def reliability(confidence_N: Tensor, correct_N: Tensor, bins: int = BINS) -> Reliability:
    """Sort predictions into bins of equal width: bin k holds confidences in (k / bins, (k + 1) / bins]."""
    index_N = (confidence_N.double() * bins).ceil().long().clamp(1, bins) - 1
    return binned(confidence_N, correct_N, index_N, bins)


def adaptive_reliability(confidence_N: Tensor, correct_N: Tensor, bins: int = BINS) -> Reliability:
    """Sort predictions by confidence into bins of equally many (Nguyen & O'Connor 2015, arXiv:1508.05154)."""
    order_N = confidence_N.argsort(stable=True)
    index_N = torch.arange(len(order_N)) * bins // max(1, len(order_N))
    return binned(confidence_N[order_N], correct_N[order_N], index_N, bins)


def auroc(value_N: Tensor, correct_N: Tensor) -> float:
    """Return the chance that a right prediction has a higher value than a wrong one, ties counted half.

    nan without both, and where a value is not finite.
    """
    from sklearn.metrics import roc_auc_score  # half a second that whoever scores no text need not wait

    right_N = correct_N > 0
    if right_N.all() or not right_N.any() or not value_N.isfinite().all():
        return float("nan")
    return float(roc_auc_score(right_N.numpy(), value_N.numpy()))


def fit_temperature(logits_NV: Tensor, targets_N: Tensor) -> float:
    """Return the T within TEMPERATURES for which softmax(logits / T) has the least loss (Guo et al. 2017, section 4.2).

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
