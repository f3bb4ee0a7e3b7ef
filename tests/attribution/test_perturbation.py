"""Characters taken away, against doing it by hand; equal scores against every order that they can have."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from support.queries import LENGTH, make_query

from nanogpt.attribution.gradients import Query
from nanogpt.attribution.perturbation import TIE_DRAWS, deletion_insertion, leave_one_out, occlusion, top_positions
from nanogpt.config import AttributionConfig
from nanogpt.model.gpt import GPT

CONFIG = AttributionConfig(occlusion_span=3)


def new_generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def values_with(model: GPT, query: Query, kept: list[int]) -> torch.Tensor:
    """(P, T) with nothing but the positions `kept`."""
    x_PTC = model.embed(query.ids_PT).detach()
    away = [t for t in range(LENGTH) if t not in kept]
    x_PTC[:, away] = query.neutral_C
    with torch.no_grad():
        return query.values(model.unembed(model.run_blocks(x_PTC)))


@pytest.mark.parametrize("attribute_of", ["logit", "loss"])
def test_leave_one_out_is_what_a_target_loses_without_one(attribute_of: str, noisy_model: GPT) -> None:
    query, everything = make_query(noisy_model, attribute_of=attribute_of), list(range(LENGTH))
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
    one, t = make_query(noisy_model).rows(torch.tensor([0])), 9
    order = torch.randperm(t + 1, generator=torch.Generator().manual_seed(3)).tolist()
    scores_by_map = torch.zeros(1, LENGTH, LENGTH)
    scores_by_map[0, t, order] = -torch.arange(t + 1.0)           # the first of `order` has the highest score
    deletion, insertion = deletion_insertion(noisy_model, one, scores_by_map, t, (0.1, 0.25, 1.0), new_generator())
    whole = values_with(noisy_model, one, list(range(LENGTH)))[0, t]
    for i, count in enumerate((1, 3, 10)):
        kept, gone = order[count:], order[:count]
        torch.testing.assert_close(deletion[0, i], whole - values_with(noisy_model, one, kept)[0, t])
        torch.testing.assert_close(insertion[0, i], whole - values_with(noisy_model, one, gone)[0, t])
    assert float(insertion[0, -1]) == pytest.approx(0, abs=1e-9)


def test_equal_scores_lose_what_random_choices_lose_and_not_what_the_oldest_do(noisy_model: GPT) -> None:
    """A map that orders nothing, against the mean over all sets of so many characters, within four standard errors."""
    one, t, repeats, generator = make_query(noisy_model).rows(torch.tensor([1])), 9, 60, new_generator()
    flat = torch.ones(1, LENGTH, LENGTH)
    curves = [torch.stack(deletion_insertion(noisy_model, one, flat, t, (0.1, 0.2), generator))[:, 0]
              for _ in range(repeats)]
    means = torch.stack(curves).mean(0)                        # (deletion and insertion, shares)
    whole = values_with(noisy_model, one, list(range(LENGTH)))[0, t]
    for i, count in enumerate((1, 2)):
        chosen = list(combinations(range(t + 1), count))       # the oldest come first
        without = [[s for s in range(t + 1) if s not in gone] for gone in chosen]
        for mean, kept_lists in zip(means[:, i], (without, chosen), strict=True):
            losses = torch.stack([whole - values_with(noisy_model, one, list(kept))[0, t] for kept in kept_lists])
            error = float(losses.std() / (repeats * TIE_DRAWS)**0.5)
            assert abs(float(mean - losses.mean())) < 4 * error < abs(float(losses[0] - losses.mean()))


def test_of_equal_scores_each_is_as_often_on_top_and_the_others_keep_their_place() -> None:
    scores_by_map, generator = torch.tensor([[0.0, 2, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5]]), new_generator()
    draws = torch.cat([top_positions(scores_by_map, (0.01, 0.5, 1.0), generator) for _ in range(250)])
    assert draws.shape == (250 * TIE_DRAWS, 2, 3, 6)
    often = draws.double().mean(0)
    assert often[0, 0].tolist() == [0, 1, 0, 0, 0, 0] and often[0, 2].tolist() == [1] * 6
    assert often[0, 1, :2].tolist() == [0, 1] and often[0, 1, 2:].tolist() == pytest.approx([0.5] * 4, abs=0.05)
    assert often[1].tolist() == [[0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1], [1] * 6]


def test_a_map_is_worth_the_same_alone_and_beside_others(noisy_model: GPT) -> None:
    """Copies that several maps ask for are read once, which must change nothing."""
    one, t = make_query(noisy_model).rows(torch.tensor([2])), 10
    maps = torch.randn(3, LENGTH, LENGTH, generator=new_generator())
    maps[2] = maps[2].round()                                  # with ties
    together = torch.stack(deletion_insertion(noisy_model, one, maps, t, (0.1, 0.5), new_generator()), 1)
    for scores_TS, expected in zip(maps, together, strict=True):
        alone = deletion_insertion(noisy_model, one, scores_TS[None], t, (0.1, 0.5), new_generator())
        torch.testing.assert_close(torch.cat(alone), expected)
