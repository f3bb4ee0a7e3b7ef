"""Intervals cover what they promise where values of a cluster vary together; statsmodels and scipy agree."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.sandwich_covariance import cov_cluster_2groups

from nanogpt.evaluation.intervals import clustered_interval, holm


def clustered(rng: np.random.Generator, units: int, size: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits and bytes of `units` pieces of about `size` characters; 3 bits per byte on average, each piece its own."""
    lengths = rng.integers(size // 2, 2 * size, units)
    ids = np.repeat(np.arange(units), lengths)
    weights = rng.integers(1, 4, len(ids)).astype(float)
    return (3 + rng.normal(size=units)[ids] + rng.normal(size=len(ids))) * weights, weights, ids


def test_a_95_percent_interval_covers_the_truth_in_93_to_97_percent() -> None:
    rng, trials = np.random.default_rng(1), 1000
    covered = naive = 0
    for _ in range(trials):
        values, weights, ids = clustered(rng, 30)
        interval = clustered_interval(values, weights, ids)
        covered += interval.low <= 3 <= interval.high
        alone = clustered_interval(values, weights)
        naive += alone.low <= 3 <= alone.high
    assert 0.93 <= covered / trials <= 0.97
    assert naive / trials < 0.6, "as if each character varied by itself it would not"


def test_p_values_are_small_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(600):
        values, weights, ids = clustered(rng, 20)
        p_values.append(clustered_interval(values - 3 * weights, weights, ids).p_value)
    assert 0.03 <= np.mean(np.asarray(p_values) < 0.05) <= 0.075


def test_crossed_clusters_cover_where_neither_kind_alone_does() -> None:
    """As transfers: each source and each target has its own effect, and the mean is over all pairs."""
    rng, trials, n = np.random.default_rng(3), 600, 7
    sources, targets = (ids.ravel() for ids in np.meshgrid(np.arange(n), np.arange(n)))
    covered = {"both": 0, "source": 0, "pairs": 0}
    for _ in range(trials):
        values = 1 + rng.normal(size=n)[sources] + rng.normal(size=n)[targets] + 0.5 * rng.normal(size=n * n)
        for name, clusters in (("both", (sources, targets)), ("source", (sources,)), ("pairs", ())):
            interval = clustered_interval(values, np.ones(n * n), *clusters)
            covered[name] += interval.low <= 1 <= interval.high
    assert 0.9 <= covered["both"] / trials <= 0.98
    assert covered["source"] / trials < 0.87 and covered["pairs"] / trials < 0.7


def test_one_kind_of_cluster_is_statsmodels() -> None:
    values, weights, ids = clustered(np.random.default_rng(4), 12)
    interval = clustered_interval(values, weights, ids)
    fit = sm.WLS(values / weights, np.ones(len(values)), weights=weights).fit(
        cov_type="cluster", cov_kwds={"groups": ids, "use_correction": False, "df_correction": True}, use_t=True)
    error = float(fit.bse[0]) * (12 / 11) ** 0.5
    half = float(stats.t.ppf(0.975, 11)) * error
    assert interval.value == pytest.approx(float(fit.params[0])) and interval.units == 12
    assert (interval.low, interval.high) == pytest.approx((interval.value - half, interval.value + half))
    assert interval.p_value == pytest.approx(2 * float(stats.t.sf(abs(interval.value) / error, 11)))


def test_two_kinds_are_statsmodels_two_way_variance() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.integers(0, 9, 200), rng.integers(0, 6, 200)
    values = rng.normal(size=9)[first] + rng.normal(size=6)[second] + rng.normal(size=200)
    interval = clustered_interval(values, np.ones(200), first, second)
    fit = sm.OLS(values, np.ones(200)).fit()
    both, one, two = (float(part[0, 0]) for part in cov_cluster_2groups(fit, first, second, use_correction=False))
    crossed = one + two - both
    crossings = len({*zip(first, second, strict=True)})
    variance = 9 / 8 * one + 6 / 5 * two - crossings / (crossings - 1) * crossed
    parts = (9 / 8 * one, 8), (6 / 5 * two, 5)
    freedom = sum(part for part, _ in parts) ** 2 / sum(part**2 / degrees for part, degrees in parts)
    half = float(stats.t.ppf(0.975, freedom)) * variance**0.5
    assert interval.units == 6 and interval.high - interval.value == pytest.approx(half)


def test_without_clusters_it_is_students_interval_of_a_mean() -> None:
    values = np.random.default_rng(6).normal(size=9)
    interval = clustered_interval(values, np.ones(9))
    expected = stats.ttest_1samp(values, 0)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert interval.p_value == pytest.approx(float(expected.pvalue))


def test_what_was_seen_once_has_no_interval() -> None:
    for clusters in (([0, 0, 0],), ([0, 1, 2], [5, 5, 5])):
        interval = clustered_interval([2.0, 4.0, 9.0], [1, 1, 3], *clusters)
        assert interval.value == 3.0 and np.isnan([interval.low, interval.high, interval.p_value]).all()
        assert interval.units == 1 and not interval.excludes_zero
    same = clustered_interval(np.full(50, 6.0), np.full(50, 2.0))
    assert (same.value, same.low, same.high, same.p_value) == (3.0, 3.0, 3.0, 0.0)


def test_holm_is_statsmodels() -> None:
    p = np.random.default_rng(6).uniform(size=9) ** 3
    assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert holm([]) == [] and holm([0.8, 0.9]) == [1.0, 1.0]
    assert holm([0.01, float("nan")]) == [0.02, 1.0]


def test_lengths_must_agree() -> None:
    for values, weights, clusters in (([], [], ()), ([1.0], [1.0, 2.0], ()), ([1.0, 2.0], [1, 1], ([0],))):
        with pytest.raises(ValueError, match="equally many and at least one"):
            clustered_interval(values, weights, *clusters)
