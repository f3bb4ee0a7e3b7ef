"""Groups hold every character once; their losses add up to the whole; examples by hand."""

from __future__ import annotations

import pytest
import torch

from nanogpt.evaluation.breakdown import (
    breakdown,
    character_class,
    context_grouping,
    frequency_grouping,
    text_groupings,
    word_places,
)
from nanogpt.evaluation.evaluate import evaluate
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.text.corpus import Corpus, make_split
from nanogpt.text.vocabulary import Vocabulary


def test_groups_add_up_to_the_text(trained: Checkpoint, corpora: dict[str, Corpus]) -> None:
    split = corpora["wikipedia"].test.spread(700)
    result = evaluate(trained.build(), trained, split)
    groupings = [*text_groupings(split), frequency_grouping(split, trained.character_counts_V)]
    for grouping in groupings:
        assert grouping.index_N.min() >= 0 and grouping.index_N.max() < len(grouping.groups)
        rows = list(breakdown(result.scores.loss_N, result.bits_N, [grouping]))
        assert sum(row["characters"] for row in rows) == len(split)
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert sum(row["loss_share"] for row in rows) == pytest.approx(1)
        assert sum(row["share"] * row["nats_per_character"] for row in rows) == pytest.approx(result.nats_per_character)
    unseen = next(row for row in breakdown(result.scores.loss_N, result.bits_N, groupings[-1:])
                  if row["group"] == "unseen")
    assert unseen["share"] == pytest.approx(result.unseen_share)
    assert unseen["loss_share"] == pytest.approx(result.unseen_loss_share)


@pytest.mark.parametrize(("characters", "name"), [
    ("aZéж", "letter"), ("07²", "digit"), (" \t\u00a0", "whitespace"), ("\n", "newline"), (".,;-!'/", "punctuation"),
    ("+=<∫\\^_{}$", "mathematical symbol"), ("©\u0301", "other")])
def test_classes(characters: str, name: str) -> None:
    assert {character_class(character) for character in characters} == {name}


def test_places_in_words() -> None:
    assert word_places("To beautiful, x") == [0, 1, 6, 0, 1, 2, 3, 4, 5, 5, 5, 5, 6, 6, 0]


@pytest.mark.parametrize("block_size", [1, 2, 3, 8, 9, 32, 100])
def test_groups_of_context_say_how_much_was_read(block_size: int) -> None:
    """In any order; each group from its first number to its last, and no group that none can be in but "1"."""
    before_N = torch.arange(block_size).repeat(2).flip(0)
    context = context_grouping(before_N, block_size)
    ranges = [[int(number) for number in group.split(" to ")] for group in context.groups]
    for before, index in zip(before_N.tolist(), context.index_N.tolist(), strict=True):
        assert ranges[index][0] <= before <= ranges[index][-1]
    assert [number for first, *last in ranges for number in range(first, (last or [first])[0] + 1)] == [
        *range(max(2, block_size))]


def test_frequency_is_that_of_the_training_text() -> None:
    vocabulary = Vocabulary("abcde")
    grouping = frequency_grouping(make_split("abcdeX", vocabulary), torch.tensor([0, 99_000, 985, 10, 5, 0]))
    assert [grouping.groups[i] for i in grouping.index_N] == [
        "1 % and more", "below 1 %", "below 0.1 %", "below 0.01 %", "unseen", "unseen"]
