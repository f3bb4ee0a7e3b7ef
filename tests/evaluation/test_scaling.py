"""Fitted scaling laws: exact without noise, like scipy's with it, and intervals that hold as often as said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.stats import linregress, t

from nanogpt.evaluation.scaling import fit_scaling, frontier

WEIGHTS = np.geomspace(1e5, 3e7, 7)


def noisy(exponent: float, floor: float, deviation: float, draw: int) -> np.ndarray:
    """A loss of 2 above the floor at the smallest size, with relative errors."""
    curve = floor + 2 * (WEIGHTS / WEIGHTS[0]) ** -exponent
    return curve * np.exp(np.random.default_rng(draw).normal(0, deviation, len(WEIGHTS)))


@pytest.mark.parametrize(("exponent", "floor"), [(0.1, 0.0), (0.05, 0.0), (0.3, 1.0), (0.5, 1.8), (0.8, 0.5)])
def test_a_curve_without_noise_is_found_as_it_is(exponent: float, floor: float) -> None:
    fit = fit_scaling(WEIGHTS, noisy(exponent, floor, 0, 0))
    assert fit is not None and fit.has_floor == (floor > 0)
    assert (fit.exponent, fit.floor) == pytest.approx((exponent, floor), rel=1e-4, abs=1e-9)
    assert fit.at(WEIGHTS) == pytest.approx(noisy(exponent, floor, 0, 0), rel=1e-6)
    assert (fit.least, fit.most, fit.points) == (WEIGHTS[0], WEIGHTS[-1], 7)


def test_a_power_law_is_the_regression_of_logarithms() -> None:
    losses = noisy(0.08, 0, 0.01, 3)
    fit, known = fit_scaling(WEIGHTS, losses, floor=False), linregress(np.log(WEIGHTS), np.log(losses))
    assert fit is not None and fit.exponent == pytest.approx(-known.slope)
    half = t.ppf(0.975, 5) * known.stderr
    assert (fit.low, fit.high) == pytest.approx((-known.slope - half, -known.slope + half))


def test_a_fit_with_a_floor_is_that_of_least_squares_on_log_residuals() -> None:
    losses = noisy(0.4, 1.2, 0.004, 5)
    fit = fit_scaling(WEIGHTS, losses)
    scaled = WEIGHTS / 1e6
    known = least_squares(lambda p: np.log(p[0] + np.exp(p[1]) * scaled ** -p[2]) - np.log(losses), (1, 0, 0.3),
                          xtol=1e-14, ftol=1e-14).x
    assert fit is not None and fit.has_floor
    assert (fit.floor, fit.coefficient, fit.exponent) == pytest.approx(
        (known[0], np.exp(known[1]) * 1e6 ** known[2], known[2]), rel=0.02)     # relative, not log, residuals


@pytest.mark.parametrize(("exponent", "floor", "deviation"), [(0.1, 0.0, 0.004), (0.3, 1.0, 0.002), (0.5, 1.3, 0.002)])
def test_the_interval_holds_the_exponent_in_about_95_of_100_draws(exponent: float, floor: float,
                                                                   deviation: float) -> None:
    fits = [fit_scaling(WEIGHTS, noisy(exponent, floor, deviation, draw)) for draw in range(150)]
    held = np.mean([fit is not None and fit.low <= exponent <= fit.high for fit in fits])
    assert 0.89 <= held <= 0.99


def test_the_band_holds_the_curve_and_is_narrowest_inside() -> None:
    fit = fit_scaling(WEIGHTS, noisy(0.1, 0, 0.01, 1))
    assert fit is not None
    low, high = fit.band(WEIGHTS)
    assert (low < fit.at(WEIGHTS)).all() and (fit.at(WEIGHTS) < high).all()
    assert (np.log(high / low)[3] < np.log(high / low)[[0, -1]]).all()


def test_no_fit_without_two_points_more_than_parameters() -> None:
    losses = noisy(0.3, 1.0, 0, 0)
    assert fit_scaling(WEIGHTS[:3], losses[:3]) is None
    four, five = fit_scaling(WEIGHTS[:4], losses[:4]), fit_scaling(WEIGHTS[:5], losses[:5])
    assert four is not None and not four.has_floor
    assert five is not None and five.has_floor
    assert fit_scaling(WEIGHTS, losses, units=3) is None
    vary_together = fit_scaling(WEIGHTS, losses, units=4)
    assert vary_together is not None and vary_together.freedom == 2


def test_equal_sizes_count_once_whatever_their_seeds() -> None:
    losses = noisy(0.1, 0, 0.01, 2)
    once = fit_scaling(WEIGHTS, losses)
    thrice = fit_scaling(np.repeat(WEIGHTS, 3), np.repeat(losses, 3) + np.tile([-0.01, 0, 0.01], 7))
    assert once is not None and thrice is not None
    assert (thrice.exponent, thrice.low, thrice.high) == pytest.approx((once.exponent, once.low, once.high))


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1]), ([0, 1, 2, 3], [1, 1, 1, 1]), ([1, 2, 3, 4], [1, 1, 1, np.nan])])
def test_what_is_no_loss_or_no_size_is_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="points must be positive, finite and of equal number"):
        fit_scaling(x, y)


def test_the_frontier_falls_and_no_other_point_is_below_it() -> None:
    generator = np.random.default_rng(0)
    costs, losses = generator.uniform(1, 10, 60), generator.uniform(1, 2, 60)
    places = frontier(costs, losses)
    assert (np.diff(costs[places]) > 0).all() and (np.diff(losses[places]) < 0).all()
    for cost, loss in zip(costs, losses, strict=True):
        assert losses[places][costs[places] <= cost].min() <= loss
