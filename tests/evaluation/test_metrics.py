"""Scores of single predictions against scipy, torch and a loop in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F
from sklearn.metrics import brier_score_loss
from torch import Tensor

from nanogpt.evaluation.metrics import Scores, bits, score


@pytest.fixture
def random_scores() -> tuple[Tensor, Tensor, Scores]:
    generator = torch.Generator().manual_seed(0)
    logits_NV = 3 * torch.randn(400, 30, generator=generator)
    targets_N = torch.randint(30, (400,), generator=generator)
    return logits_NV, targets_N, score(logits_NV, targets_N)


def test_loss_is_torchs_cross_entropy(random_scores: tuple[Tensor, Tensor, Scores]) -> None:
    logits_NV, targets_N, scores = random_scores
    torch.testing.assert_close(scores.loss_N, F.cross_entropy(logits_NV, targets_N, reduction="none"))


def test_entropy_is_scipys(random_scores: tuple[Tensor, Tensor, Scores]) -> None:
    logits_NV, _, scores = random_scores
    expected = scipy.stats.entropy(logits_NV.double().softmax(-1).numpy(), axis=-1)
    np.testing.assert_allclose(scores.entropy_N.numpy(), expected, rtol=1e-5)


def test_confidence_top5_and_accuracy_are_those_of_the_sorted_probabilities(
        random_scores: tuple[Tensor, Tensor, Scores]) -> None:
    logits_NV, targets_N, scores = random_scores
    p_NV = scipy.special.softmax(logits_NV.double().numpy(), axis=-1)
    ordered = np.sort(p_NV, axis=-1)[:, ::-1]
    np.testing.assert_allclose(scores.confidence_N.numpy(), ordered[:, 0], rtol=1e-5)
    np.testing.assert_allclose(scores.top5_N.numpy(), ordered[:, :5].sum(-1), rtol=1e-5)
    assert scores.correct_N.tolist() == (p_NV.argmax(-1) == targets_N.numpy()).astype(float).tolist()
    assert 0 < scores.correct_N.sum() < 400


def test_extreme_logits_stay_finite() -> None:
    logits_NV = torch.tensor([[1000.0, 0.0, -1000.0], [-1e4, 1e4, 0.0]])
    scores = score(logits_NV, torch.tensor([0, 0]))
    assert scores.loss_N.tolist() == [0.0, 20_000.0]
    assert scores.entropy_N.tolist() == [0.0, 0.0] and scores.confidence_N.tolist() == [1.0, 1.0]


def test_half_precision_logits_are_scored_in_float32(random_scores: tuple[Tensor, Tensor, Scores]) -> None:
    logits_NV, targets_N, _ = random_scores
    rounded = logits_NV.bfloat16()
    for column, expected in zip(score(rounded, targets_N), score(rounded.float(), targets_N), strict=True):
        assert column.dtype == torch.float32 and torch.equal(column, expected)


def test_fewer_than_five_characters_have_all_the_mass() -> None:
    scores = score(torch.randn(7, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(7, dtype=torch.int64))
    torch.testing.assert_close(scores.top5_N, torch.ones(7))


def test_a_uniform_model_over_256_symbols_costs_8_bits() -> None:
    scores = score(torch.zeros(9, 256), torch.arange(9))
    assert bits(1.0) * scores.loss_N.numpy() == pytest.approx(8.0, rel=1e-6)
    assert bits(float(scores.entropy_N[0])) == pytest.approx(8.0, rel=1e-6)
    assert bits(math.log(1024)) == pytest.approx(10.0)


def test_brier_score_is_scikit_learns(random_scores: tuple[Tensor, Tensor, Scores]) -> None:
    logits_NV, targets_N, scores = random_scores
    expected = brier_score_loss(targets_N.numpy(), logits_NV.double().softmax(-1).numpy(), labels=range(30))
    assert float(scores.brier_N.mean()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tempered_loss_is_that_of_the_logits_over_the_temperature(random_scores: tuple[Tensor, Tensor, Scores],
                                                                  temperature: float) -> None:
    logits_NV, targets_N, scores = random_scores
    tempered = score(logits_NV, targets_N, temperature)
    torch.testing.assert_close(tempered.tempered_loss_N, score(logits_NV / temperature, targets_N).loss_N)
    assert torch.equal(tempered.loss_N, scores.loss_N)
