"""Scores of single predictions against scipy, torch and a loop in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.metrics import Scores, bits, calibration_error, concatenate, score


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


def test_parts_scored_apart_are_the_whole(random_scores: tuple[Tensor, Tensor, Scores]) -> None:
    logits_NV, targets_N, scores = random_scores
    parts = [score(logits_NV[i:i + 70], targets_N[i:i + 70]) for i in range(0, 400, 70)]
    for joined, column in zip(concatenate(parts), scores, strict=True):
        torch.testing.assert_close(joined, column, rtol=1e-6, atol=1e-7)


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, equation 3, bin by bin."""
    total = 0.0
    for k in range(bins):
        inside = (confidence > k / bins) & (confidence <= (k + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return total


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
def test_calibration_error_is_that_of_a_loop_over_the_bins(bins: int) -> None:
    rng = np.random.default_rng(bins)
    confidence = rng.uniform(1e-6, 1, 2000)
    correct = (rng.uniform(size=2000) < confidence**2).astype(float)
    found = calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct), bins)
    assert found == pytest.approx(expected_calibration_error(confidence, correct, bins), abs=1e-9)
    assert found > 0.1


def test_bins_are_closed_on_the_right() -> None:
    """0.25 belongs to (0, 0.25]: there the two answers balance, in (0.25, 0.5] they would not."""
    confidence_N, correct_N = torch.tensor([0.25, 0.125, 0.5]), torch.tensor([0.0, 0.375, 0.5])
    assert calibration_error(confidence_N, correct_N, 4) == 0.0


def test_labels_drawn_from_the_model_itself_are_calibrated() -> None:
    generator = torch.Generator().manual_seed(4)
    p_NV = (2 * torch.randn(40_000, 10, generator=generator)).softmax(-1)
    labels_N = torch.multinomial(p_NV, 1, generator=generator).squeeze(1)
    scores = score(p_NV.log(), labels_N)
    assert abs(float(scores.confidence_N.mean() - scores.correct_N.mean())) < 0.01
    assert calibration_error(scores.confidence_N, scores.correct_N) < 0.02
    sharpened = score(3 * p_NV.log(), labels_N)
    assert calibration_error(sharpened.confidence_N, sharpened.correct_N) > 0.1


def test_nothing_has_no_calibration_error() -> None:
    assert calibration_error(torch.empty(0), torch.empty(0)) == 0.0
