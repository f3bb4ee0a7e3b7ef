"""The catalogue of methods: each has its function, and what is said of it is true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support.queries import LENGTH, make_query

from nanogpt.attribution.methods import method_function
from nanogpt.commands.study import study
from nanogpt.config import ATTRIBUTION_BASELINES, ATTRIBUTION_CATALOGUE, ATTRIBUTION_METHODS, AttributionConfig
from nanogpt.errors import UserError
from nanogpt.model.gpt import GPT

FEW = AttributionConfig(integration_points=2, smooth_draws=2)


@pytest.mark.parametrize("name", [method.name for method in ATTRIBUTION_CATALOGUE])
def test_a_method_scores_every_position_read_and_is_signed_where_the_catalogue_says_so(
        name: str, noisy_model: GPT) -> None:
    (method,) = (method for method in ATTRIBUTION_CATALOGUE if method.name == name)
    scores_PTS = method_function(name)(noisy_model, make_query(noisy_model), FEW)
    assert scores_PTS.shape == (3, LENGTH, LENGTH) and bool(scores_PTS.isfinite().all())
    assert not scores_PTS.triu(1).any() and bool((scores_PTS > 0).any())
    assert bool((scores_PTS < 0).any()) == method.signed


@pytest.mark.parametrize("name", ATTRIBUTION_BASELINES)
def test_a_baseline_knows_nothing_of_the_model_or_the_text(name: str, noisy_model: GPT) -> None:
    query, score = make_query(noisy_model), method_function(name)
    before_PTS = score(noisy_model, query, FEW)
    with torch.no_grad():
        for parameter in noisy_model.parameters():
            parameter.mul_(2)
    assert torch.equal(score(noisy_model, query.rows(torch.tensor([2, 0, 1])), FEW), before_PTS)


def test_an_unknown_method_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(UserError, match=r"method must be one of gradient_norm, .*, random, got 'attention'"):
        method_function("attention")
    with pytest.raises(UserError, match=r"methods must be among gradient_norm, .*, got 'grad_cam,attention'"):
        AttributionConfig(methods="grad_cam,attention")
    for baseline in ATTRIBUTION_BASELINES:      # they are always compared with, and never ask the model
        with pytest.raises(UserError, match="methods must be among"):
            AttributionConfig(methods=baseline)


def test_the_command_line_lists_the_methods_and_refuses_another_before_any_training(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    help_text = CliRunner().invoke(study, ["--help"]).output
    assert all(name in help_text for name in ATTRIBUTION_METHODS)
    refused = CliRunner().invoke(study, ["--preset", "smoke", "--methods", "attention"])
    assert refused.exit_code == 2 and "methods must be among gradient_norm" in refused.output
    assert not list(tmp_path.iterdir())


def test_the_catalogue_is_read_without_torch_and_names_each_method_once() -> None:
    code = "import sys, nanogpt.config as c; print(c.ATTRIBUTION_METHODS, 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == f"{ATTRIBUTION_METHODS} False"
    names = [*ATTRIBUTION_METHODS, *ATTRIBUTION_BASELINES]
    assert names == [method.name for method in ATTRIBUTION_CATALOGUE] and len(set(names)) == len(names)
    assert all(method.explanation and (method.source or method.is_baseline) for method in ATTRIBUTION_CATALOGUE)
