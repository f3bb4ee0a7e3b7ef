"""Functions of the step alone: what holds for every length, warm-up and count."""

from __future__ import annotations

import pytest

from nanogpt.training.schedule import checkpoint_steps, evenly_spaced_steps, rate_factor

CASES = [(1, 0, 0.0), (1, 5, 1.0), (10, 0, 0.7), (100, 20, 0.7), (100, 20, 0.0), (57, 3, 1.0), (30, 60, 0.5)]


@pytest.mark.parametrize(("max_steps", "warmup_steps", "decay_share"), CASES)
def test_the_rate_rises_then_stays_then_falls_and_is_never_0(max_steps: int, warmup_steps: int,
                                                             decay_share: float) -> None:
    factors = [rate_factor(step, max_steps, warmup_steps, decay_share) for step in range(max_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    top = factors.index(max(factors))
    assert factors[:top + 1] == sorted(factors[:top + 1]) and factors[top:] == sorted(factors[top:], reverse=True)


def test_the_rate_by_hand() -> None:
    """Warm-up over 3 steps: 1/4, 2/4, 3/4, then 1; a fall over the last 5 of 10: 5/5, 4/5, … 1/5."""
    factors = [rate_factor(step, 10, 3, 0.5) for step in range(10)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("max_steps", [1, 2, 7, 60, 800, 5000])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 16])
def test_checkpoints_begin_at_0_end_at_the_end_and_are_at_most_so_many(max_steps: int, count: int) -> None:
    for steps in (checkpoint_steps(max_steps, count), evenly_spaced_steps(max_steps, count)):
        assert steps[0] == 0 and steps[-1] == max_steps
        assert list(steps) == sorted(set(steps)) and len(steps) <= count + 1


def test_early_checkpoints_double_and_later_ones_are_even() -> None:
    assert checkpoint_steps(1600, 8) == (0, 25, 50, 100, 200, 400, 800, 1200, 1600)
