"""Intervals cover what they promise on autocorrelated losses; arch and statsmodels agree."""

from __future__ import annotations

import numpy as np
import pytest
from arch.bootstrap import CircularBlockBootstrap
from numpy.typing import NDArray
from scipy.signal import lfilter
from statsmodels.stats.multitest import multipletests

from nanogpt.evaluation.intervals import block_bootstrap, block_length, block_sums, holm


def losses(rng: np.random.Generator, size: int, mean: float = 2.0) -> NDArray[np.float64]:
    """Like those of a text: much noise of single characters on a level that drifts over dozens of them."""
    drift = lfilter([1], [1, -0.95], rng.normal(size=size + 500))[500:] * (1 - 0.95**2) ** 0.5
    return mean + rng.normal(size=size) + 0.5 * drift


def test_a_95_percent_interval_covers_the_truth_in_92_to_97_percent_of_texts() -> None:
    rng, trials = np.random.default_rng(1), 1000
    covered = naive = 0
    for seed in range(trials):
        values = losses(rng, 12_000)
        interval = block_bootstrap(values, np.ones(12_000), resamples=300, seed=seed)
        covered += interval.low <= 2.0 <= interval.high
        naive += abs(values.mean() - 2.0) <= 1.96 * values.std() / len(values) ** 0.5
    assert 0.92 <= covered / trials <= 0.97
    assert naive / trials < 0.6, "without blocks it would not"


def test_p_values_are_small_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    p_values = [block_bootstrap(losses(rng, 6000, mean=0.0), np.ones(6000), resamples=300, seed=seed).p_value
                for seed in range(400)]
    assert 0.03 <= np.mean(np.asarray(p_values) < 0.05) <= 0.1
    assert block_bootstrap(losses(rng, 6000, mean=1.0), np.ones(6000)).p_value == pytest.approx(1 / 1001)


def test_the_spread_of_resamples_is_archs() -> None:
    values = losses(np.random.default_rng(3), 4000)
    interval = block_bootstrap(values, np.ones(4000), resamples=4000)
    bootstrap = CircularBlockBootstrap(block_length(4000), values, seed=5)
    low, high = bootstrap.conf_int(np.mean, 4000, method="percentile").ravel()
    assert interval.high - interval.low == pytest.approx(high - low, rel=0.08)
    assert interval.value == pytest.approx(values.mean())


def test_a_paired_difference_is_surer_than_the_losses_themselves() -> None:
    rng = np.random.default_rng(4)
    first = losses(rng, 8000)
    second = first + 0.05 + 0.1 * rng.normal(size=8000)
    alone = block_bootstrap(first, np.ones(8000))
    paired = block_bootstrap(second - first, np.ones(8000))
    assert paired.high - paired.low < 0.3 * (alone.high - alone.low)
    assert paired.low > 0 and paired.p_value < 0.01


def test_a_ratio_is_that_of_the_sums_and_bytes_of_a_text_may_differ() -> None:
    ratio = block_bootstrap([2.0, 4.0, 9.0], [1, 1, 3])
    assert ratio.value == 3.0 and ratio.low <= 3.0 <= ratio.high
    same = block_bootstrap(np.full(500, 6.0), np.full(500, 2.0))
    assert (same.value, same.low, same.high) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize("length", [1, 3, 7])
def test_block_sums_go_around_the_circle(length: int) -> None:
    values = np.arange(7.0) ** 2
    expected = [sum(values[(i + k) % 7] for k in range(length)) for i in range(7)]
    assert block_sums(values, length).tolist() == expected


def test_blocks_are_long_and_many_where_the_text_allows() -> None:
    assert [block_length(n) for n in (1, 39, 400, 12_000, 20_480, 10**6)] == [1, 1, 10, 300, 512, 512]


def test_holm_is_statsmodels() -> None:
    p = np.random.default_rng(6).uniform(size=9) ** 3
    assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert holm([]) == [] and holm([0.8, 0.9]) == [1.0, 1.0]


def test_lengths_must_agree() -> None:
    for values, weights in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="equally many and at least one"):
            block_bootstrap(values, weights)
