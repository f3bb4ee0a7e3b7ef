"""How much of a study is done and how long the rest takes, learnt from what it took so far."""

from __future__ import annotations

LEAST_SHARE = 0.02
"""Of the work, before anything is said of the rest."""


def part(done: int, total: int) -> dict[str, float]:
    """Make the `extra` of a log record that says how much of its phase is done; a progress bar reads it."""
    return {"share_of_phase": done / total}


def time_left(done: float, seconds: float) -> str:
    """Say how long the rest takes, "about 2 min left", when a share `done` took `seconds`; "" where it is too early."""
    if not LEAST_SHARE <= done < 1:
        return ""
    left = seconds * (1 - done) / done
    return f"about {left:.0f} s left" if left < 100 else f"about {left / 60:.0f} min left"
