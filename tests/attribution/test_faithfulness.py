"""What maps are worth, against scipy, known answers and chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from nanogpt.attribution.faithfulness import (
    TOP_SHARES,
    mean_rank_correlation,
    measure_faithfulness,
    method_agreement,
    rank_correlation,
    ranks_of_read,
    relative_completeness_gap,
)
from nanogpt.attribution.maps import Attribution, attribute
from nanogpt.config import AttributionConfig
from nanogpt.model.checkpoint import Checkpoint

CONFIG = AttributionConfig(integration_points=4)
PROMPTS = ["To be, or not to be, that", "is the question"]


def test_rank_correlation_is_scipys_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    a_TS, b_TS = torch.randint(6, (2, 20, 20), generator=generator).double()
    a_TS[12, :13] = 2.0
    correlation_T = rank_correlation(a_TS, b_TS)
    for t in range(2, 20):
        a, b = a_TS[t, :t + 1].numpy(), b_TS[t, :t + 1].numpy()
        np.testing.assert_allclose(ranks_of_read(a_TS)[t, :t + 1] + 1, rankdata(a))
        constant = len(set(a)) == 1 or len(set(b)) == 1
        assert float(correlation_T[t]) == pytest.approx(0 if constant else spearmanr(a, b).statistic, abs=1e-12)
    assert float(correlation_T[12]) == 0


@pytest.fixture(scope="module")
def maps(trained: Checkpoint) -> dict[str, list[Attribution]]:
    names = ("gradient_norm", "integrated_gradients", "leave_one_out", "recency", "random")
    return {name: attribute(trained.build(), trained, PROMPTS, name, CONFIG) for name in names}


def test_what_a_method_is_worth(trained: Checkpoint, maps: dict[str, list[Attribution]]) -> None:
    measured = {each.method: each for each in measure_faithfulness(trained.build(), trained, maps, CONFIG)}
    assert list(measured) == list(maps)
    assert measured["leave_one_out"].spearman_leave_one_out == pytest.approx(1)
    assert abs(measured["random"].spearman_leave_one_out) < 0.3
    assert measured["leave_one_out"].comprehensiveness > measured["random"].comprehensiveness
    assert measured["leave_one_out"].sufficiency < measured["random"].sufficiency
    for method in measured.values():
        assert method.comprehensiveness == pytest.approx(sum(method.deletion) / len(TOP_SHARES))
        assert (method.completeness_gap == method.completeness_gap) == (method.method == "integrated_gradients")
    assert 0 < measured["integrated_gradients"].completeness_gap < 0.1
    assert len(list(method_agreement(maps))) == 10


def test_maps_of_the_loss_are_worth_what_those_of_its_negative_are(trained: Checkpoint) -> None:
    worth = {}
    for attribute_of in ("log_probability", "loss"):
        config = replace(CONFIG, attribute_of=attribute_of)
        maps = {name: attribute(trained.build(), trained, PROMPTS, name, config)
                for name in ("gradient_norm", "gradient_times_input", "leave_one_out", "recency")}
        worth[attribute_of] = [(each.method, each.deletion, each.insertion)
                               for each in measure_faithfulness(trained.build(), trained, maps, config)]
    for expected, measured in zip(*worth.values(), strict=True):
        assert measured[0] == expected[0]
        np.testing.assert_allclose(measured[1:], expected[1:], rtol=1e-4, atol=1e-5)


def test_a_map_that_orders_nothing_is_worth_as_little_as_chance(trained: Checkpoint,
                                                                maps: dict[str, list[Attribution]]) -> None:
    """Taking the oldest characters away first would cost less than chance, since the last ones count most."""
    def scored(score: Callable[[int], Tensor]) -> list[Attribution]:
        """The prompts with the scores (T, S) that `score` gives a length."""
        return [replace(attribution, scores_TS=score(len(attribution.prompt))) for attribution in maps["random"]]

    compared = {**maps, "flat": scored(lambda size: torch.ones(size, size).double()),
                "oldest_first": scored(lambda size: -torch.arange(size).double().expand(size, size))}
    for seed in range(10):
        draw = torch.Generator().manual_seed(seed)
        compared[f"random_{seed}"] = scored(lambda size, draw=draw: torch.rand(size, size, generator=draw).double())
    lost = {each.method: each.comprehensiveness
            for each in measure_faithfulness(trained.build(), trained, compared, CONFIG)}
    chance = [lost[f"random_{seed}"] for seed in range(10)]
    assert lost["oldest_first"] < sum(chance) / 10 and min(chance) < lost["flat"] < max(chance)


def test_completeness_of_nothing_is_missed_wholly(trained: Checkpoint) -> None:
    model = trained.build()
    (attribution,) = attribute(model, trained, ["To be, or"])
    nothing = replace(attribution, scores_TS=torch.zeros_like(attribution.scores_TS))
    assert relative_completeness_gap(model, trained, [nothing], CONFIG) == pytest.approx(1)


def test_maps_are_compared_at_real_targets_with_enough_before_them() -> None:
    a_TS = torch.rand(10, 10, generator=torch.Generator().manual_seed(2)).tril()
    one = Attribution("0123456789", a_TS, torch.ones(10), "123456789?")
    b_TS = a_TS.clone()
    b_TS[7:9] = -a_TS[7:9]
    b_TS[:7] = b_TS[9] = 0
    assert mean_rank_correlation([one], [replace(one, scores_TS=b_TS)]) == pytest.approx(1)
    assert np.isnan(mean_rank_correlation([], []))
