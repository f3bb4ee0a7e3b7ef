"""What a loss is compared with: baselines get better with what they read, distances and leaks are those of texts."""

from __future__ import annotations

import math
import random
import textwrap
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest

from nanogpt.config import STRONGEST_COUNTS
from nanogpt.evaluation.baselines import HIGHEST_ORDER, baseline_rows, counted_bits, distance_rows, leakage_rows
from nanogpt.evaluation.metrics import code_bits
from nanogpt.evaluation.ngram import fit_ngram, ngram_losses
from nanogpt.report.findings import leaks
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
        assert row["approximate_share"] >= row["shared_share"], "an exact copy is a near one too"


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


def exact(passage: str, rng: random.Random) -> str:
    return passage


def rewrapped(passage: str, rng: random.Random) -> str:
    return textwrap.fill(passage, 37)


def one_in_40_changed(passage: str, rng: random.Random) -> str:
    changed = set(rng.sample(range(len(passage)), len(passage) // 40))
    return "".join(rng.choice("xyz") if i in changed else character for i, character in enumerate(passage))


def shouted_without_punctuation(passage: str, rng: random.Random) -> str:
    return passage.upper().translate(str.maketrans({",": " –", ".": "!"}))


def made_up_text(characters: int, rng: random.Random) -> str:
    """Lines of words, some of them frequent, so that phrases come again."""
    lexicon = ["".join(random.Random(i).choices("etaoinshrdlu", k=1 + i % 9)) for i in range(400)]
    words = rng.choices(lexicon, [1 / (rank + 1) for rank in range(len(lexicon))], k=characters)
    marked = (word + rng.choice(["", "", "", ",", "."]) for word in words)
    return textwrap.fill(" ".join(marked)[:characters], 70)


@pytest.mark.parametrize("copy", [exact, rewrapped, one_in_40_changed, shouted_without_punctuation])
def test_a_planted_passage_of_two_per_cent_is_warned_of(corpora: dict[str, Corpus],
                                                        copy: Callable[[str, random.Random], str]) -> None:
    for seed in range(4):
        rng = random.Random(seed)
        training, clean = made_up_text(150_000, rng), made_up_text(50_000, rng)
        place = rng.randrange(140_000)
        planted = clean[:20_000] + copy(training[place:place + 1000], rng) + clean[21_000:]
        of_text = {name: replace(corpora["math"], train=make_split(training, corpora["math"].vocabulary),
                                 test=make_split(text, corpora["math"].vocabulary))
                   for name, text in (("clean", clean), ("planted", planted))}
        for name, corpus in of_text.items():
            (row,) = leakage_rows({name: corpus})
            assert bool(leaks(pd.DataFrame([row]))) == (name == "planted")
            assert row["approximate_share"] < 0.025 and bool(row["approximate_example"]) >= (name == "planted")
