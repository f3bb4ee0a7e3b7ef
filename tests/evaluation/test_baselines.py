"""What a loss is compared with: baselines get better with what they read, distances and leaks are those of texts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from nanogpt.config import STRONGEST_COUNTS
from nanogpt.evaluation.baselines import HIGHEST_ORDER, baseline_rows, counted_bits, distance_rows, leakage_rows
from nanogpt.evaluation.metrics import code_bits
from nanogpt.evaluation.ngram import fit_ngram, ngram_losses
from nanogpt.text.corpus import Corpus, make_split


def test_baselines_get_better_with_what_they_read(corpora: dict[str, Corpus]) -> None:
    corpus = corpora["math"]
    test = corpus.test
    rows = {row["baseline"]: row["bits_per_byte"] for row in
            baseline_rows(corpus, test, counted_bits(fit_ngram(corpus.train, HIGHEST_ORDER), test))}
    assert rows["uniform"] > rows["unigram"] > rows["bigram"] > rows["3-gram"] > 0
    assert 0 < rows["xz"] < rows["unigram"] and 0 < rows["gzip"] < rows["unigram"]


def test_distances_of_each_two_and_leaks_of_all(corpora: dict[str, Corpus]) -> None:
    assert [(row["first"], row["second"]) for row in distance_rows(corpora)] == [
        ("shakespeare", "wikipedia"), ("shakespeare", "math"), ("wikipedia", "math")]
    rows = list(leakage_rows(corpora))
    assert len(rows) == 9 and all(row["shared_share"] < 0.05 for row in rows)
    for row in rows:
        assert (row["shared_characters"] >= 50) == bool(row["example"])
        assert row["example"][:50] in corpora[row["training"]].train.text


def test_counted_bits_are_those_of_the_ngrams_with_escapes(corpora: dict[str, Corpus]) -> None:
    corpus = corpora["shakespeare"]
    split = make_split(corpus.test.text[:300] + "漢𝔸", corpus.vocabulary)
    ngram = fit_ngram(corpus.train, HIGHEST_ORDER)
    bits = counted_bits(ngram, split)
    assert list(bits) == ["uniform", "unigram", "bigram", *(f"{n}-gram" for n in range(3, HIGHEST_ORDER + 1))]
    assert STRONGEST_COUNTS in bits, "the rival that models are tested against is one of them"
    assert bits["uniform"].tolist() == pytest.approx([math.log2(ngram.vocab_size)] * 300
                                                     + [math.log2(ngram.vocab_size) + 8 * n for n in (3, 4)])
    for name, loss_N in zip(list(bits)[1:], ngram_losses(ngram, split), strict=True):
        assert bits[name].tolist() == code_bits(loss_N, split.escape_bytes_N).tolist()


def test_a_copied_passage_is_a_leak_and_is_shown(corpora: dict[str, Corpus]) -> None:
    training, victim = corpora["shakespeare"], corpora["math"]
    passage = training.train.text[5000:5120]
    test = make_split(victim.test.text[:400] + passage + victim.test.text[400:500], victim.vocabulary)
    leaking = {"shakespeare": training, "math": replace(victim, test=test)}
    rows = {(row["training"], row["test"]): row for row in leakage_rows(leaking)}
    row = rows["shakespeare", "math"]
    assert 120 <= row["shared_characters"] <= 130 and passage[:40] in row["example"]
    assert row["shared_share"] == pytest.approx(row["shared_characters"] / 620)
