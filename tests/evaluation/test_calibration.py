"""Calibration against torchmetrics and scipy; the temperature that undoes a scaling of the logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from nanogpt.evaluation.calibration import TEMPERATURES, adaptive_reliability, auroc, fit_temperature, reliability
from nanogpt.evaluation.metrics import score


def labelled(count: int, sharpness: float) -> tuple[Tensor, Tensor]:
    """Logits of 10 characters, and labels drawn from them; the logits are then multiplied by `sharpness`."""
    generator = torch.Generator().manual_seed(4)
    logits_NV = 2 * torch.randn(count, 10, generator=generator)
    return sharpness * logits_NV, torch.multinomial(logits_NV.softmax(-1), 1, generator=generator).squeeze(1)


@pytest.mark.parametrize("bins", [10, 15])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_calibration_errors_are_torchmetrics(bins: int, sharpness: float) -> None:
    logits_NV, targets_N = labelled(3000, sharpness)
    scores = score(logits_NV, targets_N)
    predictions = reliability(scores.confidence_N, scores.correct_N, bins)
    for error, norm in ((predictions.expected_error, "l1"), (predictions.maximum_error, "max")):
        expected = multiclass_calibration_error(logits_NV.softmax(-1), targets_N, 10, bins, norm)
        assert error == pytest.approx(float(expected), abs=1e-6)
    assert predictions.counts.sum() == 3000


def test_adaptive_bins_hold_equally_many() -> None:
    logits_NV, targets_N = labelled(1003, 2.0)
    scores = score(logits_NV, targets_N)
    predictions = adaptive_reliability(scores.confidence_N, scores.correct_N)
    assert predictions.counts.max() - predictions.counts.min() <= 1
    order = np.argsort(scores.confidence_N.numpy(), kind="stable")
    parts = [order[np.arange(1003) * 15 // 1003 == k] for k in range(15)]
    gaps = [abs(float(scores.confidence_N[part].mean() - scores.correct_N[part].mean())) for part in parts]
    expected = np.average(gaps, weights=[len(part) for part in parts])
    assert predictions.expected_error == pytest.approx(expected, abs=1e-6)


def test_bins_are_closed_on_the_right() -> None:
    """0.25 belongs to (0, 0.25]: there the two answers balance, in (0.25, 0.5] they would not."""
    confidence_N, correct_N = torch.tensor([0.25, 0.125, 0.5]), torch.tensor([0.0, 0.375, 0.5])
    assert reliability(confidence_N, correct_N, 4).expected_error == 0.0


def test_labels_drawn_from_the_model_itself_are_calibrated() -> None:
    scores = score(*labelled(40_000, 1.0))
    assert abs(float(scores.confidence_N.mean() - scores.correct_N.mean())) < 0.01
    assert reliability(scores.confidence_N, scores.correct_N).expected_error < 0.02
    sharpened = score(*labelled(40_000, 3.0))
    assert reliability(sharpened.confidence_N, sharpened.correct_N).expected_error > 0.1


def test_nothing_has_no_calibration_error() -> None:
    for find in (reliability, adaptive_reliability):
        assert find(torch.empty(0), torch.empty(0)).expected_error == 0.0


def test_auroc_is_the_mann_whitney_statistic_with_ties() -> None:
    rng = np.random.default_rng(0)
    correct = rng.integers(0, 2, 500)
    for value in (rng.normal(size=500) + correct, np.round(rng.normal(size=500) + correct), np.ones(500)):
        right, wrong = value[correct == 1], value[correct == 0]
        expected = mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
        assert auroc(torch.from_numpy(value), torch.from_numpy(correct).double()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("correct_N", [torch.ones(3), torch.zeros(3), torch.ones(0)])
@pytest.mark.filterwarnings("error")
def test_auroc_is_nan_without_both_right_and_wrong(correct_N: Tensor) -> None:
    assert math.isnan(auroc(torch.rand(len(correct_N)), correct_N))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_auroc_of_a_diverged_model_is_nan(value: float) -> None:
    assert math.isnan(auroc(torch.tensor([0.5, value, 0.1]), torch.tensor([1.0, 0.0, 1.0])))


@pytest.mark.parametrize("factor", [0.2, 0.7, 2.0, 9.0])
def test_logits_times_k_have_k_times_the_temperature(factor: float) -> None:
    logits_NV, targets_N = labelled(5000, 1.0)
    whole = fit_temperature(logits_NV, targets_N)
    assert whole == pytest.approx(1.0, abs=0.05)
    assert fit_temperature(factor * logits_NV, targets_N) == pytest.approx(factor * whole, rel=1e-3)


def test_a_temperature_stays_in_its_bounds() -> None:
    logits_NV = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    low, high = TEMPERATURES
    assert fit_temperature(logits_NV, logits_NV.argmax(-1)) == pytest.approx(low, rel=0.01)
    assert fit_temperature(logits_NV, logits_NV.argmin(-1)) == pytest.approx(high, rel=0.01)
    assert low <= fit_temperature(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64)) <= high
    with pytest.raises(ValueError, match="at least one prediction, got 0"):
        fit_temperature(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
