"""Characters to ids and back; which characters a vocabulary takes from texts."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from nanogpt.text.corpus import Corpus
from nanogpt.text.vocabulary import UNKNOWN, Vocabulary


def test_encoding_and_decoding_are_inverse_for_known_characters(corpora: dict[str, Corpus]) -> None:
    for corpus in corpora.values():
        known = "".join(c for c in corpus.test.text if c in corpus.vocabulary.index)
        assert corpus.vocabulary.decode(corpus.vocabulary.encode(known)) == known
    vocabulary = Vocabulary("ab")
    assert vocabulary.encode("aXbé").tolist() == [1, UNKNOWN, 2, UNKNOWN]
    assert vocabulary.decode([2, UNKNOWN, 1]) == "b\N{REPLACEMENT CHARACTER}a"
    assert vocabulary.decode([2, UNKNOWN], unknown="") == "b"
    assert vocabulary.unknown_in("zabézz") == "zé"
    assert vocabulary.encode("").shape == (0,) and vocabulary.encode("").dtype == torch.int64


@pytest.mark.parametrize("characters", ["ba", "aa", "abca"])
def test_an_unsorted_or_repeating_vocabulary_is_refused(characters: str) -> None:
    with pytest.raises(ValueError, match="vocabulary must be sorted and without repetition, got"):
        Vocabulary(characters)


def test_the_start_is_a_new_line_where_the_vocabulary_has_one() -> None:
    assert Vocabulary("\na").start_id == 1 and Vocabulary("ab").start_id == UNKNOWN


def test_a_vocabulary_takes_what_all_texts_together_hold_often_enough() -> None:
    texts = ["banana", "bandit", "dé\n"]
    counts = Counter("".join(texts))
    for least in (1, 2, 3, 7):
        expected = sorted(character for character, count in counts.items() if count >= least)
        assert list(Vocabulary.of(texts, least).characters) == expected
    assert len(Vocabulary.of([], 1)) == 1, "<unk> alone"


def test_vocabularies_are_equal_where_their_characters_are_and_digests_tell_them_apart() -> None:
    first, same, other = Vocabulary("ab"), Vocabulary("ab"), Vocabulary("ac")
    assert first == same != other and first.sha256 == same.sha256 != other.sha256
    assert len(first) == 3 and set(first.index.values()) == {1, 2}
