"""How sure a mean over a text is: block bootstrap, paired comparisons, and Holm's correction for many of them.

Shape suffixes: N positions of a text.

Losses of neighbouring characters go together, within words and within passages: the blocks must be longer than that.
On the test texts of a quick study (51 000 characters, nine pairs of model and text) the standard error from means of
blocks was 1.5 to 2.6 times that of single characters at 128 characters, 1.7 to 3.4 times at 512 and 1.9 to 4.0 at 1024.
So a block is 512 characters, and shorter where the text has not 40 such: fewer blocks would say too little of their
own spread. For text whose topic drifts over thousands of characters an interval stays somewhat too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK, LEAST_BLOCKS = 512, 40
RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, and how surprising it would be if the true value were 0 (two-sided)."""

    value: float
    low: float
    high: float
    p_value: float


def block_length(positions: int) -> int:
    """Return how many neighbouring positions are drawn together."""
    return max(1, min(BLOCK, positions // LEAST_BLOCKS))


def block_bootstrap(values_N: ArrayLike, weights_N: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES,
                    seed: int = 0) -> Interval:
    """Return the interval of sum(values) / sum(weights), as bits per byte; paired, where the values are differences.

    Moving blocks (Künsch 1989) over the text closed to a circle, so that each position is drawn equally often
    (Politis & Romano 1992); percentile interval. The p value compares with resamples centred at 0. ValueError where
    the two differ in length or are empty.
    """
    values, weights = np.asarray(values_N, float), np.asarray(weights_N, float)
    if values.shape != weights.shape or not values.size:
        raise ValueError(f"values and weights must be equally many and at least one, got {values.size}, {weights.size}")
    size, length = len(values), block_length(len(values))
    starts = np.random.default_rng(seed).integers(size, size=(resamples, -(-size // length)))   # of each block
    sums, totals = (block_sums(column, length)[starts].sum(1) for column in (values, weights))
    ratios, value = sums / totals, values.sum() / weights.sum()
    low, high = np.quantile(ratios, ((1 - level) / 2, (1 + level) / 2))
    extreme = np.count_nonzero(np.abs(ratios - value) >= abs(value))
    return Interval(float(value), float(low), float(high), (1 + extreme) / (1 + resamples))


def block_sums(values_N: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Return the sum of the `length` values from each position on, around the circle."""
    around = np.concatenate((values_N, values_N[:length - 1]))
    cumulative = np.concatenate(([0.0], np.cumsum(around)))
    return cumulative[length:] - cumulative[:-length]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's (1979) adjusted p values, in the order given: below 0.05 are those that hold together at 5 %."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted.tolist()
