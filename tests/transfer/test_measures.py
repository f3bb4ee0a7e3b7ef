"""Measures against scipy, against their textbook definitions, and on curves whose answer is known."""

from __future__ import annotations

import math

import pytest

from nanogpt.transfer.measures import (
    Steps,
    area_under_curve,
    effective_data_transferred,
    loss_after,
    mean_steps,
    rate_sensitivity,
    steps_to,
    transfer_ratio,
)

STEPS, LOSSES = (0, 4, 8, 12), (4.0, 3.0, 2.6, 2.4)


def test_what_a_curve_says() -> None:
    assert area_under_curve((0, 10), (4.0, 2.0)) == 3.0 and area_under_curve((0,), (4.0,)) == 4.0
    assert area_under_curve(STEPS, LOSSES) == pytest.approx((3.5 + 2.8 + 2.5) / 3)
    assert loss_after(STEPS, LOSSES, 6) == pytest.approx(2.8)
    with pytest.raises(ValueError, match=r"step must be in \[0, 12\], got 13"):
        loss_after(STEPS, LOSSES, 13)
    assert transfer_ratio(3.0, 4.0) == 0.25 and transfer_ratio(5.0, 4.0) == -0.25


def test_steps_to_a_threshold_are_censored_where_it_is_not_reached() -> None:
    assert steps_to(STEPS, LOSSES, 2.8) == Steps(pytest.approx(6.0), True)
    assert steps_to(STEPS, LOSSES, 4.5) == Steps(0.0, True)
    assert str(steps_to(STEPS, LOSSES, 2.0)) == "> 12 steps"
    assert steps_to((0, 1), (math.nan, math.nan), 2.0) == Steps(1.0, False)


def product_limit(found: list[Steps], horizon: float) -> float:
    """Area under the Kaplan–Meier curve, from its definition."""
    area, alive, before = 0.0, 1.0, 0.0
    for time in sorted({item.steps for item in found}):
        area += alive * (time - before)
        at_risk = sum(item.steps >= time for item in found)
        alive *= 1 - sum(item.steps == time and item.reached for item in found) / at_risk
        before = time
    assert before == horizon
    return area


def test_mean_steps_are_kaplan_and_meiers() -> None:
    whole = [Steps(3.0, True), Steps(5.0, True), Steps(10.0, True)]
    assert mean_steps(whole) == Steps(pytest.approx(6.0), True)
    for mixed in ([Steps(3.0, True), Steps(12.0, False), Steps(7.0, True)], [Steps(4.0, False), Steps(9.0, True)],
                  [Steps(12.0, False)] * 2, [Steps(0.0, True), Steps(12.0, False)],
                  [Steps(5.0, True), Steps(5.0, False), Steps(8.0, True), Steps(8.0, False)]):
        found = mean_steps(mixed)
        assert found.steps == pytest.approx(product_limit(mixed, max(item.steps for item in mixed)))
    assert str(mean_steps([Steps(12.0, False)] * 2)) == "> 12 steps"
    assert mean_steps([Steps(6.0, True), Steps(12.0, False)]).steps > 6.0, "what was not reached is never dropped"


def test_effective_data_is_read_off_the_scratch_losses() -> None:
    shots, scratch = (4, 16, 64), (5.0, 4.0, 3.0)
    assert effective_data_transferred(4.0, 4, shots, scratch).windows == pytest.approx(12)
    assert effective_data_transferred(3.5, 16, shots, scratch).windows == pytest.approx(32 - 16)
    assert effective_data_transferred(5.5, 4, shots, scratch).windows == pytest.approx(0)
    assert str(effective_data_transferred(2.0, 4, shots, scratch)) == "> 60.0 windows"
    assert effective_data_transferred(4.0, 4, shots, (5.0, 4.0, 4.5)).windows == pytest.approx(12)


def test_rate_sensitivity_is_the_mean_excess_over_the_range() -> None:
    assert rate_sensitivity([1e-2, 1e-4, 1e-3], [4.0, 3.0, 2.0]) == pytest.approx((2.5 + 3.0) / 2 - 2.0)
    dense = rate_sensitivity([1e-2, 1e-4, 1e-3, 10**-2.5], [4.0, 3.0, 2.0, 3.0])
    assert dense == pytest.approx(rate_sensitivity([1e-2, 1e-4, 1e-3], [4.0, 3.0, 2.0]))
    assert rate_sensitivity([1e-4, 1e-3], [2.0, 2.0]) == 0 and math.isnan(rate_sensitivity([1e-4], [1.0]))
