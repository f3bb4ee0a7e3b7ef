"""Character-level GPTs on several domains, and what each domain does to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanogpt.checkpoint import Checkpoint


def load(uri: str) -> Checkpoint:
    """The checkpoint behind `models:/nanogpt-shakespeare@late`, `runs:/<id>/checkpoints/final.pt` or a path.

    It has `vocabulary`, `step`, `weights` and `notes`; `build()` makes the model. ValueError where there is none.
    """
    from nanogpt import registry  # here, so that importing the package costs nothing

    return registry.load(uri)
