"""Which checkpoints of a training stand for early, mid, late and final."""

from __future__ import annotations

from collections.abc import Iterable

from nanogpt.config import STAGE_SHARES


def stage_steps(steps: Iterable[int]) -> dict[str, int]:
    """Give the step of each stage, among the checkpoint steps of one training.

    Step 0 stands for no stage unless it is alone.
    """
    known = sorted(steps)
    trained = [step for step in known if step > 0] or known
    return {stage: min(trained, key=lambda step: abs(step - share * known[-1]))
            for stage, share in STAGE_SHARES.items()}


def stage_of(step: int, steps: Iterable[int]) -> str:
    """Give the latest stage that `step` stands for, or ''."""
    return next((stage for stage, at in reversed(stage_steps(steps).items()) if at == step), "")
