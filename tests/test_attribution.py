"""Gradient norms against captum, against differences, and as laws of causal models."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Saliency
from torch import Tensor, nn

from nanogpt.attribution import Attribution, attribute, gradient_norms, rows, summarize
from nanogpt.checkpoint import Checkpoint
from nanogpt.model import GPT

PROMPTS = ["To be, or not to be", "the sum of", "To be, or not to be", "x", "a b c d e f"]


@pytest.fixture(scope="module")
def model(trained: Checkpoint) -> GPT:
    return trained.build()


class AfterEmbedding(nn.Module):
    """From embeddings to the logits at one position: what captum can differentiate."""

    def __init__(self, model: GPT, position: int) -> None:
        super().__init__()
        self.model, self.position = model, position

    def forward(self, x_PTC: Tensor) -> Tensor:
        return self.model.unembed(self.model.run_blocks(x_PTC))[:, self.position]


def some_ids(rows: int, length: int) -> Tensor:
    return torch.randint(11, (rows, length), generator=torch.Generator().manual_seed(1))


def test_scores_are_the_norms_of_captums_gradients(noisy_model: GPT) -> None:
    ids_PT = some_ids(3, 12)
    targets_PT = ids_PT.flip(1)
    scores_PTS, _ = gradient_norms(noisy_model, ids_PT, targets_PT)
    assert scores_PTS.dtype == torch.float64
    x_PTC = noisy_model.embed(ids_PT).detach()
    for t in range(12):
        saliency = Saliency(AfterEmbedding(noisy_model, t))
        gradient_PSC = saliency.attribute(x_PTC.clone().requires_grad_(), target=targets_PT[:, t], abs=False)
        torch.testing.assert_close(scores_PTS[:, t], gradient_PSC.norm(dim=-1), rtol=1e-6, atol=1e-9)
    assert float(scores_PTS.amax()) > 1e-2


@torch.no_grad()
def test_scores_bound_what_a_small_change_of_an_embedding_does(noisy_model: GPT) -> None:
    """No direction changes the target's logit faster than the gradient's norm, and one changes it just as fast."""
    ids_PT, t, step = some_ids(1, 8), 6, 1e-6
    targets_PT = torch.full((1, 8), 3)
    with torch.enable_grad():
        scores_PTS, _ = gradient_norms(noisy_model, ids_PT, targets_PT)
    x_PTC, logit = noisy_model.embed(ids_PT), AfterEmbedding(noisy_model, t)
    for s in range(t + 1):
        slopes = []
        for c in range(x_PTC.size(-1)):
            nudge = torch.zeros_like(x_PTC)
            nudge[0, s, c] = step
            slopes.append((logit(x_PTC + nudge) - logit(x_PTC - nudge))[0, 3] / (2 * step))
        assert float(torch.stack(slopes).norm()) == pytest.approx(float(scores_PTS[0, t, s]), rel=1e-4)


def test_later_positions_count_exactly_nothing_and_earlier_ones_something(noisy_model: GPT) -> None:
    ids_PT = some_ids(4, 12)
    scores_PTS, probability_PT = gradient_norms(noisy_model, ids_PT, ids_PT)
    assert not scores_PTS.triu(1).any()
    lower = torch.ones(12, 12, dtype=torch.bool).tril()
    assert bool((scores_PTS[:, lower] > 0).all())
    with torch.no_grad():
        p_PTV = noisy_model(ids_PT).softmax(-1)
    torch.testing.assert_close(probability_PT, p_PTV.gather(-1, ids_PT[..., None]).squeeze(-1), rtol=1e-9, atol=0)


def test_no_gradient_stays_and_nothing_of_the_model_changes(model: GPT, trained: Checkpoint) -> None:
    random = torch.get_rng_state()
    attribute(model, trained, PROMPTS)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, trained.weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_prompts_together_are_prompts_alone_in_the_order_asked(model: GPT, trained: Checkpoint) -> None:
    together = attribute(model, trained, PROMPTS)
    assert [found.prompt for found in together] == PROMPTS
    for prompt, found in zip(PROMPTS, together, strict=True):
        (alone,) = attribute(model, trained, [prompt])
        assert found.targets == alone.targets and found.scores_TS.shape == (len(prompt), len(prompt))
        torch.testing.assert_close(found.scores_TS, alone.scores_TS, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.probability_T, alone.probability_T, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together[0].scores_TS, together[2].scores_TS)


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


def test_unknown_characters_stay_visible_and_an_empty_prompt_is_refused(model: GPT, trained: Checkpoint) -> None:
    (found,) = attribute(model, trained, ["a漢b"])
    assert found.prompt == "a漢b" and found.targets[:2] == "漢b"
    with pytest.raises(ValueError, match="prompt must have at least one character, got ''"):
        attribute(model, trained, ["a", ""])
    assert attribute(model, trained, []) == []


def test_rows_are_the_lower_triangle_and_shares_sum_to_one(model: GPT, trained: Checkpoint) -> None:
    (found,) = attribute(model, trained, ["not to be"])
    table = list(rows(found))
    places = [(row["target_position"], row["position"]) for row in table]
    assert places == [(t, s) for t in range(1, 10) for s in range(t)]
    shares = [0.0] * 10
    for row in table:
        t, s, share = row["target_position"], row["position"], row["share"]
        assert isinstance(t, int) and isinstance(s, int) and isinstance(share, float)
        assert row["character"] == "not to be"[s] and row["target"] == found.targets[t - 1]
        assert row["score"] == pytest.approx(float(found.scores_TS[t - 1, s]), rel=1e-6)
        assert row["probability"] == pytest.approx(float(found.probability_T[t - 1]), rel=1e-6)
        shares[t] += share
    assert shares[1:] == pytest.approx([1.0] * 9, abs=1e-5)


def test_an_untrained_model_already_looks_at_every_character(checkpoints: list[Checkpoint]) -> None:
    """What randomised weights look at is the baseline of every later map, so it must not be empty."""
    untrained = checkpoints[0]
    (found,) = attribute(untrained.build(), untrained, ["abc"])
    assert all(row["share"] > 0 for row in rows(found))


def test_the_summary_of_known_maps() -> None:
    """Equal shares over t + 1 characters: mean distance t / 2 and entropy ln(t + 1); one alone: its distance and 0."""
    even = Attribution("abc", torch.ones(3, 3).tril(), torch.ones(3), "bcd")
    first = Attribution("abc", torch.tensor([[2.0, 0, 0], [2.0, 0, 0], [2.0, 0, 0]]), torch.ones(3), "bcd")
    entropy = float(torch.arange(1.0, 4.0).log().mean())
    assert summarize([even]) == pytest.approx({"mean_distance_characters": 0.5, "entropy_nats": entropy})
    assert summarize([first]) == pytest.approx({"mean_distance_characters": 1.0, "entropy_nats": 0.0})
    assert summarize([even, first]) == pytest.approx({"mean_distance_characters": 0.75, "entropy_nats": entropy / 2})
    assert summarize([]) == {"mean_distance_characters": 0.0, "entropy_nats": 0.0}
