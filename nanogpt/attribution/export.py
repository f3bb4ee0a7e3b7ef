"""Maps as tensors in one file, shaped as captum gives them.

Shape suffixes: P prompts, T target positions, S positions of characters that were read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from nanogpt.attribution.maps import Attribution
from nanogpt.attribution.rows import ModelAttributions


def stacked_scores(attributions: Sequence[Attribution]) -> Tensor:
    """Return the scores of some prompts as (P, T, S), float32; NaN where a prompt has no such character.

    `[:, t]` is what captum's `attribute` returns for the target after character t, summed over the channels of the
    embeddings (`InputXGradient(…).attribute(embeddings, target).sum(-1)`).
    """
    length = max(len(attribution.prompt) for attribution in attributions)
    scores_PTS = torch.full((len(attributions), length, length), torch.nan)
    for scores_TS, attribution in zip(scores_PTS, attributions, strict=True):
        size = len(attribution.prompt)
        scores_TS[:size, :size] = attribution.scores_TS
    return scores_PTS


def save_attributions(attributed: ModelAttributions, path: Path) -> Path:
    """Write a model's maps as safetensors: `scores` by the first method, and `<method>` of the compared prompts.

    The file's metadata holds as JSON the prompts, the targets of each, the compared prompts and the model.
    """
    maps, compared = attributed.attributions, next(iter(attributed.compared.values()), [])
    tensors = {"scores": stacked_scores(maps)} | {method: stacked_scores(of_method)
                                                  for method, of_method in attributed.compared.items()}
    facts = {"model": attributed.model_row, "method": maps[0].method,
             "prompts": [attribution.prompt for attribution in maps],
             "targets": [attribution.targets for attribution in maps],
             "compared_prompts": [attribution.prompt for attribution in compared]}
    save_file(tensors, path, metadata={name: json.dumps(value) for name, value in facts.items()})
    return path
