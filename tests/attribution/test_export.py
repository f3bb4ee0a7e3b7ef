"""Exported maps against captum, and read back."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from captum.attr import InputXGradient
from safetensors import safe_open
from torch import nn

from nanogpt.attribution.export import save_attributions, stacked_scores
from nanogpt.attribution.maps import attribute
from nanogpt.attribution.rows import attribute_prompts
from nanogpt.config import AttributionConfig
from nanogpt.model.checkpoint import Checkpoint

PROMPTS = ["To be, or not", "The king of England"]


class LastLogits(nn.Module):
    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BTC):
        return self.model.unembed(self.model.run_blocks(x_BTC))[:, -1]


def test_a_row_of_the_tensor_is_what_captum_returns(trained: Checkpoint) -> None:
    model = trained.build()
    scores_PTS = stacked_scores(attribute(model, trained, PROMPTS, "gradient_times_input"))
    assert scores_PTS.shape == (2, 19, 19) and scores_PTS[0, 13:].isnan().all() and not scores_PTS[1].isnan().any()
    for prompt, scores_TS in zip(PROMPTS, scores_PTS, strict=True):
        last = len(prompt) - 1
        embedded = model.embed(trained.vocabulary.encode(prompt)[None]).detach().requires_grad_()
        likeliest = LastLogits(model)(embedded).argmax(-1)
        expected = InputXGradient(LastLogits(model)).attribute(embedded, likeliest).sum(-1)[0].detach()
        torch.testing.assert_close(scores_TS[last, :last + 1], expected, rtol=1e-4, atol=1e-6)


def test_a_file_holds_every_method_with_its_prompts(trained: Checkpoint, tmp_path: Path) -> None:
    config = AttributionConfig(compared_prompts=1)
    prompts = [("mine", prompt) for prompt in PROMPTS]
    attributed = attribute_prompts(trained.build(), trained, {"model": "m"}, prompts, config, compare=True)
    with safe_open(save_attributions(attributed, tmp_path / "maps.safetensors"), "pt") as file:
        facts = {name: json.loads(value) for name, value in file.metadata().items()}
        assert set(file.keys()) == {"scores", *config.method_names, "recency", "random"}
        scores = file.get_tensor("scores")
        assert file.get_tensor("leave_one_out").shape == (1, 13, 13)
    assert facts["prompts"] == PROMPTS and facts["compared_prompts"] == PROMPTS[:1]
    assert facts["method"] == "gradient_norm" and facts["targets"][0][:-1] == PROMPTS[0][1:]
    torch.testing.assert_close(scores, stacked_scores(attributed.attributions), equal_nan=True)
