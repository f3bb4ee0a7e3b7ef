"""How well and how fast a model adapted: measures of learning curves, with intervals over seeds.

Losses are bits per byte, so lower is better; a curve is `steps` (ascending) with the loss at each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def loss_after(steps: Sequence[int], losses: Sequence[float], step: float) -> float:
    """Give the loss at `step`, interpolated linearly between the curve's points. ValueError outside the curve."""
    if not steps[0] <= step <= steps[-1]:
        raise ValueError(f"step must be in [{steps[0]}, {steps[-1]}], got {step}")
    return float(np.interp(step, steps, losses))


def area_under_curve(steps: Sequence[int], losses: Sequence[float]) -> float:
    """Average the loss over the adaptation, bits per byte: the trapezoids' area over the number of steps.

    "Total reward" of Taylor & Stone 2009 (JMLR 10:1633), per step and for a loss. A curve of one point is its loss.
    """
    return float(np.trapezoid(losses, steps) / (steps[-1] - steps[0])) if len(steps) > 1 else float(losses[0])


class Steps(NamedTuple):
    """Steps to a threshold; where it was not reached, the last step that was tried: a right-censored time."""

    steps: float
    reached: bool

    def __str__(self) -> str:
        return f"{self.steps:.1f} steps" if self.reached else f"> {self.steps:g} steps"


def steps_to(steps: Sequence[int], losses: Sequence[float], threshold: float) -> Steps:
    """Say when the loss first is at most `threshold`, interpolated ("time to threshold", Taylor & Stone 2009)."""
    below = np.flatnonzero(np.asarray(losses) <= threshold)
    if not len(below):
        return Steps(float(steps[-1]), False)
    at = int(below[0])
    if at == 0:
        return Steps(float(steps[0]), True)
    share = (losses[at - 1] - threshold) / (losses[at - 1] - losses[at])
    return Steps(float(steps[at - 1] + share * (steps[at] - steps[at - 1])), True)


def mean_steps(times_to: Sequence[Steps]) -> Steps:
    """Take the restricted mean of possibly censored times: the area under the Kaplan–Meier curve up to its last time.

    Kaplan & Meier 1958 (JASA 53:457). Where the curve does not come down to 0 the mean is a lower bound, and said to
    be not reached. Without censoring it is the mean. ValueError where there is none.
    """
    from scipy import stats  # half a second that whoever compares no times need not wait

    if not times_to:
        raise ValueError("times must be at least one, got 0")
    times = np.array([item.steps for item in times_to])
    reached = np.array([item.reached for item in times_to])
    survival = stats.ecdf(stats.CensoredData(uncensored=times[reached], right=times[~reached])).sf
    edges = np.unique(np.concatenate(([0.0], survival.quantiles, [times.max()])))
    left = survival.evaluate(edges[:-1])
    return Steps(float(np.sum(left * np.diff(edges))), bool(survival.evaluate(times.max()) == 0))


def transfer_ratio(area: float, scratch_area: float) -> float:
    """Compute the share of the scratch model's area under the curve that the source saves; negative where it does harm.

    Taylor & Stone 2009's transfer ratio, for a loss.
    """
    return (scratch_area - area) / scratch_area


class Amount(NamedTuple):
    """An amount of data; where `bounded` is False it is a lower bound, since no scratch model came that far."""

    windows: float
    bounded: bool

    def __str__(self) -> str:
        return f"{self.windows:.1f} windows" if self.bounded else f"> {self.windows:.1f} windows"


def effective_data_transferred(loss: float, shots: int, scratch_shots: Sequence[int],
                               scratch_losses: Sequence[float]) -> Amount:
    """Say how many more windows of the target a model from scratch needs for the same loss: D_T = D_E - D_F.

    Hernandez et al. 2021 (arXiv:2102.01293), eq. 1. D_E is read off the scratch losses over shots (ascending), made
    monotone, linearly in log shots. A loss above that of the fewest shots counts as those. ValueError where there is
    no scratch loss.
    """
    if not scratch_shots:
        raise ValueError("scratch shots must be at least one, got 0")
    falling = np.minimum.accumulate(scratch_losses)
    if loss < falling[-1]:
        return Amount(float(scratch_shots[-1] - shots), False)
    rising, first = np.unique(-falling, return_index=True)
    needed = np.exp(np.interp(-loss, rising, np.log(np.asarray(scratch_shots)[first])))
    return Amount(float(needed - shots), True)


def rate_sensitivity(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Say what a rate drawn log-uniformly from the range that was tried costs over the best one, bits per byte.

    `losses` are the last ones of all trials, of the pruned ones too: without them the worst rates would not count.
    The mean over log(rate) of the losses, joined linearly, minus the lowest: how densely a search sampled each part
    of the range does not matter. nan with fewer than two different rates.
    """
    if len(set(rates)) < 2:
        return float("nan")
    order = np.argsort(rates)
    places, ordered = np.log(rates)[order], np.asarray(losses)[order]
    return float(np.trapezoid(ordered, places) / (places[-1] - places[0]) - ordered.min())
