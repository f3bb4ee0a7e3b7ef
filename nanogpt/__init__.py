"""Character-level GPTs on several domains, and what each domain does to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanogpt.model.checkpoint import Checkpoint

__version__ = "0.2.0"


def load(uri: str) -> Checkpoint:
    """Load the checkpoint behind `models:/nanogpt-math@late`, `runs:/<id>/checkpoints/final.pt` or a path.

    It has `vocabulary`, `step`, `weights` and `notes`; `build()` makes the model. UserError where there is none.
    """
    from nanogpt.tracking import registry  # here, so that importing the package costs nothing

    return registry.load(uri)
