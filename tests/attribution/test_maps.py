"""Maps of prompts: what is asked, padding, laws of causal models, words, and what a map is summed up as."""

from __future__ import annotations

import math

import pytest
import torch

from nanogpt.attribution.maps import (
    Attribution,
    aggregate,
    attribute,
    columns,
    kinds,
    neutral_input,
    segments,
    summarize,
)
from nanogpt.attribution.methods import BASELINES, METHODS
from nanogpt.config import ATTRIBUTION_METHODS, AttributionConfig
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT

PROMPTS = ["To be, or not to be", "the sum of", "To be, or not to be", "x", "a b c d e f"]
FEW = AttributionConfig(integration_points=2, smooth_draws=2)
ALL_METHODS = [*METHODS, *BASELINES]


@pytest.fixture(scope="module")
def model(trained: Checkpoint) -> GPT:
    return trained.build()


def example(prompt: str, scores: list[list[float]]) -> Attribution:
    return Attribution(prompt, torch.tensor(scores, dtype=torch.float64), torch.ones(len(prompt)), prompt[1:] + "?")


def test_the_methods_are_those_of_the_configuration() -> None:
    assert tuple(METHODS) == ATTRIBUTION_METHODS


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
    assert [(found.prompt, found.method) for found in together] == [(prompt, method) for prompt in PROMPTS]
    for prompt, found in zip(PROMPTS, together, strict=True):
        (alone,) = attribute(model, trained, [prompt], method, FEW)
        assert found.targets == alone.targets and found.scores_TS.shape == (len(prompt), len(prompt))
        assert not found.scores_TS.triu(1).any()
        torch.testing.assert_close(found.scores_TS, alone.scores_TS, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.probability_T, alone.probability_T, rtol=1e-4, atol=1e-6)


def test_the_targets_are_the_next_characters_and_the_likeliest_after_the_last(model: GPT, trained: Checkpoint) -> None:
    for found in attribute(model, trained, PROMPTS):
        with torch.no_grad():
            p_TV = model(trained.vocabulary.encode(found.prompt)[None])[0].softmax(-1)
        assert found.targets[:-1] == found.prompt[1:] and len(found.targets) == len(found.prompt)
        assert trained.vocabulary.encode(found.targets[-1]).item() == int(p_TV[-1].argmax())
        expected_T = p_TV[range(len(p_TV)), trained.vocabulary.encode(found.targets)]
        torch.testing.assert_close(found.probability_T, expected_T, rtol=1e-4, atol=1e-6)


def test_of_a_long_prompt_the_last_block_is_read(model: GPT, trained: Checkpoint) -> None:
    long = "Now is the winter of our discontent made glorious summer"
    first, second = attribute(model, trained, [long, long[-32:]])
    assert first.prompt == second.prompt == long[-32:]
    assert torch.equal(first.scores_TS, second.scores_TS)


def test_unknown_characters_stay_visible_and_bad_questions_are_refused(model: GPT, trained: Checkpoint) -> None:
    (found,) = attribute(model, trained, ["a漢b"])
    assert found.prompt == "a漢b" and found.targets[:2] == "漢b"
    assert columns(found)["unknown"] == [False, False, True, False, True, False]
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
    (found,) = attribute(untrained.build(), untrained, ["abc"])
    assert bool((found.share_TS[torch.ones(3, 3, dtype=torch.bool).tril()] > 0).all())


def test_columns_are_the_lower_triangle_and_shares_sum_to_one(model: GPT, trained: Checkpoint) -> None:
    (found,) = attribute(model, trained, ["not to be"], "gradient_times_input")
    table = columns(found)
    assert list(zip(table["target_position"], table["position"], strict=True)) == [
        (t, s) for t in range(1, 10) for s in range(t)]
    sums = [0.0] * 10
    for t, s, character, target, score, share in zip(*(table[name] for name in (
            "target_position", "position", "character", "target", "score", "share")), strict=True):
        assert character == "not to be"[s] and target == found.targets[t - 1]
        assert score == float(found.scores_TS[t - 1, s])
        sums[t] += share
    assert sums[1:] == pytest.approx([1.0] * 9, abs=1e-5)
    assert min(table["score"]) < 0 <= min(table["share"])


def test_segments_cut_a_text_without_loss() -> None:
    for text in ("To be,\nor not  to be\n", " begins with a space", "x", "\n\n"):
        assert all("".join(segments(text, unit)) == text for unit in ("word", "line"))


def test_shares_between_words_sum_to_one_and_single_characters_keep_theirs(model: GPT, trained: Checkpoint) -> None:
    (found,) = attribute(model, trained, ["to be, or\nnot to"])
    for unit in ("word", "line"):
        sums: dict[object, float] = {}
        for row in aggregate(found, unit):
            sums[row["target"], row["target_position"]] = sums.get((row["target"], row["target_position"]), 0.0) + (
                float(str(row["share"])))
        assert list(sums.values()) == pytest.approx([1.0] * len(sums), abs=1e-5) and len(sums) >= 2
    ones = example("\n\n\n", [[1, 0, 0], [1, 3, 0], [1, 1, 2]])
    shares = {(row["target_position"], row["position"]): row["share"] for row in aggregate(ones, "line")}
    assert shares[2, 0] == pytest.approx(0.25) and shares[2, 1] == pytest.approx(0.75)


def test_each_character_read_has_one_kind() -> None:
    prompt = "It's so.\nAnd 2 more"
    found = kinds(prompt)
    assert torch.equal(torch.stack(list(found.values())).sum(0), torch.ones(len(prompt), len(prompt)).long().tril())

    def of(t: int, kind: str) -> str:
        return "".join(character for character, chosen in zip(prompt, found[kind][t], strict=True) if chosen)

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
    found = summarize([even])
    assert found["mean_distance_characters"] == pytest.approx(0.5) and found["entropy_nats"] == pytest.approx(entropy)
    assert found["punctuation_share"] == pytest.approx((1 / 2 + 1 / 3) / 3)
    found = summarize([first])
    assert found["mean_distance_characters"] == pytest.approx(1) and found["same_word_share"] == pytest.approx(1)
    assert summarize([even, first])["mean_distance_characters"] == pytest.approx(0.75)
    assert summarize([])["entropy_nats"] == 0
