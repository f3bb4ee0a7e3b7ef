"""Maps of prompts: what is asked, padding, laws of causal models, words, and what a map is summed up as."""

from __future__ import annotations

import math

import pytest
import torch

from nanogpt.attribution.maps import (
    Attribution,
    attribute,
    character_kinds,
    make_query,
    neutral_input,
    split_units,
    summarize,
    tidy_columns,
    unit_rows,
)
from nanogpt.config import ATTRIBUTION_CATALOGUE, AttributionConfig
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT

PROMPTS = ["To be, or not to be", "the sum of", "To be, or not to be", "x", "a b c d e f"]
FEW = AttributionConfig(integration_points=2, smooth_draws=2)
ALL_METHODS = [method.name for method in ATTRIBUTION_CATALOGUE]


@pytest.fixture(scope="module")
def model(trained: Checkpoint) -> GPT:
    return trained.build()


def example(prompt: str, scores: list[list[float]]) -> Attribution:
    return Attribution(prompt, torch.tensor(scores, dtype=torch.float64), torch.ones(len(prompt)), prompt[1:] + "?")


@pytest.mark.parametrize("method", ALL_METHODS)
def test_no_gradient_stays_and_nothing_of_the_model_changes(method: str, model: GPT, trained: Checkpoint) -> None:
    random = torch.get_rng_state()
    attribute(model, trained, PROMPTS, method, FEW)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, trained.weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_prompts_together_are_prompts_alone_in_the_order_asked(method: str, model: GPT, trained: Checkpoint) -> None:
    together = attribute(model, trained, PROMPTS, method, FEW)
    assert [attribution.prompt for attribution in together] == PROMPTS
    assert {attribution.method for attribution in together} == {method}
    for prompt, attribution in zip(PROMPTS, together, strict=True):
        (alone,) = attribute(model, trained, [prompt], method, FEW)
        assert attribution.targets == alone.targets and attribution.scores_TS.shape == (len(prompt), len(prompt))
        assert not attribution.scores_TS.triu(1).any()
        torch.testing.assert_close(attribution.scores_TS, alone.scores_TS, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(attribution.probability_T, alone.probability_T, rtol=1e-4, atol=1e-6)


def test_the_targets_are_the_next_characters_and_the_likeliest_after_the_last(model: GPT, trained: Checkpoint) -> None:
    for attribution in attribute(model, trained, PROMPTS):
        with torch.no_grad():
            p_TV = model(trained.vocabulary.encode(attribution.prompt)[None])[0].softmax(-1)
        assert attribution.targets[:-1] == attribution.prompt[1:]
        assert len(attribution.targets) == len(attribution.prompt)
        assert trained.vocabulary.encode(attribution.targets[-1]).item() == int(p_TV[-1].argmax())
        expected_T = p_TV[range(len(p_TV)), trained.vocabulary.encode(attribution.targets)]
        torch.testing.assert_close(attribution.probability_T, expected_T, rtol=1e-4, atol=1e-6)


def test_of_a_long_prompt_the_last_block_is_read(model: GPT, trained: Checkpoint) -> None:
    long = "Now is the winter of our discontent made glorious summer"
    first, second = attribute(model, trained, [long, long[-32:]])
    assert first.prompt == second.prompt == long[-32:]
    assert torch.equal(first.scores_TS, second.scores_TS)


def test_unknown_characters_stay_visible_and_bad_questions_are_refused(model: GPT, trained: Checkpoint) -> None:
    (attribution,) = attribute(model, trained, ["a漢b"])
    assert attribution.prompt == "a漢b" and attribution.targets[:2] == "漢b"
    assert tidy_columns(attribution)["unknown"] == [False, False, True, False, True, False]
    with pytest.raises(ValueError, match="prompt must have at least one character, got ''"):
        attribute(model, trained, ["a", ""])
    with pytest.raises(ValueError, match=r"method must be one of gradient_norm, .*, got 'attention'"):
        attribute(model, trained, ["a"], "attention")
    with pytest.raises(ValueError, match="cam_block must be <= n_layer = 2, got 3"):
        attribute(model, trained, ["a"], "grad_cam", AttributionConfig(cam_block=3))
    assert attribute(model, trained, []) == []


def test_the_neutral_input_is_the_mean_input_of_the_training_text(model: GPT, trained: Checkpoint) -> None:
    with torch.no_grad():
        embedded_NC = model.embed(torch.arange(len(trained.vocabulary)).repeat_interleave(
            trained.character_counts_V)[None])[0]
    torch.testing.assert_close(neutral_input(model, trained), embedded_NC.mean(0), rtol=1e-3, atol=1e-5)


def test_an_untrained_model_already_looks_at_every_character(checkpoints: list[Checkpoint]) -> None:
    """What randomised weights look at is the baseline of every later map, so it must not be empty."""
    untrained = checkpoints[0]
    (attribution,) = attribute(untrained.build(), untrained, ["abc"])
    assert bool((attribution.share_TS[torch.ones(3, 3, dtype=torch.bool).tril()] > 0).all())


def test_the_foil_is_the_strongest_rival(trained: Checkpoint) -> None:
    model = trained.build()
    query, _ = make_query(model, trained, ["To be, or"], AttributionConfig(contrastive=True))
    with torch.no_grad():
        best_T2 = model(query.ids_PT)[0].topk(2).indices
    assert query.foils_PT is not None and bool((query.foils_PT != query.targets_PT).all())
    expected_T = torch.where(best_T2[:, 0] == query.targets_PT[0], best_T2[:, 1], best_T2[:, 0])
    assert torch.equal(query.foils_PT[0], expected_T)


def test_columns_are_the_lower_triangle_and_shares_sum_to_one(model: GPT, trained: Checkpoint) -> None:
    (attribution,) = attribute(model, trained, ["not to be"], "gradient_times_input")
    table = tidy_columns(attribution)
    assert list(zip(table["target_position"], table["position"], strict=True)) == [
        (t, s) for t in range(1, 10) for s in range(t)]
    sums = [0.0] * 10
    for t, s, character, target, score, share in zip(*(table[name] for name in (
            "target_position", "position", "character", "target", "score", "share")), strict=True):
        assert character == "not to be"[s] and target == attribution.targets[t - 1]
        assert score == float(attribution.scores_TS[t - 1, s])
        sums[t] += share
    assert sums[1:] == pytest.approx([1.0] * 9, abs=1e-5)
    assert min(table["score"]) < 0 <= min(table["share"])


def test_segments_cut_a_text_without_loss() -> None:
    for text in ("To be,\nor not  to be\n", " begins with a space", "x", "\n\n"):
        assert all("".join(split_units(text, unit)) == text for unit in ("word", "line"))


def test_shares_between_words_sum_to_one_and_single_characters_keep_theirs(model: GPT, trained: Checkpoint) -> None:
    (attribution,) = attribute(model, trained, ["to be, or\nnot to"])
    for unit in ("word", "line"):
        sums: dict[object, float] = {}
        for row in unit_rows(attribution, unit):
            sums[row["target"], row["target_position"]] = sums.get((row["target"], row["target_position"]), 0.0) + (
                float(str(row["share"])))
        assert list(sums.values()) == pytest.approx([1.0] * len(sums), abs=1e-5) and len(sums) >= 2
    ones = example("\n\n\n", [[1, 0, 0], [1, 3, 0], [1, 1, 2]])
    shares = {(row["target_position"], row["position"]): row["share"] for row in unit_rows(ones, "line")}
    assert shares[2, 0] == pytest.approx(0.25) and shares[2, 1] == pytest.approx(0.75)


def test_each_character_read_has_one_kind() -> None:
    prompt = "It's so.\nAnd 2 more"
    masks = character_kinds(prompt)
    assert torch.equal(torch.stack(list(masks.values())).sum(0), torch.ones(len(prompt), len(prompt)).long().tril())

    def of(t: int, kind: str) -> str:
        return "".join(character for character, chosen in zip(prompt, masks[kind][t], strict=True) if chosen)

    assert of(6, "same_word") == "so" and of(6, "previous_word") == "It's" and of(6, "earlier_words") == ""
    assert of(7, "same_word") == "" and of(7, "previous_word") == "so" and of(7, "earlier_words") == "It's"
    last = len(prompt) - 1
    assert of(last, "same_word") == "more" and of(last, "previous_word") == "2"
    assert of(last, "punctuation") == "." and of(last, "newline") == "\n" and of(last, "space") == "   "


def test_the_summary_of_known_maps() -> None:
    """Equal shares over t + 1 characters: mean distance t / 2 and entropy ln(t + 1); one alone: its distance and 0."""
    even = example("a,c", [[1, 0, 0], [1, -1, 0], [1, -1, 1]])
    first = example("abc", [[2, 0, 0], [2, 0, 0], [2, 0, 0]])
    entropy = (math.log(2) + math.log(3)) / 3
    means = summarize([even])
    assert means["mean_distance_characters"] == pytest.approx(0.5) and means["entropy_nats"] == pytest.approx(entropy)
    assert means["punctuation_share"] == pytest.approx((1 / 2 + 1 / 3) / 3)
    means = summarize([first])
    assert means["mean_distance_characters"] == pytest.approx(1) and means["same_word_share"] == pytest.approx(1)
    assert summarize([even, first])["mean_distance_characters"] == pytest.approx(0.75)
    assert summarize([])["entropy_nats"] == 0
