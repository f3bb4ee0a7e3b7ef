"""Functions of the step alone: learning rate, checkpoint steps."""

from __future__ import annotations


def rate_factor(step: int, max_steps: int, warmup_steps: int, decay_share: float) -> float:
    """Compute the factor in (0, 1] on the learning rate of update `step` (0-based).

    Linear warm-up, a plateau, and a linear fall over the last `decay_share` of the steps that would reach 0
    one step after the end ("trapezoidal", Hägele et al. 2024, arXiv:2405.18392).
    """
    up = (step + 1) / (warmup_steps + 1)
    down = (max_steps - step) / max(1.0, decay_share * max_steps)
    return min(1.0, up, down)


def checkpoint_steps(max_steps: int, count: int) -> tuple[int, ...]:
    """List step 0, then at most `count` steps up to `max_steps`: log-spaced while dense, then even (as Pythia).

    >>> checkpoint_steps(1000, 8)
    (0, 16, 31, 62, 125, 250, 500, 750, 1000)
    """
    even = max(1, count // 2)
    first_even = max_steps / even
    later = {round(first_even * k) for k in range(1, even + 1)}
    early = {round(first_even / 2**k) for k in range(1, count - even + 1)}
    return (0, *sorted(step for step in later | early if step > 0))


def evenly_spaced_steps(max_steps: int, count: int) -> tuple[int, ...]:
    """List step 0 and `count` even steps up to `max_steps` (fewer where they coincide)."""
    return tuple(sorted({round(max_steps * k / count) for k in range(count + 1)}))
