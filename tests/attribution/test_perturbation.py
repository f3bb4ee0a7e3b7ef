"""Characters taken away, against doing it by hand, and faithfulness against scipy and known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr
from support.queries import LENGTH, make_query

from nanogpt.attribution.faithfulness import (
    SHARES,
    agreement,
    faithfulness,
    rank_correlation,
    ranks,
    relative_gap,
    similarity,
)
from nanogpt.attribution.maps import Attribution, attribute
from nanogpt.attribution.maps import make_query as query_of
from nanogpt.attribution.perturbation import deletion_insertion, leave_one_out, occlusion
from nanogpt.config import AttributionConfig
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT

CONFIG = AttributionConfig(occlusion_span=3)
PROMPTS = ["To be, or not to be, that", "is the question"]


def values_with(model: GPT, query, kept: list[int]) -> torch.Tensor:
    """(P, T) with nothing but the positions `kept`."""
    x_PTC = model.embed(query.ids_PT).detach()
    away = [t for t in range(LENGTH) if t not in kept]
    x_PTC[:, away] = query.neutral_C
    with torch.no_grad():
        return query.values(model.unembed(model.run_blocks(x_PTC)))


@pytest.mark.parametrize("of", ["logit", "loss"])
def test_leave_one_out_is_what_a_target_loses_without_one(of: str, noisy_model: GPT) -> None:
    query, everything = make_query(noisy_model, of=of), list(range(LENGTH))
    scores_PTS, whole_PT = leave_one_out(noisy_model, query, CONFIG), values_with(noisy_model, query, everything)
    for s in everything:
        lost_PT = whole_PT - values_with(noisy_model, query, [t for t in everything if t != s])
        torch.testing.assert_close(scores_PTS[:, s:, s], lost_PT[:, s:])
        assert not lost_PT[:, :s].abs().gt(1e-12).any(), "what is taken away later changes nothing"
    assert not scores_PTS.triu(1).any()


def test_occlusion_is_the_mean_over_the_spans_that_hold_a_position(noisy_model: GPT) -> None:
    query, everything = make_query(noisy_model), list(range(LENGTH))
    whole_PT = values_with(noisy_model, query, everything)
    lost = {start: whole_PT - values_with(noisy_model, query, [t for t in everything if not start <= t < start + 3])
            for start in range(-2, LENGTH)}
    scores_PTS = occlusion(noisy_model, query, CONFIG)
    for t, s in torch.tril_indices(LENGTH, LENGTH).T.tolist():
        expected_P = torch.stack([lost[start][:, t] for start in range(s - 2, s + 1)]).mean(0)
        torch.testing.assert_close(scores_PTS[:, t, s], expected_P)
    single_PTS = occlusion(noisy_model, query, replace(CONFIG, occlusion_span=1))
    torch.testing.assert_close(single_PTS, leave_one_out(noisy_model, query, CONFIG))


def test_deletion_takes_the_top_share_away_and_insertion_keeps_nothing_else(noisy_model: GPT) -> None:
    query, t = make_query(noisy_model).head(LENGTH), 9
    one = replace(query, ids_PT=query.ids_PT[:1], targets_PT=query.targets_PT[:1])
    order = torch.randperm(t + 1, generator=torch.Generator().manual_seed(3)).tolist()
    scores_MTS = torch.zeros(1, LENGTH, LENGTH)
    scores_MTS[0, t, order] = -torch.arange(t + 1.0)           # the first of `order` has the highest score
    deletion_MK, insertion_MK = deletion_insertion(noisy_model, one, scores_MTS, t, (0.1, 0.25, 1.0))
    whole = values_with(noisy_model, one, list(range(LENGTH)))[0, t]
    for k, count in enumerate((1, 3, 10)):
        kept, gone = order[count:], order[:count]
        torch.testing.assert_close(deletion_MK[0, k], whole - values_with(noisy_model, one, kept)[0, t])
        torch.testing.assert_close(insertion_MK[0, k], whole - values_with(noisy_model, one, gone)[0, t])
    assert float(insertion_MK[0, -1]) == pytest.approx(0, abs=1e-9)


def test_rank_correlation_is_scipys_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    a_TS, b_TS = torch.randint(6, (2, 20, 20), generator=generator).double()
    a_TS[12, :13] = 2.0
    found_T = rank_correlation(a_TS, b_TS)
    for t in range(2, 20):
        a, b = a_TS[t, :t + 1].numpy(), b_TS[t, :t + 1].numpy()
        np.testing.assert_allclose(ranks(a_TS)[t, :t + 1] + 1, rankdata(a))
        constant = len(set(a)) == 1 or len(set(b)) == 1
        assert float(found_T[t]) == pytest.approx(0 if constant else spearmanr(a, b).statistic, abs=1e-12)
    assert float(found_T[12]) == 0


@pytest.fixture(scope="module")
def worth(trained: Checkpoint) -> dict[str, object]:
    model, config = trained.build(), replace(CONFIG, integration_points=4)
    names = ("gradient_norm", "integrated_gradients", "leave_one_out", "recency", "random")
    maps = {name: attribute(model, trained, PROMPTS, name, config) for name in names}
    found = {worth.method: worth for worth in faithfulness(model, trained, maps, config)}
    return {"maps": maps, "found": found, "agreement": list(agreement(maps))}


def test_what_a_method_is_worth(worth) -> None:
    found = worth["found"]
    assert found["leave_one_out"].spearman_leave_one_out == pytest.approx(1)
    assert abs(found["random"].spearman_leave_one_out) < 0.3
    assert found["leave_one_out"].comprehensiveness > found["random"].comprehensiveness
    assert found["leave_one_out"].sufficiency < found["random"].sufficiency
    for method in found.values():
        assert method.comprehensiveness == pytest.approx(sum(method.deletion_K) / len(SHARES))
        assert (method.completeness_gap == method.completeness_gap) == (method.method == "integrated_gradients")
    assert 0 < found["integrated_gradients"].completeness_gap < 0.1
    assert len(worth["agreement"]) == 10


def test_completeness_of_nothing_is_missed_wholly(trained: Checkpoint) -> None:
    model = trained.build()
    (found,) = attribute(model, trained, ["To be, or"])
    nothing = replace(found, scores_TS=torch.zeros_like(found.scores_TS))
    assert relative_gap(model, trained, [nothing], CONFIG) == pytest.approx(1)


def test_similarity_reads_real_targets_with_enough_before_them() -> None:
    a_TS = torch.rand(10, 10, generator=torch.Generator().manual_seed(2)).tril()
    one = Attribution("0123456789", a_TS, torch.ones(10), "123456789?")
    b_TS = a_TS.clone()
    b_TS[7:9] = -a_TS[7:9]
    b_TS[:7] = b_TS[9] = 0
    assert similarity([one], [replace(one, scores_TS=b_TS)]) == pytest.approx(1)
    assert np.isnan(similarity([], []))


def test_the_foil_is_the_strongest_rival(trained: Checkpoint) -> None:
    model = trained.build()
    query, _ = query_of(model, trained, ["To be, or"], AttributionConfig(contrastive=True))
    with torch.no_grad():
        best_T2 = model(query.ids_PT)[0].topk(2).indices
    assert query.foils_PT is not None and bool((query.foils_PT != query.targets_PT).all())
    expected_T = torch.where(best_T2[:, 0] == query.targets_PT[0], best_T2[:, 1], best_T2[:, 0])
    assert torch.equal(query.foils_PT[0], expected_T)
