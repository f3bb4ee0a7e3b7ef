"""Probabilities of n-grams sum to 1, are those of a dictionary in plain Python, and get better with the text."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import pytest
import torch
from scipy.stats import entropy

from nanogpt.evaluation.ngram import divergences, fit_ngram, ngram_losses, table_log_p
from nanogpt.text.corpus import Corpus, joined, make_split, split_of
from nanogpt.text.splits import Stretch
from nanogpt.text.vocabulary import Vocabulary

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
    losses_by_order = ngram_losses(fit_ngram(make_split(training, vocabulary), 4), make_split(test, vocabulary))
    assert losses_by_order.shape == (4, len(test)) and losses_by_order.dtype == torch.float64
    known = "".join(c if c in vocabulary.characters else "?" for c in f"\n{training}")
    for k in range(4):
        for i, character in enumerate(test):
            context = f"\n{test[:i]}"[max(0, i + 1 - k):]
            expected = witten_bell(known, context, character, 6)
            assert math.exp(-losses_by_order[k, i]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("read", [1, 2, 9])
def test_what_stands_before_a_piece_is_its_context(order: int, read: int) -> None:
    """Up to the characters that it has before it, and never those of another piece."""
    vocabulary, training, text = Vocabulary("\nabcd"), "abracabadacabbadab\ncab", "bad\ncabdbbacadbcabba"
    stretches = [Stretch(0, 3, 0), Stretch(4, 5, 1), Stretch(8, 13, 2, context=7), Stretch(15, 20, 3, context=15)]
    split = split_of(text, stretches, vocabulary, read)
    losses_by_order = ngram_losses(fit_ngram(make_split(training, vocabulary), order), split)
    known = "".join(c if c in vocabulary.characters else "?" for c in f"\n{training}")
    expected = []
    for begin, end, _, limit in stretches:
        before = text[max(limit, begin - read):begin] or "\n"
        for i in range(begin, end):
            context = before + text[begin:i]
            expected.append([witten_bell(known, context[max(0, len(context) - k):], text[i], 6) for k in range(order)])
    torch.testing.assert_close(losses_by_order.T.neg().exp(), torch.tensor(expected, dtype=torch.float64),
                               rtol=1e-12, atol=0)


def test_a_piece_after_all_that_an_ngram_reads_costs_what_it_does_in_the_whole_text(corpora: dict[str, Corpus]) -> None:
    corpus = corpora["shakespeare"]
    ngram, text = fit_ngram(corpus.train, ORDER), corpus.test.text[:900]
    stretches = [Stretch(ORDER - 1, 40, 0), Stretch(200, 201, 1), Stretch(333, 900, 2)]
    whole = ngram_losses(ngram, make_split(text, corpus.vocabulary))
    found = ngram_losses(ngram, split_of(text, stretches, corpus.vocabulary, ORDER - 1))
    assert torch.equal(found, torch.cat([whole[:, begin:end] for begin, end, *_ in stretches], 1))
    parts = [make_split(text[:50], corpus.vocabulary), corpus.test, make_split("q", corpus.vocabulary)]
    assert torch.equal(ngram_losses(ngram, joined(parts)), torch.cat([ngram_losses(ngram, part) for part in parts], 1))


@pytest.mark.parametrize("context", ["", "q", "the ", "king of", "zqxjk", "☃☃☃"])
def test_probabilities_of_all_next_characters_sum_to_1(corpora: dict[str, Corpus], context: str) -> None:
    corpus = corpora["shakespeare"]
    ngram = fit_ngram(corpus.train, ORDER)
    splits = [make_split(context + character, corpus.vocabulary)
              for character in ("\uffff", *corpus.vocabulary.characters)]
    p_by_character = torch.stack([ngram_losses(ngram, split)[:, -1].neg().exp() for split in splits])
    torch.testing.assert_close(p_by_character.sum(0), torch.ones(ORDER, dtype=torch.float64), rtol=1e-12, atol=0)
    assert (p_by_character > 0).all()


def test_longer_contexts_help_and_a_lower_order_is_the_head_of_a_higher_one(corpora: dict[str, Corpus]) -> None:
    corpus = corpora["shakespeare"]
    losses_by_order = ngram_losses(fit_ngram(corpus.train, ORDER), corpus.test)
    mean_by_order = losses_by_order.mean(1).tolist()
    assert mean_by_order[0] > mean_by_order[1] > mean_by_order[2] > mean_by_order[3]
    assert torch.equal(ngram_losses(fit_ngram(corpus.train, 3), corpus.test), losses_by_order[:3])


def test_order_must_be_positive(corpora: dict[str, Corpus]) -> None:
    with pytest.raises(ValueError, match="order must be >= 1, got 0"):
        fit_ngram(corpora["math"].train, 0)


def test_tables_of_unigram_and_bigram_are_the_losses(corpora: dict[str, Corpus]) -> None:
    corpus = corpora["wikipedia"]
    ngram = fit_ngram(corpus.train, 2)
    log_p_V, log_p_VV = table_log_p(ngram)
    losses_by_order = ngram_losses(ngram, corpus.test)
    ids_N = corpus.test.ids_N.long()
    torch.testing.assert_close(-log_p_V[ids_N], losses_by_order[0])
    torch.testing.assert_close(-log_p_VV[corpus.test.previous_N, ids_N], losses_by_order[1])
    torch.testing.assert_close(log_p_VV.exp().sum(1), torch.ones(len(corpus.vocabulary), dtype=torch.float64))


def test_a_model_that_predicts_as_an_ngram_is_not_apart_from_it(corpora: dict[str, Corpus]) -> None:
    corpus, split = corpora["math"], corpora["math"].test.spread(300)
    ngram = fit_ngram(corpus.train, 2)
    log_p_V, log_p_VV = table_log_p(ngram)
    assert len(split.pieces) > 1
    before = [before for piece in split.pieces for before in
              (*piece.context_C[-1:].tolist(), *split.ids_N[piece.begin:piece.end - 1].tolist())]
    predictions = {"uniform": torch.zeros(len(split), len(corpus.vocabulary)),
                   "unigram": log_p_V.expand(len(split), -1) + 3.0, "bigram": log_p_VV[before]}
    for name, logits_NV in predictions.items():
        by_ngram = divergences(logits_NV, split, ngram)
        for other, nats in by_ngram.items():
            assert nats == pytest.approx(0, abs=1e-5) if other.startswith(name) else nats > 0.1


def test_divergence_is_scipys(corpora: dict[str, Corpus]) -> None:
    corpus = corpora["math"]
    split = make_split(corpus.test.text[:40], corpus.vocabulary)
    logits_NV = torch.randn(40, len(corpus.vocabulary), generator=torch.Generator().manual_seed(0))
    ngram = fit_ngram(corpus.train, 2)
    expected = entropy(logits_NV.double().softmax(-1).numpy(), table_log_p(ngram)[0].exp().expand(40, -1), axis=1)
    assert divergences(logits_NV, split, ngram)["unigram_divergence_nats"] == pytest.approx(expected.mean(), rel=1e-5)
