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


def stages_of(step: int, steps: Iterable[int]) -> tuple[str, ...]:
    """Give every stage that `step` stands for, the latest last: with few checkpoints one stands for several."""
    return tuple(stage for stage, at in stage_steps(steps).items() if at == step)
