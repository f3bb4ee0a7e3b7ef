"""Distances of texts against scipy and brute force; leaks are found to the character."""

from __future__ import annotations

import gzip
import math
import random

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from sklearn.feature_extraction.text import CountVectorizer

from nanogpt.text.corpus import Corpus
from nanogpt.text.overlap import (
    COMPRESSORS,
    compressed_bits_per_byte,
    compression_distance,
    shared_spans,
    trigram_divergence,
    vocabulary_overlap,
)


def test_trigram_divergence_is_scipys(corpora: dict[str, Corpus]) -> None:
    first, second = (corpora[name].train.text[:5000] for name in ("shakespeare", "math"))
    counts = CountVectorizer(analyzer="char", ngram_range=(3, 3), lowercase=False).fit_transform(
        [first.replace("\n", "¶").replace("  ", " ¤"), second.replace("\n", "¶").replace("  ", " ¤")]).toarray()
    expected = jensenshannon(counts[0], counts[1], base=2) ** 2
    divergence = trigram_divergence(*(text.replace("\n", "¶").replace("  ", " ¤") for text in (first, second)))
    assert divergence == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", [trigram_divergence, compression_distance])
def test_a_text_is_nearest_to_itself_and_to_its_own_domain(corpora: dict[str, Corpus], distance) -> None:
    own = corpora["shakespeare"].train.text
    half, other_half, far = own[:15_000], own[15_000:30_000], corpora["math"].train.text[:15_000]
    assert distance(half, half) < distance(half, other_half) < distance(half, far) <= 1.05
    assert distance(half, far) == pytest.approx(distance(far, half), rel=0.02)


def test_extremes() -> None:
    assert vocabulary_overlap("ab", "bc") == 1 / 3 and vocabulary_overlap("", "") == 1
    assert trigram_divergence("aaaa", "bbbb") == 1 and trigram_divergence("", "") == 0


def test_a_compressor_learns_from_the_training_text() -> None:
    noise = "".join(random.Random(0).choices("abcdefghijklmnop", k=4000))
    for compress in COMPRESSORS.values():
        assert 4 <= compressed_bits_per_byte("", noise, compress) < 5, "16 letters cost 4 bits each"
        assert compressed_bits_per_byte(noise, noise, compress) < 1
    assert math.isnan(compressed_bits_per_byte("abc", "", gzip.compress))


def test_leaked_characters_are_those_of_shared_substrings() -> None:
    rng = random.Random(1)
    training = "".join(rng.choices("abcd", k=3000))
    test = "".join(rng.choices("abcd", k=200)) + training[700:760] + "x" + training[100:149] + training[:51]
    spans = {training[i:i + 50] for i in range(len(training) - 49)}
    expected = np.zeros(len(test), bool)
    for i in range(len(test) - 49):
        if test[i:i + 50] in spans:
            expected[i:i + 50] = True
    shared_N, again = shared_spans(training, [test, training])
    assert again.all()
    assert shared_N.tolist() == expected.tolist() and 110 <= shared_N.sum() <= 114


def test_short_texts_share_nothing() -> None:
    for training, test in (("a" * 49, "a" * 80), ("a" * 80, "a" * 49), ("", "")):
        (shared_N,) = shared_spans(training, [test])
        assert len(shared_N) == len(test) and not shared_N.any()
