"""Scaling laws: how a loss falls with parameters, characters or compute, L(x) = floor + coefficient · x^-exponent.

Hoffmann et al. 2022 (arXiv:2203.15556, approach 3) with a floor, Kaplan et al. 2020 (arXiv:2001.08361) without one.
Residuals are relative, which are those of log L to first order. The points are few, and each is the mean of its seeds:
what one of them is off the curve is seed, recipe and lack of fit together, and with so few none can be told to be an
outlier, so these are least squares with Student's intervals and not Hoffmann's Huber loss.

Shape suffixes: N points, G exponents that are tried, K points of a drawn curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import stdtr, stdtrit

from nanogpt.evaluation.intervals import LEVEL

Floats = NDArray[np.float64]
SPARE_POINTS = 2
"""A curve is fitted to so many points more than it has parameters, at the least."""
EXPONENTS_G = np.geomspace(0.01, 3.0, 600)
"""A curve with a floor is looked for among these; one whose interval is not inside them is not identified."""
TINY = 1e-24


@dataclass(frozen=True)
class ScalingFit:
    """L(x) = floor + coefficient · x^-exponent for x in [`least`, `most`], with the 95 % interval of the exponent."""

    exponent: float
    low: float
    high: float
    coefficient: float
    floor: float                # 0 where the points do not tell it from 0: a power law
    deviation: float            # root mean square of the relative residuals, by degrees of freedom
    freedom: int
    points: int
    least: float
    most: float
    covariance: Floats          # of log(coefficient) in the middle of the range, exponent and, with a floor, that

    @property
    def has_floor(self) -> bool:
        return self.floor > 0

    def at(self, x_K: ArrayLike) -> Floats:
        return self.floor + self.coefficient * np.asarray(x_K, float) ** -self.exponent

    def band(self, x_K: ArrayLike) -> tuple[Floats, Floats]:
        """Return the 95 % interval of the curve itself at each x, by the linearised fit."""
        x, y = np.asarray(x_K, float), self.at(x_K)
        share = (y - self.floor) / y
        columns = [share, -np.log(x / centre([self.least, self.most])) * share, 1 / y][:len(self.covariance)]
        slopes = np.stack(columns, axis=1)
        half = student(self.freedom) * np.sqrt(np.einsum("ki,ij,kj->k", slopes, self.covariance, slopes).clip(min=0))
        return y * np.exp(-half), y * np.exp(half)


def centre(x_N: ArrayLike) -> float:
    """Return the middle of a range on a logarithmic scale."""
    return float(np.sqrt(np.min(x_N) * np.max(x_N)))


def student(freedom: int) -> float:
    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def fit_scaling(x_N: ArrayLike, y_N: ArrayLike, *, units: int | None = None,
                floor: bool = True) -> ScalingFit | None:
    """Fit a curve to points of positive x and y; equal x are averaged first, so that a size counts once.

    It has a floor where the points identify one: at least five of them, the fit with a floor better than the power law
    at 5 % (F test), and an exponent whose interval is inside EXPONENTS_G. Else, or without `floor`, a power law, from
    four points on; None with fewer. Where points vary together (checkpoints of one training), `units` says how many are
    independent.
    """
    x, y = averaged(np.asarray(x_N, float), np.asarray(y_N, float))
    independent = len(x) if units is None else min(units, len(x))
    if independent < 2 + SPARE_POINTS:
        return None
    power = power_law(x, y, independent - 2)
    floored = with_floor(x, y, independent - 3) if floor and independent >= 3 + SPARE_POINTS else None
    return floored if floored is not None and is_better(power, floored) else power


def averaged(x_N: Floats, y_N: Floats) -> tuple[Floats, Floats]:
    """Average y over equal x; ascending. ValueError where one is not positive and finite, or lengths differ."""
    if x_N.shape != y_N.shape or not (np.isfinite(x_N) & np.isfinite(y_N) & (x_N > 0) & (y_N > 0)).all():
        raise ValueError(f"points must be positive, finite and of equal number, got {x_N.shape} and {y_N.shape}")
    unique, places = np.unique(x_N, return_inverse=True)
    return unique, np.bincount(places, y_N) / np.bincount(places)


def power_law(x: Floats, y: Floats, freedom: int) -> ScalingFit:
    """Fit log y = log coefficient - exponent · log x."""
    middle = centre(x)
    slopes = np.stack([np.ones_like(x), -np.log(x / middle)], axis=1)
    (log_coefficient, exponent), *_ = np.linalg.lstsq(slopes, np.log(y), rcond=None)
    variance = float(((np.log(y) - slopes @ (log_coefficient, exponent)) ** 2).sum()) / freedom
    covariance = variance * np.linalg.inv(slopes.T @ slopes)
    half = student(freedom) * float(np.sqrt(covariance[1, 1]))
    coefficient = float(np.exp(log_coefficient)) * middle ** float(exponent)
    return ScalingFit(float(exponent), float(exponent) - half, float(exponent) + half, coefficient, 0.0,
                      variance**0.5, freedom, len(x), float(x[0]), float(x[-1]), covariance)


def with_floor(x: Floats, y: Floats, freedom: int) -> ScalingFit | None:
    """Fit a curve with a floor > 0; None where no exponent is identified.

    For a given exponent floor and coefficient are a linear fit, so the sum of squares is a function of the exponent
    alone. Its interval are the exponents at which that sum is not above the least one by more than Student's t² allows
    (profile likelihood; Bates & Watts 1988, Nonlinear Regression Analysis, chapter 6).
    """
    middle = centre(x)

    def squares(exponent: float) -> float:
        return float(profile(x / middle, y, np.array([exponent]))[2][0])

    squares_G = profile(x / middle, y, EXPONENTS_G)[2]
    place = int(squares_G.argmin())
    if not 0 < place < len(EXPONENTS_G) - 1:
        return None
    around = EXPONENTS_G[place - 1], EXPONENTS_G[place + 1]
    exponent = float(minimize_scalar(squares, bounds=around, method="bounded", options={"xatol": 1e-10}).x)
    floor, scaled, least = (float(values[0]) for values in profile(x / middle, y, np.array([exponent])))
    limit = least * (1 + student(freedom) ** 2 / freedom) + TINY
    above_G = squares_G > limit
    if floor <= 0 or not above_G[:place].any() or not above_G[place + 1:].any():
        return None
    outside = EXPONENTS_G[:place][above_G[:place]][-1], EXPONENTS_G[place + 1:][above_G[place + 1:]][0]
    low, high = (float(brentq(lambda tried: squares(tried) - limit, *sorted((exponent, end)))) for end in outside)
    return ScalingFit(exponent, low, high, scaled * middle**exponent, floor, (least / freedom) ** 0.5, freedom, len(x),
                      float(x[0]), float(x[-1]), floor_covariance(x, y, exponent, floor, least / freedom))


def profile(x: Floats, y: Floats, exponents_G: Floats) -> tuple[Floats, Floats, Floats]:
    """Return floor >= 0, coefficient and the sum of squared relative residuals of the best fit with each exponent."""
    one_N, power_GN = 1 / y, x ** -exponents_G[:, None] / y
    both_G, squared_G, sum_G = power_GN @ one_N, (power_GN**2).sum(1), power_GN.sum(1)
    ones, total = (one_N**2).sum(), one_N.sum()
    floor_G = (total * squared_G - sum_G * both_G) / (ones * squared_G - both_G**2)
    floor_G = floor_G.clip(min=0)
    coefficient_G = (sum_G - floor_G * both_G) / squared_G
    residual_GN = floor_G[:, None] * one_N + coefficient_G[:, None] * power_GN - 1
    return floor_G, coefficient_G, (residual_GN**2).sum(1)


def floor_covariance(x: Floats, y: Floats, exponent: float, floor: float, variance: float) -> Floats:
    """Return the covariance of log(coefficient) in the middle, exponent and floor by the linearised fit."""
    share = 1 - floor / y
    slopes = np.stack([share, -np.log(x / centre(x)) * share, 1 / y], axis=1)
    return np.asarray(variance * np.linalg.pinv(slopes.T @ slopes), float)


def is_better(power: ScalingFit, floored: ScalingFit) -> bool:
    """Say whether a floor takes off more of the squares than chance does once in twenty (F test, Student's t²)."""
    before, after = (fit.deviation**2 * fit.freedom for fit in (power, floored))
    gained = max(0.0, before - after) / max(after / floored.freedom, TINY)
    return bool(2 * float(stdtr(floored.freedom, -gained**0.5)) < 1 - LEVEL)


def frontier(costs_N: ArrayLike, losses_N: ArrayLike) -> list[int]:
    """Return the places of the points that no cheaper one equals or beats, by ascending cost: the lower envelope."""
    costs, losses = np.asarray(costs_N, float), np.asarray(losses_N, float)
    kept: list[int] = []
    for place in np.lexsort((losses, costs)):
        if not kept or losses[place] < losses[kept[-1]]:
            kept.append(int(place))
    return kept


def drawn_at(least: float, most: float, points: int = 41) -> Sequence[float]:
    """Return where a curve is drawn: inside what was measured alone, evenly in the logarithm."""
    return [float(x) for x in np.geomspace(least, most, points)]
