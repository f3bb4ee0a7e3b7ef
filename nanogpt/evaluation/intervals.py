"""Confidence intervals by what varies: units of text, seeds of training, source and target domains.

A loss on a text says something of its domain only as far as the text stands for it. Neighbouring characters vary
together, and so do the losses of one seed, or of all transfers to one domain: such values form a cluster, and the
interval counts clusters, not characters. Splits are made so that their units are drawn from everywhere in a domain
(text/splits.py); benchmarks/coverage.py shows how often the intervals contain the mean of text that was never used.

Shape suffixes: N values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, and how surprising it would be if the true value were 0 (two-sided).

    The bounds and the p value are nan where something that varies was seen once.
    """

    value: float
    low: float
    high: float
    p_value: float
    units: int          # clusters of the kind of which there are fewest

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def clustered_interval(values_N: ArrayLike, weights_N: ArrayLike, *clusters_N: ArrayLike) -> Interval:
    """Return the interval of sum(values) / sum(weights), as bits per byte, where values of a cluster vary together.

    Student's interval with the linearised variance of a ratio of cluster sums; degrees of freedom: clusters less one.
    With clusters of two kinds, as units of text and seeds, or sources and targets, the variances of both are added and
    that of their crossing, which is in both, is taken off (Cameron, Gelbach & Miller 2011, J. Bus. Econ. Stat.
    29:238); degrees of freedom by Satterthwaite (1946), so that a kind of few clusters costs as much as it varies.
    Without clusters each value is one. ValueError where lengths differ or nothing is given.
    """
    values, weights = np.asarray(values_N, float), np.asarray(weights_N, float)
    kinds = [np.unique(np.asarray(ids), return_inverse=True)[1] for ids in clusters_N] or [np.arange(len(values))]
    if not values.size or {len(values)} != {len(weights), *map(len, kinds)}:
        raise ValueError(f"values, weights and clusters must be equally many and at least one, got {len(values)}, "
                         f"{', '.join(str(len(column)) for column in (weights, *kinds))}")
    if len(kinds) > 2:
        raise ValueError(f"clusters must be of at most two kinds, got {len(kinds)}")
    total, value = weights.sum(), values.sum() / weights.sum()
    errors = (values - value * weights) / total
    units = min(int(ids.max()) + 1 for ids in kinds)
    if units == 1:
        return Interval(float(value), float("nan"), float("nan"), float("nan"), units)
    variances = [cluster_variance(errors, ids) for ids in kinds]
    variance, freedom = variances[0], units - 1.0
    if len(kinds) == 2:
        freedom = satterthwaite(variances, [int(ids.max()) for ids in kinds])
        crossed = kinds[0] * (int(kinds[1].max()) + 1) + kinds[1]
        variance = max(sum(variances) - cluster_variance(errors, np.unique(crossed, return_inverse=True)[1]),
                       *variances)
    error = float(np.sqrt(variance))
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    p_value = 2 * float(stdtr(freedom, -abs(value) / error)) if error else float(value == 0)
    return Interval(float(value), float(value) - half, float(value) + half, p_value, units)


def cluster_variance(errors_N: NDArray[np.float64], ids_N: NDArray[np.int64]) -> float:
    """Return the variance of a sum whose errors vary together inside a cluster."""
    sums = np.bincount(ids_N, errors_N)
    return float((sums**2).sum() * len(sums) / (len(sums) - 1)) if len(sums) > 1 else 0.0


def satterthwaite(variances: Sequence[float], freedoms: Sequence[float]) -> float:
    """Return the degrees of freedom of a sum of variances that were estimated with so many each."""
    parts = sum(variance**2 / freedom for variance, freedom in zip(variances, freedoms, strict=True))
    return sum(variances) ** 2 / parts if parts else float(min(freedoms))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's (1979) adjusted p values, in the order given: below 0.05 are those that hold together at 5 %.

    One that is not known (nan) counts as 1.
    """
    p = np.nan_to_num(np.asarray(p_values, float), nan=1.0)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted.tolist()
