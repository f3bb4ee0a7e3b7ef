"""Make attribution queries up."""

from __future__ import annotations

from dataclasses import replace

import torch

from nanogpt.attribution.gradients import Query
from nanogpt.model.gpt import GPT

LENGTH = 12


def make_query(model: GPT, **changes) -> Query:
    """Ask for random targets of three random texts; with foils where `attribute_of` is given."""
    generator = torch.Generator().manual_seed(1)
    ids_PT, targets_PT, foils_PT = torch.randint(model.vocab_size, (3, 3, LENGTH), generator=generator)
    neutral_C = model.embed(torch.arange(model.vocab_size)[None]).detach().mean((0, 1))
    foils = {"foils_PT": foils_PT} if "attribute_of" in changes else {}
    return replace(Query(ids_PT, targets_PT, neutral_C), **foils, **changes)
