"""Probabilities of n-grams sum to 1, are those of a dictionary in plain Python, and get better with the text."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import pytest
import torch

from nanogpt.corpus import Corpus, Vocabulary, make_split
from nanogpt.ngram import fit_ngram, ngram_losses

ORDER = 6


def witten_bell(text: str, context: str, character: str, size: int) -> float:
    """The formula of the module's head, over the substrings of `text`."""
    follow: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for length in range(len(context) + 1):
        for i in range(length, len(text)):
            follow[text[i - length:i]][text[i]] += 1
    p = 1 / size
    for length in range(len(context) + 1):
        seen = follow[context[len(context) - length:]]
        if seen:
            p = (seen[character] + len(seen) * p) / (seen.total() + len(seen))
    return p


def test_probabilities_are_those_of_a_dictionary() -> None:
    vocabulary, training, test = Vocabulary("\nabcd"), "abracabadacabbadab\ncab", "bad\ncabdbbacad"
    losses_KN = ngram_losses(fit_ngram(make_split(training, vocabulary), 4), make_split(test, vocabulary))
    assert losses_KN.shape == (4, len(test)) and losses_KN.dtype == torch.float64
    known = "".join(c if c in vocabulary.characters else "?" for c in f"\n{training}")
    for k in range(4):
        for i, character in enumerate(test):
            context = f"\n{test[:i]}"[max(0, i + 1 - k):]
            assert math.exp(-losses_KN[k, i]) == pytest.approx(witten_bell(known, context, character, 6), rel=1e-12)


@pytest.mark.parametrize("context", ["", "q", "the ", "king of", "zqxjk", "☃☃☃"])
def test_probabilities_of_all_next_characters_sum_to_1(corpora: dict[str, Corpus], context: str) -> None:
    corpus = corpora["shakespeare"]
    ngram = fit_ngram(corpus.train, ORDER)
    p_VK = torch.stack([ngram_losses(ngram, make_split(context + character, corpus.vocabulary))[:, -1].neg().exp()
                        for character in ("\uffff", *corpus.vocabulary.characters)])
    torch.testing.assert_close(p_VK.sum(0), torch.ones(ORDER, dtype=torch.float64), rtol=1e-12, atol=0)
    assert (p_VK > 0).all()


def test_longer_contexts_help_and_a_lower_order_is_the_head_of_a_higher_one(corpora: dict[str, Corpus]) -> None:
    corpus = corpora["shakespeare"]
    losses_KN = ngram_losses(fit_ngram(corpus.train, ORDER), corpus.test)
    mean_K = losses_KN.mean(1).tolist()
    assert mean_K[0] > mean_K[1] > mean_K[2] > mean_K[3]
    assert torch.equal(ngram_losses(fit_ngram(corpus.train, 3), corpus.test), losses_KN[:3])


def test_order_must_be_positive(corpora: dict[str, Corpus]) -> None:
    with pytest.raises(ValueError, match="order must be >= 1, got 0"):
        fit_ngram(corpora["math"].train, 0)
